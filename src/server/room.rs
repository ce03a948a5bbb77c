//! How many bytes of bodies one gateway keeps, and how many of them are one client's.

use std::collections::HashMap;
use std::sync::Arc;

use super::clients::Client;
use super::limits::{Limits, share_of};
use crate::body::ReplayBudget;

/// What is kept for replays, with a share for each client.
pub(super) struct Room {
    by_client: HashMap<Arc<str>, ReplayBudget>,
}

impl Room {
    /// Where there are several clients, none gets more than half, as of the places for calls.
    pub(super) fn new<'a>(limits: &Limits, clients: impl Iterator<Item = &'a Client>) -> Self {
        let clients: Vec<_> = clients.map(|client| Arc::clone(&client.name)).collect();
        let all = ReplayBudget::new(limits.replay_total);
        let share = share_of(limits.replay_total, clients.len());
        Room {
            by_client: clients
                .into_iter()
                .map(|name| (name, all.share(share)))
                .collect(),
        }
    }

    /// What is kept of this client's calls counts for this. A client that there is not keeps
    /// nothing.
    pub(super) fn of(&self, client: &Client) -> ReplayBudget {
        let own = self.by_client.get(&client.name).cloned();
        own.unwrap_or_else(|| ReplayBudget::new(0))
    }
}

/// How many bytes a body of this length may have: one of unknown length must be collected, since
/// WeChat wants a Content-Length, so it must fit into what is kept.
pub(super) fn longest(length: Option<u64>, limits: &Limits, room: &ReplayBudget) -> usize {
    match length {
        Some(_) => limits.body_bytes,
        None => limits
            .body_bytes
            .min(limits.replay_bytes)
            .min(room.largest_body()),
    }
}
