//! What the handles of one manager share: the token, the policy's state, and the flight in the air.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::evidence::{Endpoint, Marks, Open};
use super::flight::{self, Flight, Outcome};
use super::gate::{RefreshGate, RefreshOutcome};
use super::policy::{Asker, Cached, Decision, Departure, Event, Policy};
use super::source::ErasedSource;
use super::{AccessToken, TokenError, Why};
use crate::metrics;
use crate::warnings::Seldom;

pub(super) struct Shared {
    source: Box<dyn ErasedSource>,
    pub(super) account: OnceLock<Arc<str>>,
    pub(super) current: ArcSwapOption<Cached>,
    state: Mutex<State>,
    issue_timeout: Duration,
    /// Told whenever a flight ends, for the timers of `keep_fresh`.
    pub(super) landed: Notify,
    rival_warning: Seldom,
    /// How many rejections have been received.
    rejections: AtomicU64,
    doubts: Mutex<Open>,
    /// Whether `doubts` may hold any: an accepted call looks no further if it does not.
    in_doubt: AtomicBool,
}

pub(super) struct State {
    pub(super) policy: Policy,
    /// The one that the policy knows to be in the air.
    flight: Option<Flight>,
}

/// What a question leads to.
pub(super) enum Next {
    Have(AccessToken),
    Give(TokenError),
    Join(Flight),
    TookOff(Flight),
    AskGate,
}

impl Shared {
    pub(super) fn new(
        source: Box<dyn ErasedSource>,
        account: Option<Arc<str>>,
        policy: Policy,
    ) -> Self {
        Shared {
            source,
            account: account.map(OnceLock::from).unwrap_or_default(),
            current: ArcSwapOption::empty(),
            issue_timeout: policy.issue_timeout(),
            state: Mutex::new(State {
                policy,
                flight: None,
            }),
            landed: Notify::new(),
            rival_warning: Seldom::default(),
            rejections: AtomicU64::new(0),
            doubts: Mutex::default(),
            in_doubt: AtomicBool::new(false),
        }
    }

    pub(super) fn account(&self) -> Option<&str> {
        self.account.get().map(|account| &**account)
    }

    /// Never held across an await, and nothing of a user's runs under it: no source, no gate, no
    /// subscriber of `tracing`'s, and no `spawn`, which drops the task at once on a runtime that is
    /// shut down.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Asks the policy; starts a flight if it says so, which tells `gate` how it ended.
    pub(super) fn next(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        why: &Why,
        asker: Asker,
        gate: Option<&Arc<dyn RefreshGate>>,
    ) -> Next {
        let current = self.current.load_full();
        let runtime = Handle::try_current();
        let now = Instant::now();
        if runtime.is_err() {
            return match current.filter(|current| current.token.lives_at(now)) {
                Some(current) if why.rejected() != Some(&current.token) => {
                    Next::Have(current.token.clone())
                }
                _ => Next::Give(TokenError::NoRuntime),
            };
        }
        let (decision, event) = state.policy.ask(why, current.as_deref(), asker, now);
        let departure = match decision {
            Decision::TakeOff(departure) => departure,
            other => {
                let flight = state.flight.clone();
                drop(state);
                self.tell(event, None);
                return match (other, flight) {
                    (Decision::Have(token), _) => Next::Have(token),
                    (Decision::Join, Some(flight)) => Next::Join(flight),
                    (Decision::AskGate, _) => Next::AskGate,
                    (Decision::Refuse(error), _) => {
                        metrics::refresh_refused(self.account.get(), why, &error);
                        Next::Give(error)
                    }
                    // The policy joins only what is in the air.
                    (Decision::Join | Decision::TakeOff(_), _) => Next::Give(TokenError::NoRuntime),
                };
            }
        };
        let (flight, pilot) = self.prepare(departure, gate);
        state.flight = Some(flight.clone());
        drop(state);
        self.tell(event, None);
        tracing::debug!(
            account = self.account(),
            rejected = why.rejected().is_some(),
            "asking for an access_token"
        );
        if let Ok(runtime) = runtime {
            runtime.spawn(pilot.fly());
        }
        Next::TookOff(flight)
    }

    fn prepare(
        self: &Arc<Self>,
        departure: Departure,
        gate: Option<&Arc<dyn RefreshGate>>,
    ) -> (Flight, Pilot) {
        let (landing, watch) = watch::channel(None);
        let flight = Flight {
            why: departure.why.clone(),
            forced: departure.forced,
            overdue: departure.overdue,
            landing: watch,
        };
        let pilot = Pilot {
            shared: Arc::clone(self),
            gate: gate.cloned(),
            departure,
            landing,
        };
        (flight, pilot)
    }

    /// How many rejections have been received.
    pub(super) fn rejections(&self) -> u64 {
        self.rejections.load(Ordering::Acquire)
    }

    /// A call of `endpoint` was rejected with `token`: should that be accepted for a call that is
    /// sent from now on, the rejection says nothing about the token.
    pub(super) fn doubt(
        &self,
        token: &AccessToken,
        endpoint: &Endpoint,
        marks: &Arc<Marks>,
        now: Instant,
    ) {
        let mut doubts = self.doubts();
        let number = self.rejections.fetch_add(1, Ordering::AcqRel) + 1;
        doubts.add(token, endpoint, marks, number, now);
        self.in_doubt.store(true, Ordering::Release);
    }

    /// `token` was accepted for a call that was sent when `sent_after` rejections had been
    /// received.
    pub(super) fn accepted(&self, token: &AccessToken, sent_after: u64) {
        if !self.in_doubt.load(Ordering::Acquire) {
            return;
        }
        let mut doubts = self.doubts();
        doubts.accepted(token, sent_after, Instant::now());
        self.in_doubt.store(!doubts.is_empty(), Ordering::Release);
    }

    /// A call of `endpoint` was accepted with a new token.
    pub(super) fn useful(&self, endpoint: &Endpoint, marks: &Arc<Marks>) {
        // In this order, as who marks an endpoint holds the doubts.
        let mut doubts = self.doubts();
        doubts.useful(endpoint, marks);
        marks.useful(endpoint);
        self.in_doubt.store(!doubts.is_empty(), Ordering::Release);
    }

    fn doubts(&self) -> MutexGuard<'_, Open> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Option<Event>, outcome: Option<&Outcome>) {
        let account = self.account();
        let token = outcome.and_then(|outcome| outcome.as_ref().ok());
        let seconds = token.map(|token| token.expires_in().as_secs());
        match event {
            None => {}
            Some(Event::Renewed) => tracing::debug!(account, seconds, "a new access_token"),
            Some(Event::Recovered) => {
                tracing::info!(account, seconds, "there is an access_token again");
            }
            Some(Event::Failed) => {
                if let Some(Err(error)) = outcome {
                    let now = Instant::now();
                    let current = self.current.load();
                    let kept = current.as_ref().is_some_and(|c| c.token.lives_at(now));
                    tracing::warn!(account, %error, old_token_kept = kept, "no new access_token");
                }
            }
            Some(Event::BudgetSpent) => tracing::warn!(
                account,
                "tokens are rejected again and again, and the refresh budget is used up: calls that \
                 are rejected are not sent again. Something else may be refreshing this account, or \
                 requests may hold an `access_token` of their own in their body"
            ),
            Some(Event::Rival(age)) if self.rival_warning.is_due() => tracing::warn!(
                account,
                age_seconds = age.as_secs(),
                "an access_token was rejected soon after it was issued: something else refreshes \
                 this account's token"
            ),
            Some(Event::Rival(_)) => {}
        }
    }
}

/// Sees to it that a flight never stays in the manager after its task is gone, or if there never
/// was one.
struct Pilot {
    shared: Arc<Shared>,
    gate: Option<Arc<dyn RefreshGate>>,
    departure: Departure,
    landing: watch::Sender<Option<Outcome>>,
}

impl Pilot {
    async fn fly(self) {
        let shared = &self.shared;
        let outcome =
            flight::issue(&*shared.source, &self.departure.why, shared.issue_timeout).await;
        self.land(outcome);
    }

    fn land(self, outcome: Outcome) {
        let shared = &self.shared;
        let now = Instant::now();
        let mut state = shared.lock();
        let landed = state.policy.landed(self.departure.id, &outcome, now);
        if landed.is_some() {
            state.flight = None;
        }
        if let (Some(landed), Ok(token)) = (&landed, &outcome) {
            if let Some(renew_at) = landed.renew_at {
                // Fetched first and swapped now: there is no moment without a token.
                shared.current.store(Some(Arc::new(Cached {
                    token: token.clone(),
                    renew_at,
                })));
            }
        }
        drop(state);
        if let Some(landed) = landed {
            let free = landed.free;
            shared.tell(landed.event, Some(&outcome));
            metrics::refreshed(shared.account.get(), &self.departure.why, &outcome);
            if let (Some(gate), Some(rejected)) = (&self.gate, self.departure.why.rejected()) {
                let how = match free {
                    true => RefreshOutcome::Free,
                    false => RefreshOutcome::Renewed,
                };
                gate.outcome(rejected, how);
            }
        }
        self.landing.send_replace(Some(outcome));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        // One that was taken for lost has been replaced, and may not disturb what came after.
        if state.policy.is_in_air(self.departure.id) {
            state.policy.lost(self.departure.id);
            state.flight = None;
        }
        drop(state);
        self.shared.landed.notify_waiters();
    }
}
