//! All connections: whether there is a place for one more, and who has to go for it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bounds::Bounds;
use super::standing::{Standing, Turn};
use crate::warnings::Seldom;

/// For how many new connections one look at all others is enough.
const AT_A_TIME: usize = 64;

/// How long there are fewer connections when the system had no room: whoever else uses it up may
/// have ended by then.
const FEWER_FOR: Duration = Duration::from_secs(60);

pub(super) struct Crowd {
    bounds: Arc<Bounds>,
    connections: HashMap<u64, Entry>,
    by_address: HashMap<IpAddr, usize>,
    next: u64,
    /// Who has been asked to go for another one, and who is to be next.
    leaving: Option<u64>,
    next_to_go: Vec<Candidate>,
    /// How many there may be, and until when, where the system has not room for as many as the
    /// bounds have.
    fewer: Option<(usize, Instant)>,
    full: Seldom,
}

struct Entry {
    standing: Arc<Standing>,
    address: IpAddr,
}

/// Since when it has been dispensable, and its number.
type Candidate = ((Turn, u64), u64);

/// Whether there is a place.
pub(super) enum Place {
    Free,
    Later,
    Never,
}

impl Crowd {
    pub(super) fn new(bounds: Arc<Bounds>) -> Self {
        Crowd {
            bounds,
            connections: HashMap::new(),
            by_address: HashMap::new(),
            next: 0,
            leaving: None,
            next_to_go: Vec::new(),
            fewer: None,
            full: Seldom::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Takes in one more; its number.
    pub(super) fn enter(&mut self, standing: Arc<Standing>, peer: SocketAddr) -> u64 {
        let (number, address) = (self.next, network(peer));
        self.next += 1;
        self.connections.insert(number, Entry { standing, address });
        if self.bounds.connections_by_address.is_some() {
            *self.by_address.entry(address).or_default() += 1;
        }
        number
    }

    pub(super) fn forget(&mut self, number: u64) {
        let Some(entry) = self.connections.remove(&number) else {
            return;
        };
        if let Some(count) = self.by_address.get_mut(&entry.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&entry.address);
            }
        }
    }

    pub(super) fn place(&mut self, peer: SocketAddr) -> Place {
        let address = network(peer);
        if let Some(most) = self.bounds.connections_by_address {
            let count = self.by_address.get(&address).copied().unwrap_or(0);
            if count >= most {
                return match self.make_way_of(address) {
                    true => Place::Later,
                    false => Place::Never,
                };
            }
        }
        let connections = self.connections.len();
        if connections < self.most() {
            return Place::Free;
        }
        if self.full.is_due() {
            tracing::warn!(
                connections,
                "the server has as many connections as it takes: those that are idle or wait for their peers make way"
            );
        }
        self.make_way();
        Place::Later
    }

    fn most(&self) -> usize {
        match self.fewer {
            Some((fewer, until)) if Instant::now() < until => fewer,
            _ => self.bounds.connections,
        }
    }

    /// The system has no room for one more.
    pub(super) fn shrink(&mut self) {
        // A call at a gateway needs another file, for its connection to WeChat.
        let fewer = (self.connections.len() / 2).max(1);
        self.fewer = Some((fewer, Instant::now() + FEWER_FOR));
        self.make_way();
    }

    /// Asks one to go for another one, unless one is on its way out.
    fn make_way(&mut self) {
        let leaves = |number: &u64| {
            let entry = self.connections.get(number);
            entry.is_some_and(|entry| entry.standing.is_to_leave())
        };
        if self.leaving.as_ref().is_some_and(leaves) {
            return;
        }
        if self.next_to_go.is_empty() {
            self.next_to_go = self.dispensable(|_| true);
        }
        while let Some((since, number)) = self.next_to_go.pop() {
            let Some(entry) = self.connections.get(&number) else {
                continue;
            };
            if entry.standing.dispensable(self.bounds.patience) == Some(since) {
                entry.standing.make_way();
                self.leaving = Some(number);
                return;
            }
        }
    }

    /// The same, among those of one address; whether one goes.
    fn make_way_of(&self, address: IpAddr) -> bool {
        let own = |entry: &Entry| entry.address == address;
        let mut entries = self.connections.values();
        if entries.any(|entry| own(entry) && entry.standing.is_to_leave()) {
            return true;
        }
        let first = self.dispensable(own).pop();
        let entry = first.and_then(|(_, number)| self.connections.get(&number));
        if let Some(entry) = entry {
            entry.standing.make_way();
        }
        entry.is_some()
    }

    /// Some of those that have been dispensable longest, these last.
    fn dispensable(&self, counts: impl Fn(&Entry) -> bool) -> Vec<Candidate> {
        let counting = self.connections.iter().filter(|(_, entry)| counts(entry));
        let mut found: Vec<_> = counting
            .filter_map(|(number, entry)| {
                let since = entry.standing.dispensable(self.bounds.patience)?;
                Some((since, *number))
            })
            .collect();
        found.sort_unstable();
        // The rest may have changed by then.
        found.truncate(AT_A_TIME);
        found.reverse();
        found
    }

    /// Tells all to end when what is under way is done.
    pub(super) fn stop(&self) {
        for entry in self.connections.values() {
            entry.standing.stop();
        }
    }
}

/// What a client has for itself: an address, or with IPv6 a network of 64 bits.
fn network(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) => {
            let bits = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(bits))
        }
        address => address,
    }
}
