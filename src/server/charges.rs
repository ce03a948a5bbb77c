//! Who pays for a refresh (S6).
//!
//! What WeChat allows is the account's, and one client must not use up what the others need. So a
//! refresh is charged to the client that caused it when it takes off: after that the client could
//! hang up. It gets the charge back if the call is accepted when it is sent again, if the refresh
//! cost nothing, or if another client's call was rejected with the same token before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::token::{AccessToken, Budget, RateLimit, RefreshGate, RefreshOutcome};
use crate::warnings::Seldom;

/// How many rejections are remembered, and for how long: those of one token come together.
const MOST_REPORTS: usize = 64;
const REPORTED_FOR: Duration = Duration::from_secs(60);

/// How many charges may wait for what becomes of the call.
const MOST_CHARGES: usize = 64;

/// What the clients of one account share.
pub(super) struct Ledger {
    reports: Mutex<VecDeque<Report>>,
    /// What the account has left, as far as these clients know: the manager counts by itself.
    left: Mutex<Budget>,
    /// Whether the last one is kept: not for the only client.
    keeps_last: bool,
}

struct Report {
    client: Arc<str>,
    token: AccessToken,
    at: Instant,
}

impl Ledger {
    pub(super) fn new(account: RateLimit, clients: usize) -> Self {
        Ledger {
            reports: Mutex::default(),
            left: Mutex::new(Budget::new(account)),
            keeps_last: clients > 1,
        }
    }

    /// Whether there is one for a client that has had some already, or for one that has had none.
    /// The last one is for those who have had none: two clients that are wrong leave it to a third.
    fn has_one_for(&self, has_had_some: bool, now: Instant) -> bool {
        lock(&self.left).left(now) > u32::from(has_had_some && self.keeps_last)
    }

    fn take(&self, now: Instant) {
        lock(&self.left).take(now);
    }

    fn give_back(&self) {
        lock(&self.left).give_back();
    }

    fn report(&self, client: &Arc<str>, token: &AccessToken, now: Instant) {
        let mut reports = lock(&self.reports);
        reports.retain(|report| now < report.at + REPORTED_FOR);
        let mut known = reports.iter();
        if known.any(|report| report.client == *client && report.token == *token) {
            return;
        }
        if reports.len() >= MOST_REPORTS {
            reports.pop_front();
        }
        reports.push_back(Report {
            client: Arc::clone(client),
            token: token.clone(),
            at: now,
        });
    }

    /// Whether a call of another client was rejected with `token`. Only before it is replaced: a
    /// forced refresh voids the token for everybody, so what is rejected later proves nothing.
    fn is_confirmed(&self, client: &Arc<str>, token: &AccessToken, now: Instant) -> bool {
        lock(&self.reports).iter().any(|report| {
            report.client != *client && report.token == *token && now < report.at + REPORTED_FOR
        })
    }
}

/// What one client may have of an account's refreshes.
pub(super) struct Share {
    client: Arc<str>,
    account: Arc<str>,
    ledger: Arc<Ledger>,
    limit: RateLimit,
    state: Mutex<State>,
    spent: Seldom,
}

struct State {
    budget: Budget,
    /// The tokens whose replacement was charged, until it is known what became of it.
    charged: VecDeque<AccessToken>,
}

/// Half of what the account has, so that one client leaves the others as much; all of it if there
/// are no others.
pub(super) fn share_of(account: RateLimit, clients: usize) -> RateLimit {
    if clients < 2 {
        return account;
    }
    RateLimit::new(account.burst().div_ceil(2), account.per().saturating_mul(2))
}

impl Share {
    pub(super) fn new(
        client: &Arc<str>,
        account: &Arc<str>,
        ledger: &Arc<Ledger>,
        limit: RateLimit,
    ) -> Self {
        Share {
            client: Arc::clone(client),
            account: Arc::clone(account),
            ledger: Arc::clone(ledger),
            limit,
            state: Mutex::new(State {
                budget: Budget::new(limit),
                charged: VecDeque::new(),
            }),
            spent: Seldom::default(),
        }
    }

    fn may_have_one(&self, rejected: &AccessToken, now: Instant) -> bool {
        let mut state = lock(&self.state);
        let has_had_some = state.budget.left(now) < self.limit.burst();
        if !self.ledger.has_one_for(has_had_some, now) {
            return false;
        }
        if self.ledger.is_confirmed(&self.client, rejected, now) {
            return true;
        }
        if !state.budget.take(now) {
            return false;
        }
        if state.charged.len() >= MOST_CHARGES {
            state.charged.pop_front();
        }
        state.charged.push_back(rejected.clone());
        true
    }

    fn refund(&self, rejected: &AccessToken) {
        let mut state = lock(&self.state);
        let charged = state.charged.iter().position(|token| token == rejected);
        if charged.and_then(|at| state.charged.remove(at)).is_some() {
            state.budget.give_back();
        }
    }
}

impl RefreshGate for Share {
    fn reported(&self, rejected: &AccessToken) {
        self.ledger.report(&self.client, rejected, Instant::now());
    }

    fn take_off(&self, rejected: &AccessToken) -> bool {
        let now = Instant::now();
        if self.may_have_one(rejected, now) {
            self.ledger.take(now);
            return true;
        }
        if self.spent.is_due() {
            tracing::warn!(
                client = &*self.client,
                account = &*self.account,
                "this client's calls have had the access_token replaced as often as its refresh_limit \
                 allows, and cause no refresh for now: something else may be refreshing the account, \
                 or its calls may hold an `access_token` of their own in their body"
            );
        }
        false
    }

    fn outcome(&self, rejected: &AccessToken, outcome: RefreshOutcome) {
        match outcome {
            RefreshOutcome::Free => {
                self.ledger.give_back();
                self.refund(rejected);
            }
            RefreshOutcome::ReplayAccepted => self.refund(rejected),
            RefreshOutcome::Renewed => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
