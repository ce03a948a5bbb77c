use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tokio::sync::{Notify, futures::Notified, watch};
use tokio::time::Instant;

use super::budget::Budget;
use super::flight::{self, Flight, Order, Outcome};
use super::source::ErasedSource;
use super::{AccessToken, KeepFresh, TokenError, TokenSource};
use crate::metrics::{self, Reason};
use crate::warnings::Seldom;

/// Longer limits than this are cut, so that adding them to an instant cannot overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

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
///   `issue_timeout`. Where request after request fails, whatever the reason, callers get the last
///   failure for a second, and later for up to ten, before the next is sent. What WeChat refuses (a
///   wrong secret, a foreign address, no quota) is remembered for 30 s.
/// - [`refresh`](TokenManager::refresh) compares before it refreshes, and a budget bounds it.
///
/// Times are read from [`tokio::time`], so that tests can pause and move them. Asking for a token
/// needs a Tokio runtime with its time driver on; without a runtime only a cached token is to be had.
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
    /// Whether this handle may have a rejected token replaced.
    refreshes: bool,
}

/// Sets a [`TokenManager`] up; made by [`TokenManager::builder`].
pub struct TokenManagerBuilder {
    source: Box<dyn ErasedSource>,
    account: Option<Arc<str>>,
    settings: Settings,
    budget: Budget,
}

struct Settings {
    refresh_before: Option<Duration>,
    issue_timeout: Duration,
}

struct Shared {
    source: Box<dyn ErasedSource>,
    account: OnceLock<Arc<str>>,
    settings: Settings,
    current: ArcSwapOption<Cached>,
    state: Mutex<State>,
    /// Told whenever a flight ends, for the timers of `keep_fresh`.
    landed: Notify,
    rival_warning: Seldom,
}

struct Cached {
    token: AccessToken,
    renew_at: Instant,
}

struct State {
    flight: Option<Flight>,
    flights: u64,
    /// The answer to everybody until then, in place of another token request.
    held_back: Option<(TokenError, Instant)>,
    failures: u32,
    /// No renewal ahead of time before this.
    renewals_rest_until: Instant,
    budget: Budget,
    budget_warned: bool,
    /// Whether the last flight ended so.
    source_over_budget: bool,
    /// No refresh of a rejected token before this, as the source's budget is used up.
    no_refresh_until: Option<Instant>,
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

impl Want<'_> {
    fn reason(self) -> Reason {
        match self {
            Want::Any => Reason::Missing,
            Want::Instead(_) => Reason::Rejected,
            Want::Renewal => Reason::Expiring,
        }
    }
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
            account: source.account().map(Arc::from),
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
    /// the last 30 s, and for pauses of at most 10 s after several failures in a row.
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
        if !self.refreshes {
            let other = self.cached().filter(|current| current != rejected);
            return other.ok_or(TokenError::OverBudget);
        }
        self.obtain(Want::Instead(rejected)).await
    }

    /// The same tokens for somebody whose rejections are not to be believed.
    #[cfg(feature = "server")]
    pub(crate) fn without_refresh(&self) -> TokenManager {
        TokenManager {
            refreshes: false,
            ..self.clone()
        }
    }

    /// The current token if there is one that lives; asks for nothing.
    pub fn cached(&self) -> Option<AccessToken> {
        let cached = self.shared.current.load();
        let token = &cached.as_ref()?.token;
        token.lives_at(Instant::now()).then(|| token.clone())
    }

    /// The last failure, until a token comes.
    #[cfg(feature = "server")]
    pub(crate) fn last_error(&self) -> Option<TokenError> {
        let state = self.shared.lock();
        state.held_back.as_ref().map(|(error, _)| error.clone())
    }

    /// What the account is called in logs and metrics: its appid, where the source knows it.
    pub fn account(&self) -> Option<&str> {
        self.shared.account()
    }

    /// Renews the token ahead of its expiry, asked or not, while the guard lives.
    ///
    /// Gets the first token at once. A failure is tried again after a second or two, then ever more
    /// rarely, up to a minute apart; what WeChat refused after 30 s at the soonest.
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
            if let Some(state) = self.shared.try_lock() {
                self.shared.next(state, Want::Renewal);
            }
        }
        Some(token.clone())
    }

    async fn obtain(&self, want: Want<'_>) -> Outcome {
        // A flight is lost when its runtime is; the next one flies on ours. If that is lost too,
        // ours is going down.
        let mut lost = 0;
        while lost < 3 {
            let flight = match self.shared.next(self.shared.lock(), want) {
                Next::Have(token) => return Ok(token),
                Next::Give(error) => return Err(error),
                Next::Wait(flight) => flight,
            };
            let order = flight.order.clone();
            match flight.landed().await {
                None => lost += 1,
                Some(Ok(token)) => match want {
                    // It took off before the rejection was known, so it may well have brought back
                    // the rejected token; the next one is told.
                    Want::Instead(rejected)
                        if token == *rejected && order.rejected() != Some(rejected) => {}
                    _ => return Ok(token),
                },
                // A renewal may fail and leave a token in use that somebody else has seen rejected: not all sources try as
                // hard for it.
                Some(Err(_))
                    if order.is_renewal() && !matches!(want, Want::Renewal) && lost == 0 =>
                {
                    lost += 1;
                }
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
        let next = self.shared.next(self.shared.lock(), want);
        if let Next::Wait(flight) = next {
            flight.landed().await;
        }
    }

    /// [`account`](TokenManager::account) in a form that can be kept without copying.
    pub(crate) fn label(&self) -> Option<&Arc<str>> {
        self.shared.account.get()
    }

    /// What the account is called from now on, where neither the source nor the builder has said it.
    #[cfg(feature = "server")]
    pub(crate) fn call_it(&self, account: &Arc<str>) {
        let _ = self.shared.account.set(Arc::clone(account));
    }

    /// Resolves when a flight ends after this call.
    pub(super) fn landed(&self) -> Notified<'_> {
        self.shared.landed.notified()
    }
}

impl TokenManagerBuilder {
    /// What the account is called in logs and metrics; default: what the source says, its appid.
    pub fn account<'a>(mut self, account: impl Into<Cow<'a, str>>) -> Self {
        self.account = Some(Arc::from(&*account.into()));
        self
    }

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

    /// How long a token request may take, all its attempts together; default 10 s, a day at most.
    pub fn issue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.issue_timeout = timeout.min(LONGEST_TIMEOUT);
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
        metrics::describe();
        TokenManager {
            refreshes: true,
            shared: Arc::new(Shared {
                source: self.source,
                account: self.account.map(OnceLock::from).unwrap_or_default(),
                settings: self.settings,
                current: ArcSwapOption::empty(),
                state: Mutex::new(State {
                    flight: None,
                    flights: 0,
                    held_back: None,
                    failures: 0,
                    renewals_rest_until: Instant::now(),
                    budget: self.budget,
                    budget_warned: false,
                    source_over_budget: false,
                    no_refresh_until: None,
                }),
                landed: Notify::new(),
                rival_warning: Seldom::default(),
            }),
        }
    }
}

impl Shared {
    fn account(&self) -> Option<&str> {
        self.account.get().map(|account| &**account)
    }

    /// Never held across an await, and nothing of a user's runs under it: no source, no subscriber
    /// of `tracing`'s, and no `spawn`, which drops the task at once on a runtime that is shut down.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Compares what is wanted with what there is; starts a flight where one is needed.
    fn next(self: &Arc<Self>, mut state: MutexGuard<'_, State>, want: Want<'_>) -> Next {
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
        if let Some((error, until)) = &state.held_back {
            if now < *until {
                return Next::Give(error.clone());
            }
        }
        let order = match (want, live) {
            (Want::Instead(rejected), _) => Order::Instead(rejected.clone()),
            (Want::Renewal, Some(live)) => Order::After(live.token.clone()),
            _ => Order::Any,
        };
        let rejected = order.rejected().cloned();
        let rejected_live = rejected.as_ref().filter(|_| live.is_some());
        if rejected_live.is_some() {
            if state.no_refresh_until.is_some_and(|until| now < until) {
                return Next::Give(TokenError::OverBudget);
            }
            if !state.budget.take(now) {
                let warned = std::mem::replace(&mut state.budget_warned, true);
                drop(state);
                if !warned {
                    self.warn_of_the_budget();
                }
                metrics::refresh_over_budget(self.account.get());
                return Next::Give(TokenError::OverBudget);
            }
            state.budget_warned = false;
        }
        let (flight, pilot) = self.take_off(&mut state, order, want.reason());
        drop(state);
        if let Some(rejected) = rejected_live {
            self.suspect_a_rival(rejected);
        }
        tracing::debug!(
            account = self.account(),
            rejected = rejected.is_some(),
            "asking for an access_token"
        );
        runtime.spawn(pilot.fly());
        Next::Wait(flight)
    }

    fn take_off(
        self: &Arc<Self>,
        state: &mut State,
        order: Order,
        reason: Reason,
    ) -> (Flight, Pilot) {
        let (landing, watch) = watch::channel(None);
        state.flights += 1;
        let flight = Flight {
            id: state.flights,
            order,
            overdue: Instant::now() + self.settings.issue_timeout + Duration::from_secs(1),
            landing: watch,
        };
        state.flight = Some(flight.clone());
        let pilot = Pilot {
            shared: Arc::clone(self),
            id: flight.id,
            order: flight.order.clone(),
            reason,
            landing,
        };
        (flight, pilot)
    }

    fn tell(&self, outcome: &Outcome, now: Instant) {
        let account = self.account();
        match outcome {
            Ok(token) => {
                let seconds = token.expires_in().as_secs();
                tracing::debug!(account, seconds, "a new access_token");
            }
            Err(TokenError::OverBudget) => self.warn_of_the_budget(),
            Err(error) => {
                let current = self.current.load();
                let kept = current.as_ref().is_some_and(|c| c.token.lives_at(now));
                tracing::warn!(account, %error, old_token_kept = kept, "no new access_token");
            }
        }
    }

    fn warn_of_the_budget(&self) {
        tracing::warn!(
            account = self.account(),
            "tokens are rejected again and again, and the refresh budget is used up: replies with \
             the rejection are handed on. Something else may be refreshing this account, or \
             requests may hold an `access_token` of their own in their body"
        );
    }

    /// Tells when a token was rejected too soon after its issue.
    fn suspect_a_rival(&self, rejected: &AccessToken) {
        let age = rejected.age();
        if age < SUSPICIOUS_AGE && self.rival_warning.is_due() {
            tracing::warn!(
                account = self.account(),
                age_seconds = age.as_secs(),
                "an access_token was rejected soon after it was issued: something else refreshes \
                 this account's token"
            );
        }
    }

    fn store(&self, token: AccessToken, now: Instant) {
        let life = token.expires_at().saturating_duration_since(now);
        let renew_at = token.expires_at() - self.margin(life);
        self.current
            .store(Some(Arc::new(Cached { token, renew_at })));
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

/// Sees to it that a flight never stays in the manager after its task is gone, or when there never
/// was one.
struct Pilot {
    shared: Arc<Shared>,
    id: u64,
    order: Order,
    reason: Reason,
    landing: watch::Sender<Option<Outcome>>,
}

impl Pilot {
    async fn fly(self) {
        let timeout = self.shared.settings.issue_timeout;
        let outcome = flight::issue(&*self.shared.source, &self.order, timeout).await;
        self.land(outcome);
    }

    fn land(self, outcome: Outcome) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let in_time = self.owns_flight(&state);
        let mut silent = false;
        if in_time {
            state.flight = None;
            // A budget that processes share is the source's; once is enough to be told of it, too.
            let over = matches!(outcome, Err(TokenError::OverBudget));
            silent = over && state.source_over_budget;
            state.source_over_budget = over;
            match &outcome {
                Ok(token) => {
                    state.succeed(now);
                    // Fetched first and swapped now: there is no moment without a token.
                    self.shared.store(token.clone(), now);
                }
                Err(error) => state.fail(error, &self.order, now),
            }
        }
        drop(state);
        if in_time {
            if !silent {
                self.shared.tell(&outcome, now);
            }
            metrics::refreshed(self.shared.account.get(), self.reason, &outcome);
        }
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
        self.held_back = None;
        self.no_refresh_until = None;
        self.failures = 0;
        self.renewals_rest_until = now;
    }

    fn fail(&mut self, error: &TokenError, order: &Order, now: Instant) {
        if matches!(error, TokenError::OverBudget) {
            // It is about rejected tokens only, and another process may have a new one any moment. Nobody was asked for one, so the
            // manager's own budget has lost nothing either.
            if order.rejected().is_some() {
                self.budget.give_back();
            }
            self.no_refresh_until = Some(now + Duration::from_secs(1));
            return;
        }
        self.failures += 1;
        let pause = flight::backoff(
            Duration::from_secs(2),
            self.failures,
            Duration::from_secs(60),
        );
        self.renewals_rest_until = now + pause;
        let hold = if error.is_refusal() {
            REFUSAL_MEMORY
        } else if self.failures > 1 && !order.is_renewal() {
            // After one failure the next caller may try at once. An outage is another matter: with
            // callers one after the other it would cost a quota of requests in ten minutes. Renewals rest as it is, and
            // whoever has no token need not share their luck.
            flight::backoff(
                Duration::from_secs(1),
                self.failures - 1,
                Duration::from_secs(10),
            )
        } else {
            return;
        };
        self.held_back = Some((error.clone(), now + hold));
        self.renewals_rest_until = self.renewals_rest_until.max(now + hold);
    }
}

impl fmt::Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManager")
            .field("account", &self.account())
            .field("cached", &self.cached())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TokenManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManagerBuilder")
            .field("account", &self.account)
            .field("refresh_before", &self.settings.refresh_before)
            .field("issue_timeout", &self.settings.issue_timeout)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
