//! Failed attempts: whoever guesses is told no more slowly each time, and is told of in the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(4);

/// After so long without another failure an address starts anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// More addresses than these are counted as one: their number is not ours to choose.
const MOST_ADDRESSES: usize = 4096;

/// Waiting costs memory and a connection; past so many the answer comes at once.
const MOST_WAITING: usize = 512;

/// Counts them by address. Only failures wait: a good secret is answered at once, wherever it comes from.
pub(super) struct Failures {
    /// `None` where the address is not known, or there are too many.
    by_address: Mutex<HashMap<Option<IpAddr>, Failed>>,
    waiting: Semaphore,
}

struct Failed {
    times: u32,
    last: Instant,
}

impl Failures {
    pub(super) fn new() -> Self {
        Failures {
            by_address: Mutex::default(),
            waiting: Semaphore::new(MOST_WAITING),
        }
    }

    /// Tells of a failed attempt, and lets it wait.
    pub(super) async fn suffer(
        &self,
        address: Option<IpAddr>,
        appid: &str,
        client: Option<&str>,
        why: &str,
    ) {
        let times = self.count(address, Instant::now());
        tell(address, appid, client, why, times);
        if let Ok(_place) = self.waiting.try_acquire() {
            sleep(delay(times)).await;
        }
    }

    /// How often this address has failed of late.
    fn count(&self, address: Option<IpAddr>, now: Instant) -> u32 {
        let mut by_address = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_old = |failed: &Failed| now >= failed.last + FORGOTTEN_AFTER;
        let mut address = address;
        if !by_address.contains_key(&address) && by_address.len() >= MOST_ADDRESSES {
            by_address.retain(|_, failed| !is_old(failed));
            if by_address.len() >= MOST_ADDRESSES {
                address = None;
            }
        }
        let failed = by_address.entry(address).or_insert(Failed {
            times: 0,
            last: now,
        });
        if is_old(failed) {
            failed.times = 0;
        }
        failed.times = failed.times.saturating_add(1);
        failed.last = now;
        failed.times
    }
}

fn delay(times: u32) -> Duration {
    let doubled = FIRST_DELAY.saturating_mul(1 << times.saturating_sub(1).min(16));
    doubled.min(LONGEST_DELAY)
}

/// A warning for the first, second, fourth and so on: whoever tries a million times must not fill a disk.
fn tell(address: Option<IpAddr>, appid: &str, client: Option<&str>, why: &str, times: u32) {
    let address = address.map_or("unknown".into(), |address| address.to_string());
    // Whatever somebody sends as an appid.
    let appid: String = appid
        .chars()
        .take(64)
        .flat_map(char::escape_debug)
        .collect();
    if times.is_power_of_two() {
        tracing::warn!(%address, client, appid, times, "refused a token: {why}");
    } else {
        tracing::debug!(%address, client, appid, times, "refused a token: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_waits_longer_up_to_a_limit() {
        let delays = (1..=6).map(|times| delay(times).as_millis());
        assert!(delays.eq([250, 500, 1000, 2000, 4000, 4000]));
        assert_eq!(delay(u32::MAX), LONGEST_DELAY);
    }

    #[test]
    fn addresses_are_counted_each_by_itself_and_forgotten_in_the_end() {
        let failures = Failures::new();
        let now = Instant::now();
        let [one, other] = [1, 2].map(|n| Some(IpAddr::from([10, 0, 0, n])));
        assert_eq!(failures.count(one, now), 1);
        assert_eq!(failures.count(one, now), 2);
        assert_eq!(failures.count(other, now), 1);
        assert_eq!(failures.count(one, now + FORGOTTEN_AFTER), 1);
    }

    #[test]
    fn however_many_addresses_there_are_the_memory_is_bounded() {
        let failures = Failures::new();
        let now = Instant::now();
        for n in 0..2 * MOST_ADDRESSES as u32 {
            failures.count(Some(IpAddr::from(n.to_be_bytes())), now);
        }
        let counted = failures.by_address.lock().unwrap().len();
        assert_eq!(counted, MOST_ADDRESSES + 1);
        // And there is room again when they are old.
        let later = now + FORGOTTEN_AFTER;
        assert_eq!(failures.count(Some(IpAddr::from([255, 0, 0, 1])), later), 1);
        assert_eq!(failures.by_address.lock().unwrap().len(), 1);
    }
}
