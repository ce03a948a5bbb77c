//! How many calls are under way in one gateway, and how many of them are one client's.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::clients::Client;
use super::limits::share_of;

/// tower's `ConcurrencyLimit` gives a place back when the reply begins, and a download has only
/// begun then.
pub(super) struct Places {
    all: Arc<Semaphore>,
    by_client: HashMap<Arc<str>, Arc<Semaphore>>,
}

/// A place, until it is dropped.
pub(super) struct Held {
    _places: [OwnedSemaphorePermit; 2],
}

impl Places {
    /// `calls` in all. Where there are several clients, none gets more than half of them.
    pub(super) fn new<'a>(calls: usize, clients: impl Iterator<Item = &'a Client>) -> Self {
        let clients: Vec<_> = clients.map(|client| Arc::clone(&client.name)).collect();
        let calls = calls.min(Semaphore::MAX_PERMITS);
        let share = share_of(calls, clients.len());
        let places = |calls| Arc::new(Semaphore::new(calls));
        Places {
            all: places(calls),
            by_client: clients
                .into_iter()
                .map(|name| (name, places(share)))
                .collect(),
        }
    }

    /// A place for a call of `client`'s, if there is one now: whoever waits for one holds a
    /// connection.
    pub(super) fn take(&self, client: &Client) -> Option<Held> {
        let own = Arc::clone(self.by_client.get(&client.name)?);
        let own = own.try_acquire_owned().ok()?;
        let of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Held {
            _places: [own, of_all],
        })
    }
}
