use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Client, RedisError};
use tokio::time::Instant;

use super::announcements::Announcements;
use super::connection::{Server, text};
use super::layout::Layout;
use super::lease::Lease;
use super::outage::Outage;
use super::scripts::{self, Answer, Found, Price, Terms};
use crate::metrics;
use crate::token::{AccessToken, ClientError, TokenError, TokenSource};
use crate::warnings::Seldom;

/// One token for all processes that use the same Redis, got from `T` by one of them.
///
/// The [module](crate::redis) says how. Settings are the same in all processes that share a token.
///
/// ```
/// use std::time::Duration;
/// use tower_wechat::redis::{Layout, Outage, RedisTokens};
/// use tower_wechat::{AccessToken, TokenManager, source_fn};
///
/// # fn main() -> Result<(), redis::RedisError> {
/// // Opening does not connect: that is done when a token is wanted.
/// let redis = redis::Client::open("redis://127.0.0.1/")?;
/// let source = source_fn(|_rejected| async {
///     Ok(AccessToken::new("78_Zx0", Duration::from_secs(7200)))
/// });
/// let tokens = TokenManager::new(
///     RedisTokens::new(redis, source)
///         // Wherever WxJava has it.
///         .layout(Layout::wx_java("wx", "wx0123456789abcdef"))
///         .outage(Outage::Fail),
/// );
/// # drop(tokens);
/// # Ok(())
/// # }
/// ```
pub struct RedisTokens<T> {
    source: T,
    account: Option<Arc<str>>,
    server: Arc<Server>,
    layout: Option<Arc<Layout>>,
    outage: Outage,
    lease: Duration,
    price: Option<Price>,
    /// What this process knows to be of no use, whatever Redis says: its own refreshes while Redis was away have not reached it.
    given_up: Mutex<VecDeque<AccessToken>>,
    /// The last token that this process got and Redis does not know.
    alone: Mutex<Option<AccessToken>>,
    warned_of_outage: Seldom,
    warned_of_value: Seldom,
    warned_of_wait: Seldom,
}

/// In milliseconds. What ends sooner would end on its way to WeChat.
const SHORTEST_LIFE: u64 = 1000;

/// What the manager wants.
#[derive(Clone, Copy)]
enum Want<'a> {
    Any,
    Instead(&'a AccessToken),
    After(&'a AccessToken),
}

impl<'a> Want<'a> {
    /// The token that will not do.
    fn former(self) -> Option<&'a AccessToken> {
        match self {
            Want::Any => None,
            Want::Instead(token) | Want::After(token) => Some(token),
        }
    }
}

/// Why there is no token.
enum Failure {
    Redis(RedisError),
    Token(TokenError),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Failure::Redis(error)
    }
}

impl<T> RedisTokens<T>
where
    T: TokenSource,
{
    /// Shares the tokens of `source` in the Redis of `client`.
    ///
    /// They stand where [`Layout`] says, under the source's appid. One connection is opened when it is needed, and again when it has
    /// failed; and another for as long as this process waits for one that gets a token.
    pub fn new(client: Client, source: T) -> Self {
        RedisTokens::over(Server::new(client), source)
    }

    /// Shares them by a connection of your own: of a cluster, a `ConnectionManager`, one that Sentinel has found.
    ///
    /// It has to connect again by itself when it has failed. Announcements are not listened to, so a process that waits for a token
    /// looks for it every 50 to 100 ms.
    pub fn with_connection<C>(connection: C, source: T) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        RedisTokens::over(Server::with_connection(connection), source)
    }

    fn over(server: Server, source: T) -> Self {
        RedisTokens {
            account: source.account().map(Arc::from),
            layout: source.shared_as().map(|name| Arc::new(Layout::of(name))),
            source,
            server: Arc::new(server),
            outage: Outage::default(),
            lease: Duration::from_secs(3),
            price: Some(Price {
                burst: 5,
                per: Duration::from_secs(60),
            }),
            given_up: Mutex::default(),
            alone: Mutex::default(),
            warned_of_outage: Seldom::default(),
            warned_of_value: Seldom::default(),
            warned_of_wait: Seldom::default(),
        }
    }

    /// Where the token stands; needed for a source whose account does not say it, as a closure, or an application of WeCom's.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = Some(Arc::new(layout));
        self
    }

    /// What to do while Redis is away; default: [`Outage::IssueLocally`].
    pub fn outage(mut self, outage: Outage) -> Self {
        self.outage = outage;
        self
    }

    /// After what time somebody else may ask for a token in place of one who died at it; default 3 s, and 100 ms at least.
    ///
    /// A process that is halted for longer while it asks costs one more token request.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(100));
        self
    }

    /// How long Redis may take to answer before it counts as away, all attempts together; default 2 s.
    ///
    /// It should be a good deal less than the manager's `issue_timeout` (10 s), or there is no time left to ask the source.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        // Nothing but this has a clone of it yet.
        if let Some(server) = Arc::get_mut(&mut self.server) {
            server.set_timeout(timeout);
        }
        self
    }

    /// How many refreshes of a rejected token all processes are allowed together: `burst` at once, then one more every `per`;
    /// default 5 and 60 s.
    ///
    /// Each manager has a budget of its own besides, which a refresh costs one of even where another process has done it.
    pub fn refresh_budget(mut self, burst: u32, per: Duration) -> Self {
        // Without a period it would never be used up.
        let counted = burst == 0 || !per.is_zero();
        self.price = counted.then_some(Price { burst, per });
        self
    }

    async fn get(&self, want: Want<'_>) -> Result<AccessToken, TokenError> {
        let Some(layout) = &self.layout else {
            return Err(TokenError::other(
                "the source does not say whose token it gives: name its place in Redis with \
                 RedisTokens::layout(Layout::new(…))",
            ));
        };
        let token = match self.get_shared(layout, want).await {
            Ok(token) => token,
            Err(Failure::Token(error)) => return Err(error),
            Err(Failure::Redis(error)) => self.get_alone(want, error).await?,
        };
        if let Some(former) = want.former() {
            self.give_up(former, &token);
        }
        Ok(token)
    }

    async fn get_shared(
        &self,
        layout: &Arc<Layout>,
        want: Want<'_>,
    ) -> Result<AccessToken, Failure> {
        let owner = format!("{:032x}", fastrand::u128(..));
        let mut announcements = None;
        let mut seen = Found::Nothing;
        let started_at = Instant::now();
        let mut claimed_at = started_at;
        let mut answer = self.server.run(&scripts::read(layout)).await?;
        loop {
            match answer {
                Answer::Found(found, milliseconds) => {
                    if let Some(token) = self.usable(layout, want, &found, milliseconds) {
                        self.count("shared");
                        tracing::debug!(account = self.account(), "the shared access_token");
                        return Ok(token);
                    }
                    seen = found;
                }
                Answer::Taken(left) => match &mut announcements {
                    // Then it looks again: it may have been announced before anybody listened.
                    None => {
                        let channel = layout.channel();
                        announcements = Some(Announcements::listen(&self.server, channel).await);
                    }
                    Some(announcements) => {
                        if started_at.elapsed() > self.lease {
                            self.warned_of_wait.tell(
                                self.account(),
                                layout.lease_key(),
                                "another process holds the lease in Redis, and has brought no access_token yet",
                            );
                        }
                        announcements.next(left).await;
                    }
                },
                Answer::Spent => {
                    self.count("over_budget");
                    return Err(Failure::Token(TokenError::OverBudget));
                }
                // Halted since it was asked for, it may be over by now.
                Answer::Leased if claimed_at.elapsed() >= self.lease => {}
                Answer::Leased | Answer::Stored => {
                    let lease = Lease::new(&self.server, layout, owner, self.lease);
                    return self.get_with(lease, layout, &seen, want).await;
                }
            }
            let terms = Terms {
                owner: &owner,
                lease: self.lease,
                price: self.price.filter(|_| matches!(want, Want::Instead(_))),
            };
            claimed_at = Instant::now();
            answer = self
                .server
                .run(&scripts::claim(layout, &seen, &terms))
                .await?;
        }
    }

    /// Asks the source, and writes what it gives.
    async fn get_with(
        &self,
        lease: Lease,
        layout: &Layout,
        seen: &Found,
        want: Want<'_>,
    ) -> Result<AccessToken, Failure> {
        let token = match lease.kept_during(self.ask_source(want)).await {
            Ok(token) => token,
            Err(error) => {
                lease.give_back().await;
                self.count("failed");
                return Err(Failure::Token(error));
            }
        };
        let (value, life) = layout.written(&token);
        let told = match layout.token_in(value.as_bytes()) {
            // The manager says what is wrong with an empty one.
            _ if token.expires_in().is_zero() => Err("it has expired already"),
            Some(read) if *read == token.secret() => Ok(()),
            _ => Err("it would not be read as it is written"),
        };
        if let Err(why) = told {
            lease.give_back().await;
            self.count("not_stored");
            tracing::warn!(
                account = self.account(),
                why,
                "the source's token is not shared in Redis"
            );
            return Ok(token);
        }
        let store = scripts::store(layout, seen, lease.owner(), &value, life);
        let stored = self.server.run(&store).await;
        match stored {
            Ok(Answer::Found(found, milliseconds)) => {
                lease.end();
                // Somebody else took over. What they have written is newer; what they have not yet written will void ours.
                self.count("superseded");
                let newer = self.usable(layout, want, &found, milliseconds);
                tracing::warn!(
                    account = self.account(),
                    newer = newer.is_some(),
                    "this process was halted for longer than its lease in Redis, and another one has asked for a token"
                );
                Ok(newer.unwrap_or(token))
            }
            Ok(_) => {
                lease.end();
                self.server.announce(layout.channel()).await;
                self.count("issued");
                Ok(token)
            }
            Err(error) => {
                // It is good all the same, and the only one that is known to be.
                self.count("not_stored");
                self.warn_of_outage(&error, "the new access_token is not shared");
                self.keep_alone(&token);
                Ok(token)
            }
        }
    }

    /// Without Redis, which is away.
    async fn get_alone(
        &self,
        want: Want<'_>,
        error: RedisError,
    ) -> Result<AccessToken, TokenError> {
        let still_good = matches!(want, Want::After(current) if !current.expires_in().is_zero());
        if still_good || self.outage == Outage::Fail {
            self.count("outage");
            self.warn_of_outage(&error, "no new access_token is asked for");
            let text = text(&error);
            return Err(TokenError::Transport(ClientError::told(error, &text)));
        }
        self.count("local");
        self.warn_of_outage(&error, "this process asks for an access_token of its own");
        let token = self.ask_source(want).await?;
        self.keep_alone(&token);
        Ok(token)
    }

    async fn ask_source(&self, want: Want<'_>) -> Result<AccessToken, TokenError> {
        match want {
            Want::Any => self.source.issue(None).await,
            Want::Instead(rejected) => self.source.issue(Some(rejected)).await,
            Want::After(current) => self.source.renew(current).await,
        }
    }

    /// The token that stands in Redis, if it is one to use.
    fn usable(
        &self,
        layout: &Layout,
        want: Want<'_>,
        found: &Found,
        milliseconds: i64,
    ) -> Option<AccessToken> {
        let warn = |what| {
            let path = layout.token_key();
            self.warned_of_value.tell(self.account(), path, what);
        };
        let value = match found {
            Found::Nothing => return None,
            Found::Foreign => {
                warn(
                    "the key of the access_token in Redis has another type than a string, and is replaced",
                );
                return None;
            }
            Found::Value(value) => value,
        };
        let Some(secret) = layout.token_in(value) else {
            warn("the value in Redis is no access_token, and is replaced");
            return None;
        };
        let Ok(milliseconds) = u64::try_from(milliseconds) else {
            warn("the access_token in Redis has no TTL, and is replaced");
            return None;
        };
        let token = AccessToken::shared(secret.as_str(), Duration::from_millis(milliseconds));
        let useless = want.former() == Some(&token) || self.given_up().contains(&token);
        let usable =
            milliseconds >= SHORTEST_LIFE && !useless && !self.is_older(layout, want, &token);
        usable.then_some(token)
    }

    /// Whether a token in Redis is older than the one to be replaced, which Redis has never known: then that one has voided it.
    fn is_older(&self, layout: &Layout, want: Want<'_>, token: &AccessToken) -> bool {
        let alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let former = alone.as_ref().filter(|alone| want.former() == Some(alone));
        // All are made for the same time, so the older one ends sooner.
        former.is_some_and(|former| token.expires_at() + layout.early() < former.expires_at())
    }

    fn keep_alone(&self, token: &AccessToken) {
        let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        *alone = Some(token.clone());
    }

    fn give_up(&self, former: &AccessToken, token: &AccessToken) {
        /// Each was good for a while, so old ones are no longer in Redis.
        const MOST: usize = 8;

        let mut given_up = self.given_up();
        // `stable_token` may give one again, and means it.
        given_up.retain(|other| other != former && other != token);
        if former != token {
            given_up.truncate(MOST - 1);
            given_up.push_front(former.clone());
        }
    }

    fn given_up(&self) -> MutexGuard<'_, VecDeque<AccessToken>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn_of_outage(&self, error: &RedisError, what: &str) {
        let (account, error) = (self.account(), text(error));
        if self.warned_of_outage.is_due() {
            tracing::warn!(account, error, "Redis is away: {what}");
        } else {
            tracing::debug!(account, error, "Redis is away: {what}");
        }
    }

    fn count(&self, result: &'static str) {
        metrics::shared(self.account.as_ref(), result);
    }
}

impl<T> TokenSource for RedisTokens<T>
where
    T: TokenSource,
{
    async fn issue(&self, rejected: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
        self.get(rejected.map_or(Want::Any, Want::Instead)).await
    }

    async fn renew(&self, current: &AccessToken) -> Result<AccessToken, TokenError> {
        self.get(Want::After(current)).await
    }

    fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    fn shared_as(&self) -> Option<&str> {
        self.source.shared_as()
    }
}

impl<T> fmt::Debug for RedisTokens<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTokens")
            .field("account", &self.account)
            .field("layout", &self.layout)
            .field("outage", &self.outage)
            .field("lease", &self.lease)
            .field("refresh_budget", &self.price)
            .finish_non_exhaustive()
    }
}
