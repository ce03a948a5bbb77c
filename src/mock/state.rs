use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::account::{Account, Identity};
use super::failure::Failure;
use super::own_reply::OwnReplies;
use super::record::Log;
use super::tokens::Terms;

/// What all connections of one server share.
pub(super) struct State {
    /// One at least.
    pub(super) accounts: Vec<Identity>,
    inner: Mutex<Inner>,
}

/// What the controls and the requests change.
pub(super) struct Inner {
    /// In the order of the [`State`]'s.
    pub(super) accounts: Vec<Account>,
    pub(super) settings: Settings,
    pub(super) log: Log,
    pub(super) replies: OwnReplies,
    token_failures: VecDeque<Failure>,
    api_failures: VecDeque<Failure>,
}

pub(super) struct Settings {
    pub(super) token_delay: Duration,
    pub(super) api_delay: RangeInclusive<Duration>,
    pub(super) reject_every_token: Option<i64>,
    pub(super) answer_early: bool,
    pub(super) accept_chunked: bool,
}

impl State {
    pub(super) fn new(accounts: Vec<Identity>, terms: &Terms, settings: Settings) -> State {
        State {
            inner: Mutex::new(Inner {
                accounts: accounts.iter().map(|_| Account::new(terms)).collect(),
                settings,
                log: Log::default(),
                replies: OwnReplies::default(),
                token_failures: VecDeque::new(),
                api_failures: VecDeque::new(),
            }),
            accounts,
        }
    }

    /// Never held across an await. A test that panics elsewhere leaves nothing half done in here.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(super) fn queue(&mut self, failure: Failure) {
        if failure.is_token() {
            self.token_failures.push_back(failure);
        } else {
            self.api_failures.push_back(failure);
        }
    }

    pub(super) fn next_token_failure(&mut self) -> Option<Failure> {
        self.token_failures.pop_front()
    }

    pub(super) fn next_api_failure(&mut self) -> Option<Failure> {
        self.api_failures.pop_front()
    }
}

impl Settings {
    pub(super) fn draw_api_delay(&self) -> Duration {
        let (shortest, longest) = (*self.api_delay.start(), *self.api_delay.end());
        shortest.saturating_add(longest.saturating_sub(shortest).mul_f64(fastrand::f64()))
    }
}

/// Zero is no wait at all, rather than a timer's tick.
pub(super) async fn wait(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}
