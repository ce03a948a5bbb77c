use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::Client;
use redis::aio::ConnectionLike;

use super::connection::Server;
use super::known::Known;
use super::layout::Layout;
use super::outage::Outage;
use super::scripts::Price;
use super::share::Want;
use crate::token::{AccessToken, TokenError, TokenSource};
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
    pub(super) source: T,
    pub(super) account: Option<Arc<str>>,
    pub(super) server: Arc<Server>,
    pub(super) layout: Option<Arc<Layout>>,
    pub(super) outage: Outage,
    pub(super) lease: Duration,
    pub(super) price: Option<Price>,
    pub(super) known: Known,
    pub(super) warned_of_outage: Seldom,
    pub(super) warned_of_value: Seldom,
    pub(super) warned_of_wait: Seldom,
}

impl<T> RedisTokens<T>
where
    T: TokenSource,
{
    /// Shares the tokens of `source` in the Redis of `client`.
    ///
    /// They stand where [`Layout`] says, under the source's appid. A connection is opened when a token is wanted and closed when it is
    /// there; another one listens for as long as this process waits for one that gets a token.
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
            known: Known::default(),
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

    /// How long Redis may take before it counts as away, all attempts together; default 2 s.
    ///
    /// Half of it is for each attempt, connecting included, so that a connection that has died leaves time for another. It should be a good deal less than the manager's `issue_timeout` (10 s), or there is no time left to ask the source.
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
