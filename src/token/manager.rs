use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tokio::sync::{Notify, futures::Notified, watch};
use tokio::time::Instant;

use super::budget::Budget;
use super::flight::{self, Flight, Outcome};
use super::source::ErasedSource;
use super::{AccessToken, KeepFresh, TokenError, TokenSource};

/// How long a refusal of WeChat's holds back further token requests.
const REFUSAL_MEMORY: Duration = Duration::from_secs(30);

/// A token that is rejected at a lower age than this was most likely voided by somebody else's
/// refresh: WeChat keeps the former token good for about five minutes.
const SUSPICIOUS_AGE: Duration = Duration::from_secs(600);

/// One account's token: cached, renewed ahead of expiry, refreshed once for everybody.
///
/// Clones are one manager. Use one for each account in a process, in as many layers as you like.
///
/// - A cached token is handed out without waiting and without a lock.
/// - However many callers need a new one, the source is asked once at a time, in a task of its own:
///   a caller that goes away cancels nothing, and one failure is shared by all who waited.
/// - Ahead of expiry (up to 270 s before it, with jitter; less for short lives) the first caller to
///   come by sets off a renewal and everybody goes on with the old token meanwhile. For a process
///   that calls rarely, [`keep_fresh`](TokenManager::keep_fresh) renews by a timer.
/// - A renewal that fails leaves the old token in use until it really expires.
/// - What a retry may cure (errcode -1, HTTP 5xx, a broken connection) is retried within
///   `issue_timeout`. What WeChat refuses (a wrong secret, a foreign address, no quota) is
///   remembered for 30 s, in which nothing is sent.
/// - [`refresh`](TokenManager::refresh) compares before it refreshes, and a budget bounds it.
///
/// Times are read from [`tokio::time`], so that tests can pause and move them.
///
/// ```
/// use std::time::Duration;
/// use tower_wechat::{AccessToken, TokenError, TokenManager, source_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), TokenError> {
/// let numbers = std::sync::atomic::AtomicU64::new(1);
/// let tokens = TokenManager::builder(source_fn(move |_rejected| {
///     let number = numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///     async move { Ok(AccessToken::new(format!("token-{number}"), Duration::from_secs(7200))) }
/// }))
/// .issue_timeout(Duration::from_secs(5))
/// .build();
///
/// let first = tokens.token().await?;
/// assert_eq!(first.secret(), "token-1");
/// assert_eq!(tokens.token().await?, first);
///
/// // WeChat has turned the first one down: get another. A second report of the same is a no-op.
/// assert_eq!(tokens.refresh(&first).await?.secret(), "token-2");
/// assert_eq!(tokens.refresh(&first).await?.secret(), "token-2");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenManager {
    shared: Arc<Shared>,
}

/// Sets a [`TokenManager`] up; made by [`TokenManager::builder`].
pub struct TokenManagerBuilder {
    source: Box<dyn ErasedSource>,
    settings: Settings,
    budget: Budget,
}

struct Settings {
    refresh_before: Option<Duration>,
    issue_timeout: Duration,
}

struct Shared {
    source: Box<dyn ErasedSource>,
    settings: Settings,
    current: ArcSwapOption<Cached>,
    state: Mutex<State>,
    /// Told whenever a flight ends, for the timers of `keep_fresh`.
    landed: Notify,
}

struct Cached {
    token: AccessToken,
    renew_at: Instant,
}

struct State {
    flight: Option<Flight>,
    flights: u64,
    refusal: Option<(TokenError, Instant)>,
    failures: u32,
    /// No renewal ahead of time before this.
    renewals_rest_until: Instant,
    budget: Budget,
    budget_warned: bool,
    suspicion_warned: Option<Instant>,
}

/// Why a token is wanted.
#[derive(Clone, Copy)]
enum Want<'a> {
    /// There is none, or it has expired.
    Any,
    /// WeChat has turned this one down.
    Instead(&'a AccessToken),
    /// The current one expires soon.
    Renewal,
}

/// What to do about it.
enum Next {
    Have(AccessToken),
    Give(TokenError),
    Wait(Flight),
}

impl TokenManager {
    /// A manager with the defaults of [`TokenManagerBuilder`].
    pub fn new(source: impl TokenSource) -> Self {
        TokenManager::builder(source).build()
    }

    /// Sets a manager up.
    pub fn builder(source: impl TokenSource) -> TokenManagerBuilder {
        TokenManagerBuilder {
            source: Box::new(source),
            settings: Settings {
                refresh_before: None,
                issue_timeout: Duration::from_secs(10),
            },
            budget: Budget::new(5, Duration::from_secs(60)),
        }
    }

    /// The current token, or a new one where there is none.
    ///
    /// # Errors
    ///
    /// Says why no token could be had. The next call asks anew, but for what WeChat refused within
    /// the last 30 s.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the token request goes on and fills the cache.
    pub async fn token(&self) -> Result<AccessToken, TokenError> {
        match self.ready_token() {
            Some(token) => Ok(token),
            None => self.obtain(Want::Any).await,
        }
    }

    /// A token other than `rejected`, which WeChat has just turned down.
    ///
    /// Asks the source only if the current token still is the rejected one, so that a late report
    /// about an old token does not throw the new one away. The source may give the rejected token
    /// again when it has no other.
    ///
    /// # Errors
    ///
    /// Says why no token could be had; [`TokenError::OverBudget`] when tokens were rejected more
    /// often than the budget allows. The rejected token then stays the current one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the token request goes on and fills the cache.
    pub async fn refresh(&self, rejected: &AccessToken) -> Result<AccessToken, TokenError> {
        self.obtain(Want::Instead(rejected)).await
    }

    /// The current token if there is one that lives; asks for nothing.
    pub fn cached(&self) -> Option<AccessToken> {
        let cached = self.shared.current.load();
        let token = &cached.as_ref()?.token;
        token.lives_at(Instant::now()).then(|| token.clone())
    }

    /// Renews the token ahead of its expiry, asked or not, while the guard lives.
    ///
    /// Gets the first token at once. A failure is tried again after 1 s, then ever more rarely, at
    /// most a minute apart.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_wechat::{AccessToken, TokenManager, source_fn};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// # let tokens = TokenManager::new(source_fn(|_| async {
    /// #     Ok(AccessToken::new("78_Zx0", Duration::from_secs(7200)))
    /// # }));
    /// let fresh = tokens.keep_fresh();
    /// # tokio::time::sleep(Duration::from_secs(20_000)).await;
    /// // Hours later, with nobody asking:
    /// assert!(tokens.cached().is_some());
    /// drop(fresh);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn keep_fresh(&self) -> KeepFresh {
        KeepFresh::start(self.clone())
    }

    /// The current token, without waiting; sets off its renewal where that is due.
    pub(crate) fn ready_token(&self) -> Option<AccessToken> {
        let cached = self.shared.current.load();
        let Cached { token, renew_at } = &**cached.as_ref()?;
        let now = Instant::now();
        if !token.lives_at(now) {
            return None;
        }
        if now >= *renew_at {
            // Whoever holds the lock sees to the renewal; a caller with a good token never waits.
            if let Ok(mut state) = self.shared.state.try_lock() {
                self.shared.next(&mut state, Want::Renewal);
            }
        }
        Some(token.clone())
    }

    async fn obtain(&self, want: Want<'_>) -> Outcome {
        // A flight is lost when its runtime is; the next one flies on ours. If that is lost too,
        // ours is going down.
        let mut lost = 0;
        while lost < 3 {
            let flight = match self.shared.next(&mut self.shared.lock(), want) {
                Next::Have(token) => return Ok(token),
                Next::Give(error) => return Err(error),
                Next::Wait(flight) => flight,
            };
            let knew = flight.rejected.clone();
            match flight.landed().await {
                None => lost += 1,
                Some(Ok(token)) => match want {
                    // It took off before the rejection was known, so it may well have brought back
                    // the rejected token; the next one is told.
                    Want::Instead(rejected)
                        if token == *rejected && knew.as_ref() != Some(rejected) => {}
                    _ => return Ok(token),
                },
                Some(Err(error)) => return Err(error),
            }
        }
        Err(TokenError::NoRuntime)
    }

    /// When [`renew`](TokenManager::renew) has something to do.
    pub(super) fn renewal_due(&self) -> Instant {
        let now = Instant::now();
        let due = match &*self.shared.current.load() {
            Some(cached) if cached.token.lives_at(now) => cached.renew_at,
            _ => now,
        };
        due.max(self.shared.lock().renewals_rest_until)
    }

    /// Renews the token, or gets the first one, and waits until that is done.
    pub(super) async fn renew(&self) {
        let want = match self.cached() {
            Some(_) => Want::Renewal,
            None => Want::Any,
        };
        let next = self.shared.next(&mut self.shared.lock(), want);
        if let Next::Wait(flight) = next {
            flight.landed().await;
        }
    }

    /// Resolves when a flight ends after this call.
    pub(super) fn landed(&self) -> Notified<'_> {
        self.shared.landed.notified()
    }
}

impl TokenManagerBuilder {
    /// How long before its expiry a token is renewed, at most; default 270 s.
    ///
    /// Up to a fifth less by chance, and never more than a tenth of the token's life where this is
    /// not set, a half of it where it is. `stable_token` goes on giving the same token until 300 s
    /// before its expiry (WeChat's page "Get stable access token"), so with it a longer time only
    /// means asking in vain.
    pub fn refresh_before(mut self, before: Duration) -> Self {
        self.settings.refresh_before = Some(before);
        self
    }

    /// How long a token request may take, all its attempts together; default 10 s.
    pub fn issue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.issue_timeout = timeout;
        self
    }

    /// How many refreshes of a rejected token are allowed: `burst` at once, then one more every
    /// `per`; default 5 and 60 s.
    ///
    /// Some rejections no refresh can cure (a body that contains `&access_token=` is one), and
    /// WeChat allows 2000 token requests a day.
    pub fn refresh_budget(mut self, burst: u32, per: Duration) -> Self {
        self.budget = Budget::new(burst, per);
        self
    }

    /// The manager.
    pub fn build(self) -> TokenManager {
        TokenManager {
            shared: Arc::new(Shared {
                source: self.source,
                settings: self.settings,
                current: ArcSwapOption::empty(),
                state: Mutex::new(State {
                    flight: None,
                    flights: 0,
                    refusal: None,
                    failures: 0,
                    renewals_rest_until: Instant::now(),
                    budget: self.budget,
                    budget_warned: false,
                    suspicion_warned: None,
                }),
                landed: Notify::new(),
            }),
        }
    }
}

impl Shared {
    /// Never held across an await, and nothing of a user's runs under it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares what is wanted with what there is; starts a flight where one is needed.
    fn next(self: &Arc<Self>, state: &mut State, want: Want<'_>) -> Next {
        let now = Instant::now();
        let current = self.current.load_full();
        let live = current.as_ref().filter(|c| c.token.lives_at(now));
        match (want, live) {
            (Want::Any, Some(live)) => return Next::Have(live.token.clone()),
            (Want::Instead(rejected), Some(live)) if live.token != *rejected => {
                return Next::Have(live.token.clone());
            }
            (Want::Renewal, Some(live))
                if now < live.renew_at || now < state.renewals_rest_until =>
            {
                return Next::Have(live.token.clone());
            }
            _ => {}
        }
        let Ok(runtime) = Handle::try_current() else {
            return Next::Give(TokenError::NoRuntime);
        };
        if let Some(flight) = state.flight.as_ref().filter(|f| now < f.overdue) {
            return Next::Wait(flight.clone());
        }
        if let Some((error, until)) = &state.refusal {
            if now < *until {
                return Next::Give(error.clone());
            }
        }
        let rejected = match want {
            Want::Instead(rejected) => Some(rejected),
            Want::Any | Want::Renewal => None,
        };
        if rejected.is_some() && live.is_some() && !state.may_refresh(now) {
            return Next::Give(TokenError::OverBudget);
        }
        if let (Some(rejected), Some(_)) = (rejected, live) {
            state.suspect(rejected, now);
        }
        Next::Wait(self.take_off(state, &runtime, rejected.cloned()))
    }

    fn take_off(
        self: &Arc<Self>,
        state: &mut State,
        runtime: &Handle,
        rejected: Option<AccessToken>,
    ) -> Flight {
        let timeout = self.settings.issue_timeout;
        let (landing, watch) = watch::channel(None);
        state.flights += 1;
        let flight = Flight {
            id: state.flights,
            rejected: rejected.clone(),
            overdue: Instant::now() + timeout + Duration::from_secs(1),
            landing: watch,
        };
        state.flight = Some(flight.clone());
        tracing::debug!(rejected = rejected.is_some(), "asking for an access_token");

        // The pilot is made here and not in the task: a task that is never polled still drops it.
        let pilot = Pilot {
            shared: Arc::clone(self),
            id: flight.id,
            landing,
        };
        runtime.spawn(async move {
            let source = &*pilot.shared.source;
            let outcome = flight::issue(source, rejected.as_ref(), timeout).await;
            pilot.land(outcome);
        });
        flight
    }

    /// How long before its expiry to renew a token that has `life` before it.
    fn margin(&self, life: Duration) -> Duration {
        let margin = match self.settings.refresh_before {
            Some(before) => before.min(life / 2),
            // Under the 300 s in which `stable_token` gives a new token.
            None => Duration::from_secs(270).min(life / 10),
        };
        margin.mul_f64(1.0 - fastrand::f64() / 5.0)
    }
}

/// Sees to it that a flight never stays in the manager after its task is gone.
struct Pilot {
    shared: Arc<Shared>,
    id: u64,
    landing: watch::Sender<Option<Outcome>>,
}

impl Pilot {
    fn land(self, outcome: Outcome) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        if self.owns_flight(&state) {
            state.flight = None;
            match &outcome {
                Ok(token) => {
                    let life = token.expires_at().saturating_duration_since(now);
                    let renew_at = token.expires_at() - self.shared.margin(life);
                    state.succeed(now);
                    // Fetched first and swapped now: there is no moment without a token.
                    self.shared.current.store(Some(Arc::new(Cached {
                        token: token.clone(),
                        renew_at,
                    })));
                    tracing::debug!(seconds = life.as_secs(), "a new access_token");
                }
                Err(error) => {
                    let current = self.shared.current.load();
                    let kept = current.as_ref().is_some_and(|c| c.token.lives_at(now));
                    state.fail(error, now);
                    tracing::warn!(%error, old_token_kept = kept, "no new access_token");
                }
            }
        }
        drop(state);
        self.landing.send_replace(Some(outcome));
    }

    /// A flight that was taken for lost has been replaced, and may not overwrite what came after.
    fn owns_flight(&self, state: &State) -> bool {
        state.flight.as_ref().is_some_and(|f| f.id == self.id)
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if self.owns_flight(&state) {
            state.flight = None;
        }
        drop(state);
        self.shared.landed.notify_waiters();
    }
}

impl State {
    fn succeed(&mut self, now: Instant) {
        self.refusal = None;
        self.failures = 0;
        self.renewals_rest_until = now;
    }

    fn fail(&mut self, error: &TokenError, now: Instant) {
        self.failures += 1;
        let pause = flight::backoff(
            Duration::from_secs(2),
            self.failures,
            Duration::from_secs(60),
        );
        self.renewals_rest_until = now + pause;
        if error.is_refusal() {
            let until = now + REFUSAL_MEMORY;
            self.refusal = Some((error.clone(), until));
            self.renewals_rest_until = self.renewals_rest_until.max(until);
        }
    }

    fn may_refresh(&mut self, now: Instant) -> bool {
        let allowed = self.budget.take(now);
        if !allowed && !self.budget_warned {
            tracing::warn!(
                "tokens are rejected again and again, and the refresh budget is used up: replies \
                 with the rejection are handed on. Something else may be refreshing this account, \
                 or requests may have `access_token=` in their body"
            );
        }
        self.budget_warned = !allowed;
        allowed
    }

    fn suspect(&mut self, rejected: &AccessToken, now: Instant) {
        let age = rejected.age();
        let warned = self
            .suspicion_warned
            .is_some_and(|at| now < at + Duration::from_secs(60));
        if age < SUSPICIOUS_AGE && !warned {
            self.suspicion_warned = Some(now);
            tracing::warn!(
                age_seconds = age.as_secs(),
                "an access_token was rejected soon after it was issued: something else refreshes \
                 this account's token"
            );
        }
    }
}

impl fmt::Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManager")
            .field("cached", &self.cached())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TokenManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManagerBuilder")
            .field("refresh_before", &self.settings.refresh_before)
            .field("issue_timeout", &self.settings.issue_timeout)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
