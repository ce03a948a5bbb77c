use std::fmt;
use std::sync::Arc;

use tokio::sync::futures::Notified;
use tokio::time::Instant;

#[cfg(feature = "server")]
use super::RateLimit;
use super::builder::TokenManagerBuilder;
use super::evidence::{Endpoint, Marks, Standing};
use super::flight::Outcome;
use super::gate::{RefreshGate, RefreshOutcome};
use super::policy::{Asker, Cached, Gate};
use super::shared::{Next, Shared};
use super::{AccessToken, KeepFresh, TokenError, TokenSource, Why};

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
///   `issue_timeout`. If request after request fails, whatever the reason, callers get the last
///   failure for a second, and later for up to ten, before the next is sent. What WeChat refuses (a
///   wrong secret, a foreign address, no quota) is remembered for 30 s, and for up to ten minutes
///   if WeChat goes on to refuse it.
/// - [`refresh`](TokenManager::refresh) compares before it refreshes. A budget that suits the
///   source bounds it, and the layer keeps calls that are rejected whatever the token from using it
///   up: after a futile refresh a method and path causes no other for a minute, and later for up to
///   an hour.
///
/// Times are read from [`tokio::time`], so that tests can pause and move them. Asking for a token
/// needs a Tokio runtime with its time driver on; without a runtime only a cached token is to be
/// had.
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
    /// What belongs to this handle and its clones.
    handle: Arc<Handle>,
}

/// Whose rejections come through a handle.
#[derive(Default)]
struct Handle {
    gate: Option<Arc<dyn RefreshGate>>,
    marks: Arc<Marks>,
}

/// A moment before a call is sent: which rejections were known then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment(u64);

/// What a question for a token came to.
pub(crate) struct Refreshed {
    pub(crate) token: Outcome,
    /// Whether the source was asked because of it, and not because of somebody else's.
    pub(crate) caused: bool,
    /// Whether it was waited for, and not there already.
    pub(crate) is_new: bool,
}

impl Refreshed {
    fn new(token: Outcome, caused: bool) -> Self {
        Refreshed {
            token,
            caused,
            is_new: true,
        }
    }
}

impl TokenManager {
    /// A manager with the defaults of [`TokenManagerBuilder`].
    pub fn new(source: impl TokenSource) -> Self {
        TokenManager::builder(source).build()
    }

    /// Sets a manager up.
    pub fn builder(source: impl TokenSource) -> TokenManagerBuilder {
        TokenManagerBuilder::new(source)
    }

    pub(super) fn of(shared: Arc<Shared>) -> Self {
        TokenManager {
            shared,
            handle: Arc::default(),
        }
    }

    /// The current token, or a new one if there is none.
    ///
    /// # Errors
    ///
    /// Says why no token could be had. The next call asks anew, but for what WeChat refused a short
    /// while ago, and for pauses of at most 10 s after several failures in a row.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the token request goes on and fills the cache.
    pub async fn token(&self) -> Result<AccessToken, TokenError> {
        match self.ready_token() {
            Some(token) => Ok(token),
            None => self.obtain(Why::Missing, Standing::Plain, None).await.token,
        }
    }

    /// A token other than `rejected`, which WeChat has just rejected.
    ///
    /// Asks the source only if the current token still is the rejected one, so that a late report
    /// about an old token does not throw the new one away. The source may give the rejected token
    /// again when it has no other; then it is asked again after a second at the soonest.
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
        self.report(rejected);
        let why = Why::Rejected(rejected.clone());
        self.obtain(why, Standing::Plain, None).await.token
    }

    /// A handle to the same tokens whose refreshes `gate` decides.
    ///
    /// What is known of calls that are rejected whatever the token is kept for each such handle by
    /// itself.
    pub fn with_gate(&self, gate: impl RefreshGate) -> TokenManager {
        TokenManager {
            shared: Arc::clone(&self.shared),
            handle: Arc::new(Handle {
                gate: Some(Arc::new(gate)),
                marks: Arc::default(),
            }),
        }
    }

    /// The current token if there is one that lives; asks for nothing.
    pub fn cached(&self) -> Option<AccessToken> {
        let cached = self.shared.current.load();
        let token = &cached.as_ref()?.token;
        token.lives_at(Instant::now()).then(|| token.clone())
    }

    /// What the account is called in logs and metrics: its appid, where the source knows it.
    pub fn account(&self) -> Option<&str> {
        self.shared.account()
    }

    /// Renews the token ahead of its expiry, asked or not, while the guard lives.
    ///
    /// Gets the first token at once. A failure is tried again after a second or two, then ever more
    /// rarely, up to a minute apart; what WeChat refused after 30 s at the soonest, and after up to
    /// ten minutes if WeChat goes on to refuse it.
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

    /// The current token, without waiting; sets off its renewal if that is due.
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
                let why = Why::Expiring(token.clone());
                self.shared.next(state, &why, Asker::default(), None);
            }
        }
        Some(token.clone())
    }

    /// To be noted before a call is sent, for [`accepted`](TokenManager::accepted).
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.shared.rejections())
    }

    /// WeChat has accepted `token` for a call that was sent at `moment`.
    pub(crate) fn accepted(&self, token: &AccessToken, moment: Moment) {
        self.shared.accepted(token, moment.0);
    }

    /// [`refresh`](TokenManager::refresh) because of a call of `endpoint`.
    pub(crate) async fn refresh_for(
        &self,
        rejected: &AccessToken,
        endpoint: &Endpoint,
    ) -> Refreshed {
        let now = Instant::now();
        let standing = self.handle.marks.standing(endpoint, now);
        if standing == Standing::Plain {
            self.report(rejected);
        }
        if standing != Standing::Marked {
            self.shared
                .doubt(rejected, endpoint, &self.handle.marks, now);
        }
        let why = Why::Rejected(rejected.clone());
        let refreshed = self.obtain(why, standing, Some(endpoint)).await;
        let is_paid_for = |token: &AccessToken| token != rejected && !token.came_free();
        if refreshed.caused && !refreshed.token.as_ref().is_ok_and(is_paid_for) {
            self.handle.marks.cost_nothing(endpoint);
        }
        refreshed
    }

    /// A call of `endpoint` was rejected, sent again with another token, and rejected again;
    /// `is_new` if it was waited for that token. One that was there already may have died since.
    pub(crate) fn replay_rejected(&self, endpoint: &Endpoint, is_new: bool) {
        let (marks, now) = (&self.handle.marks, Instant::now());
        match is_new {
            true => marks.futile(endpoint, now),
            false => marks.suspect(endpoint, now),
        }
    }

    /// A call of `endpoint` was rejected with `rejected`, sent again with another token, and
    /// accepted; whether it `caused` the refresh.
    pub(crate) fn replay_accepted(
        &self,
        rejected: &AccessToken,
        endpoint: &Endpoint,
        caused: bool,
    ) {
        self.shared.useful(endpoint, &self.handle.marks);
        if let (Some(gate), true) = (&self.handle.gate, caused) {
            gate.outcome(rejected, RefreshOutcome::ReplayAccepted);
        }
    }

    fn report(&self, rejected: &AccessToken) {
        if let Some(gate) = &self.handle.gate {
            gate.reported(rejected);
        }
    }

    /// `endpoint` is that of the call because of which it is asked.
    async fn obtain(&self, why: Why, standing: Standing, endpoint: Option<&Endpoint>) -> Refreshed {
        let mut caused = false;
        // A flight is lost when its runtime is; the next one flies on ours. If that is lost too,
        // ours is going down.
        let mut lost = 0;
        while lost < 3 {
            let flight = match self.next(&why, standing) {
                Next::Have(token) => {
                    return Refreshed {
                        is_new: caused,
                        ..Refreshed::new(Ok(token), caused)
                    };
                }
                Next::Give(error) => return Refreshed::new(Err(error), caused),
                Next::Join(flight) => flight,
                Next::TookOff(flight) => {
                    caused = true;
                    // Before anything is waited for: the call may be given up.
                    if let Some(endpoint) = endpoint {
                        self.handle.marks.suspect(endpoint, Instant::now());
                    }
                    flight
                }
                // `next` has asked it.
                Next::AskGate => return Refreshed::new(Err(TokenError::OverBudget), caused),
            };
            let (flown_for, forced) = (flight.why.clone(), flight.forced);
            match flight.landed().await {
                None => lost += 1,
                Some(Ok(token)) => match &why {
                    // It took off before the rejection was known, so it may well have brought back
                    // the rejected token; the next flight knows.
                    Why::Rejected(rejected)
                        if token == *rejected && flown_for.rejected() != Some(rejected) => {}
                    _ => return Refreshed::new(Ok(token), caused),
                },
                // A renewal may fail and leave a token in use that somebody else has seen rejected:
                // not all sources try as hard for it.
                Some(Err(_)) if flown_for.is_renewal() && !why.is_renewal() && lost == 0 => {
                    lost += 1;
                }
                // The token has expired since: what a forced request is refused for, another is
                // not.
                Some(Err(_)) if forced && matches!(why, Why::Missing) && lost == 0 => lost += 1,
                Some(Err(error)) => return Refreshed::new(Err(error), caused),
            }
        }
        Refreshed::new(Err(TokenError::NoRuntime), caused)
    }

    /// Asks the policy, and the gate if the policy wants it to be asked.
    fn next(&self, why: &Why, standing: Standing) -> Next {
        let gate = self.handle.gate.as_ref();
        let mut asked = gate.map_or(Gate::Open, |_| Gate::Unasked);
        loop {
            let asker = Asker {
                standing,
                gate: asked,
            };
            let next = self.shared.next(self.shared.lock(), why, asker, gate);
            let (Some(gate), Some(rejected)) = (gate, why.rejected()) else {
                return next;
            };
            match next {
                // Here and not in the policy: the gate is somebody else's code, and no lock is
                // held.
                Next::AskGate => {
                    asked = match gate.take_off(rejected) {
                        true => Gate::Granted,
                        false => Gate::Refused,
                    };
                }
                Next::TookOff(_) => return next,
                // Somebody else was faster.
                Next::Have(_) | Next::Give(_) | Next::Join(_) => {
                    if asked == Gate::Granted {
                        gate.outcome(rejected, RefreshOutcome::Free);
                    }
                    return next;
                }
            }
        }
    }

    /// Why the last token request failed, if none has succeeded since.
    #[cfg(feature = "server")]
    pub(crate) fn last_error(&self) -> Option<TokenError> {
        self.shared.lock().policy.last_error().cloned()
    }

    /// When [`renew`](TokenManager::renew) has something to do.
    pub(super) fn renewal_due(&self) -> Instant {
        let current = self.shared.current.load();
        let state = self.shared.lock();
        state.policy.renewal_due(current.as_deref(), Instant::now())
    }

    /// Renews the token, or gets the first one, and waits until that is done.
    pub(super) async fn renew(&self) {
        let why = match self.cached() {
            Some(token) => Why::Expiring(token),
            None => Why::Missing,
        };
        if let Next::Join(flight) | Next::TookOff(flight) = self.next(&why, Standing::Plain) {
            flight.landed().await;
        }
    }

    /// [`account`](TokenManager::account) in a form that can be kept without copying.
    pub(crate) fn label(&self) -> Option<&Arc<str>> {
        self.shared.account.get()
    }

    /// What the account is called from now on, if neither the source nor the builder has said it.
    #[cfg(feature = "server")]
    pub(crate) fn call_it(&self, account: &Arc<str>) {
        let _ = self.shared.account.set(Arc::clone(account));
    }

    /// How often the account's rejected token may be replaced.
    #[cfg(feature = "server")]
    pub(crate) fn refresh_limit(&self) -> RateLimit {
        self.shared.lock().policy.refresh_limit()
    }

    /// Resolves when a flight ends after this call.
    pub(super) fn landed(&self) -> Notified<'_> {
        self.shared.landed.notified()
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
