//! Failed attempts: whoever guesses waits for a moment, and stands in the log.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

/// What the first failures wait for, and no later one: about a second in all. SDKs ask for a token
/// under a lock, and one mistyped secret would hold up every caller of theirs. What keeps guesses
/// out is the length of secrets.
const DELAYS: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(250),
    Duration::from_millis(500),
];

/// After so long without another failure somebody starts anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Past so many, who failed longest ago is forgotten: their number is not ours to choose.
const MOST_KNOWN: usize = 4096;

/// Waiting costs memory and a connection. Past so many the answer comes at once; it is secrets too
/// long to be guessed that keep somebody out who has that many connections.
const MOST_WAITING: usize = 1024;
const MOST_WAITING_OF_ONE: usize = 32;

/// So many attempts are named in the log in a minute, whoever makes them. The others are counted.
const MOST_NAMED: u32 = 12;
const WINDOW: Duration = Duration::from_secs(60);

/// Counts them. Only failures wait: a good secret is answered at once, wherever it comes from.
pub(super) struct Failures {
    known: Mutex<HashMap<Who, Failed>>,
    waiting: Semaphore,
    log: Arc<Mutex<Log>>,
}

/// What the log has had of them.
struct Log {
    since: Instant,
    named: u32,
    /// Of this minute, for the line at its end.
    unnamed: u64,
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
            log: Arc::new(Mutex::new(Log {
                since: Instant::now(),
                named: 0,
                unnamed: 0,
            })),
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
        self.tell(address, appid, client, why, times);
        if let (Ok(_place), Ok(_own)) = (self.waiting.try_acquire(), own.try_acquire()) {
            sleep(delay(times)).await;
        }
    }

    /// A warning for the first, second, fourth and so on, and [`MOST_NAMED`] in a minute: whoever
    /// tries a million times, from as many addresses, must not fill a disk.
    fn tell(
        &self,
        address: Option<IpAddr>,
        appid: &str,
        client: Option<&str>,
        why: &str,
        times: u32,
    ) {
        let address = address.map_or("unknown".into(), |address| address.to_string());
        // Whatever somebody sends as an appid.
        let appid: String = appid
            .chars()
            .take(64)
            .flat_map(char::escape_debug)
            .collect();
        if times.is_power_of_two() && self.may_name(Instant::now()) {
            tracing::warn!(%address, client, appid, times, "refused a token: {why}");
        } else {
            tracing::debug!(%address, client, appid, times, "refused a token: {why}");
        }
    }

    /// Whether one more may be named. One that may not is counted, for one line at the end of the
    /// minute.
    fn may_name(&self, now: Instant) -> bool {
        let mut log = lock(&self.log);
        if now >= log.since + WINDOW && log.unnamed == 0 {
            (log.since, log.named) = (now, 0);
        }
        if log.named < MOST_NAMED {
            log.named += 1;
            return true;
        }
        log.unnamed += 1;
        if log.unnamed == 1 {
            tokio::spawn(sum_up(Arc::clone(&self.log), log.since + WINDOW));
        }
        false
    }

    /// How often these have failed of late, and the places in which their attempts wait.
    fn count(&self, who: Who, now: Instant) -> (u32, Arc<Semaphore>) {
        let mut known = lock(&self.known);
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
    let delay = DELAYS.get(times.saturating_sub(1) as usize);
    delay.copied().unwrap_or_default()
}

async fn sum_up(log: Arc<Mutex<Log>>, at: Instant) {
    sleep_until(at).await;
    let attempts = {
        let mut log = lock(&log);
        (log.since, log.named) = (Instant::now(), 0);
        std::mem::take(&mut log.unnamed)
    };
    tracing::warn!(
        attempts,
        "refused tokens, in the last minute, to more attempts than are named here"
    );
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn all_failures_together_wait_for_about_a_second() {
        let delays = (1..=6).map(|times| delay(times).as_millis());
        assert!(delays.eq([250, 250, 500, 0, 0, 0]));
        assert_eq!(delay(u32::MAX), Duration::ZERO);
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
        assert!(begun.elapsed() >= DELAYS[0]);
    }
}
