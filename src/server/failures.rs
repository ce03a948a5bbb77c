//! Failed attempts: whoever guesses is told no more slowly each time, and is told of in the log.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(4);

/// After so long without another failure somebody starts anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Past so many, who failed longest ago is forgotten: their number is not ours to choose.
const MOST_KNOWN: usize = 4096;

/// Waiting costs memory and a connection. Past so many the answer comes at once; it is secrets too long to be guessed that
/// keep somebody out who has that many connections.
const MOST_WAITING: usize = 1024;
const MOST_WAITING_OF_ONE: usize = 32;

/// Counts them. Only failures wait: a good secret is answered at once, wherever it comes from.
pub(super) struct Failures {
    known: Mutex<HashMap<Who, Failed>>,
    waiting: Semaphore,
}

/// Where an attempt came from, and whose it was, as far as that is known.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Who {
    network: Option<IpAddr>,
    client: Option<String>,
}

struct Failed {
    times: u32,
    last: Instant,
    waiting: Arc<Semaphore>,
}

impl Failures {
    pub(super) fn new() -> Self {
        Failures {
            known: Mutex::default(),
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
        let who = Who {
            network: address.map(network),
            client: client.map(str::to_owned),
        };
        let (times, own) = self.count(who, Instant::now());
        tell(address, appid, client, why, times);
        if let (Ok(_place), Ok(_own)) = (self.waiting.try_acquire(), own.try_acquire()) {
            sleep(delay(times)).await;
        }
    }

    /// How often these have failed of late, and the places in which their attempts wait.
    fn count(&self, who: Who, now: Instant) -> (u32, Arc<Semaphore>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN && !known.contains_key(&who) {
            let oldest = known.iter().min_by_key(|(_, failed)| failed.last);
            if let Some(oldest) = oldest.map(|(who, _)| who.clone()) {
                known.remove(&oldest);
            }
        }
        let failed = known.entry(who).or_insert_with(|| Failed {
            times: 0,
            last: now,
            waiting: Arc::new(Semaphore::new(MOST_WAITING_OF_ONE)),
        });
        if now >= failed.last + FORGOTTEN_AFTER {
            failed.times = 0;
        }
        failed.times = failed.times.saturating_add(1);
        failed.last = now;
        (failed.times, Arc::clone(&failed.waiting))
    }
}

/// Whoever has one address of version 6 has 64 bits of them.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
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

    fn who(network: impl Into<IpAddr>, client: Option<&str>) -> Who {
        Who {
            network: Some(super::network(network.into())),
            client: client.map(str::to_owned),
        }
    }

    fn count(failures: &Failures, who: Who, now: Instant) -> u32 {
        failures.count(who, now).0
    }

    #[test]
    fn each_failure_waits_longer_up_to_a_limit() {
        let delays = (1..=6).map(|times| delay(times).as_millis());
        assert!(delays.eq([250, 500, 1000, 2000, 4000, 4000]));
        assert_eq!(delay(u32::MAX), LONGEST_DELAY);
    }

    #[test]
    fn addresses_and_clients_are_counted_each_by_itself_and_forgotten_in_the_end() {
        let failures = Failures::new();
        let now = Instant::now();
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]];
        assert_eq!(count(&failures, who(one, None), now), 1);
        assert_eq!(count(&failures, who(one, None), now), 2);
        assert_eq!(count(&failures, who(one, Some("crm")), now), 1);
        assert_eq!(count(&failures, who(other, None), now), 1);
        assert_eq!(count(&failures, who(one, None), now + FORGOTTEN_AFTER), 1);
    }

    #[test]
    fn addresses_of_one_network_of_version_6_are_one() {
        let failures = Failures::new();
        let now = Instant::now();
        for number in 1..10 {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, number);
            assert_eq!(count(&failures, who(address, None), now), u32::from(number));
        }
        let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1);
        assert_eq!(count(&failures, who(elsewhere, None), now), 1);
    }

    #[test]
    fn however_many_addresses_there_are_the_memory_is_bounded_and_a_newcomer_starts_at_one() {
        let failures = Failures::new();
        let now = Instant::now();
        for n in 0..2 * MOST_KNOWN as u32 {
            let later = now + Duration::from_micros(n.into());
            assert_eq!(count(&failures, who(n.to_be_bytes(), None), later), 1);
        }
        assert_eq!(failures.known.lock().unwrap().len(), MOST_KNOWN);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_tries_in_parallel_takes_no_place_from_others() {
        let failures = Arc::new(Failures::new());
        let suffer = |address: [u8; 4]| {
            let failures = Arc::clone(&failures);
            let address = Some(address.into());
            tokio::spawn(async move { failures.suffer(address, "", None, "wrong secret").await })
        };
        let _greedy: Vec<_> = (0..2000).map(|_| suffer([10, 0, 0, 1])).collect();
        sleep(Duration::from_millis(1)).await;
        let begun = Instant::now();
        suffer([10, 0, 0, 2]).await.unwrap();
        assert!(begun.elapsed() >= FIRST_DELAY);
    }
}
