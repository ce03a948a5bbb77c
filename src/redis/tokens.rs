use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Client, RedisError};

use super::connection::Server;
use super::known::Known;
use super::layout::Layout;
use super::outage::Outage;
use super::scripts::Price;
use super::share::Want;
use crate::token::{AccessToken, RateLimit, TokenError, TokenSource};
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
///         .layout(Layout::wx_java_mp("wx", "wx0123456789abcdef"))
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
    pub(super) limit: Option<RateLimit>,
    pub(super) price: Option<Price>,
    #[cfg(feature = "redis-seal")]
    pub(super) seal: Option<super::seal::Seal>,
    pub(super) known: Known,
    pub(super) warned_of_outage: Seldom,
    pub(super) told_of_refusal: Seldom,
    pub(super) warned_of_lease: Seldom,
    pub(super) warned_of_value: Seldom,
    pub(super) warned_of_wait: Seldom,
}

impl<T> RedisTokens<T>
where
    T: TokenSource,
{
    /// Shares the tokens of `source` in the Redis of `client`.
    ///
    /// They stand where [`Layout`] says, under the source's appid. A connection is opened when a
    /// token is wanted and closed when it is there; another one listens for as long as this process
    /// waits for one that gets a token.
    pub fn new(client: Client, source: T) -> Self {
        RedisTokens::over(Server::new(client), source)
    }

    /// Shares them by connections that `connect` makes: of a cluster, or to the master that
    /// Sentinel names.
    ///
    /// One is made when a token is wanted, dropped when it is there, and made anew when it fails or
    /// leads to a server that takes no writes (`READONLY`, `LOADING`, `CLUSTERDOWN`), as after a
    /// failover. Announcements are not listened to, so a process that waits for a token looks for
    /// it every 50 to 100 ms.
    ///
    /// ```
    /// use redis::cluster::ClusterClient;
    /// use tower_wechat::TokenSource;
    /// use tower_wechat::redis::RedisTokens;
    ///
    /// fn shared<T: TokenSource>(source: T) -> Result<RedisTokens<T>, redis::RedisError> {
    ///     let cluster = ClusterClient::new(["redis://10.0.0.1/", "redis://10.0.0.2/"])?;
    ///     let connect = move || {
    ///         let cluster = cluster.clone();
    ///         async move { cluster.get_async_connection().await }
    ///     };
    ///     Ok(RedisTokens::with_connections(connect, source))
    /// }
    /// ```
    pub fn with_connections<F, R, C>(connect: F, source: T) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<C, RedisError>> + Send + 'static,
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        RedisTokens::over(Server::with_connections(connect), source)
    }

    /// Shares them by one connection of your own, which has to connect again by itself when it has
    /// failed.
    ///
    /// It cannot be replaced from here. That of a `ConnectionManager` goes on to a master that has
    /// become a replica for as long as it lives, and no token is shared then, as an error in the
    /// log says: use [`with_connections`](RedisTokens::with_connections) where there are failovers.
    pub fn with_connection<C>(connection: C, source: T) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        RedisTokens::over(Server::with_connection(connection), source)
    }

    fn over(server: Server, source: T) -> Self {
        let limit = source.refresh_limit();
        let price = limit.unwrap_or(RateLimit::new(5, Duration::from_secs(60)));
        RedisTokens {
            account: source.account().map(Arc::from),
            layout: source.shared_as().map(|name| Arc::new(Layout::of(name))),
            source,
            server: Arc::new(server),
            outage: Outage::default(),
            lease: Duration::from_secs(3),
            limit,
            price: Price::of(price),
            #[cfg(feature = "redis-seal")]
            seal: None,
            known: Known::default(),
            warned_of_outage: Seldom::default(),
            told_of_refusal: Seldom::default(),
            warned_of_lease: Seldom::default(),
            warned_of_value: Seldom::default(),
            warned_of_wait: Seldom::default(),
        }
    }

    /// Where the token stands; needed for a source whose account does not say it, as a closure, or
    /// an application of WeCom's.
    ///
    /// # Panics
    ///
    /// With the feature `redis-seal`, when the token is to be sealed and other programs are to read
    /// it by this layout.
    #[track_caller]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = Some(Arc::new(layout));
        #[cfg(feature = "redis-seal")]
        self.assert_that_it_can_be_sealed();
        self
    }

    /// Has the token stand in Redis sealed (feature `redis-seal`): see [`Seal`](super::Seal).
    ///
    /// A value that does not open is replaced, and a warning says so. All processes that share the
    /// token have the key.
    ///
    /// # Panics
    ///
    /// When the layout is one of WxJava's, or has a format of its own: other programs would have to
    /// open the token.
    #[cfg(feature = "redis-seal")]
    #[track_caller]
    pub fn sealed(mut self, seal: super::seal::Seal) -> Self {
        self.seal = Some(seal);
        self.assert_that_it_can_be_sealed();
        self
    }

    #[cfg(feature = "redis-seal")]
    #[track_caller]
    fn assert_that_it_can_be_sealed(&self) {
        let foreign = self
            .layout
            .as_ref()
            .is_some_and(|layout| layout.is_foreign());
        assert!(
            !(foreign && self.seal.is_some()),
            "a token in the form of WxJava, or in another of your own, cannot be sealed: leave out either \
             RedisTokens::sealed or that layout"
        );
    }

    /// The layout, or why there is none.
    pub(super) fn layout_or_why(&self) -> Result<&Arc<Layout>, &'static str> {
        self.layout.as_ref().ok_or(
            "the source does not say whose token it gives: name its place in Redis with \
             RedisTokens::layout(Layout::new(…))",
        )
    }

    /// What to do while Redis is away; default: [`Outage::IssueLocally`].
    pub fn outage(mut self, outage: Outage) -> Self {
        self.outage = outage;
        self
    }

    /// After what time somebody else may ask for a token in place of one who died at it; default 3
    /// s, and 100 ms at least.
    ///
    /// A process that is halted for longer while it asks costs one more token request.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(100));
        self
    }

    /// How long Redis may take before it counts as away, all attempts together; default 2 s.
    ///
    /// Half of it is for each attempt, connecting included, so that a connection that has died
    /// leaves time for another. It should be a good deal less than the manager's `issue_timeout`
    /// (10 s), or there is no time left to ask the source.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        // Nothing but this has a clone of it yet.
        if let Some(server) = Arc::get_mut(&mut self.server) {
            server.set_timeout(timeout);
        }
        self
    }

    /// How many refreshes of a rejected token all processes are allowed together: `burst` at once,
    /// then one more every `per`; default: what the source says
    /// ([`refresh_limit`](TokenSource::refresh_limit)), or 5 and 60 s.
    ///
    /// What costs the platform nothing costs nothing of this: a token that another process has got,
    /// or that came without a forced request. Each manager has a budget of its own besides.
    pub fn refresh_budget(mut self, burst: u32, per: Duration) -> Self {
        let limit = RateLimit::new(burst, per);
        self.limit = Some(limit);
        self.price = Price::of(limit);
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

    /// What [`refresh_budget`](RedisTokens::refresh_budget) was told, or else the source says.
    fn refresh_limit(&self) -> Option<RateLimit> {
        self.limit
    }
}

impl Price {
    /// `None` where refreshes are not counted: without a period a budget would never be used up.
    fn of(limit: RateLimit) -> Option<Price> {
        let (burst, per) = (limit.burst(), limit.per());
        (burst == 0 || !per.is_zero()).then_some(Price { burst, per })
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
