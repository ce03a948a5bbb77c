use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;

use super::clients::{Allowed, Client};
use super::error::BuildError;
use super::health::{self, Render};
use super::metrics;
use super::registry::Registry;
use super::token_endpoints::{self, Grant};
use super::token_server::TokenServer;
use crate::source::Secret;
use crate::token::{RateLimit, TokenManager};

/// Sets a [`TokenServer`] or a [`Gateway`](crate::server::Gateway) up; made by their `builder`.
///
/// ```
/// use std::time::Duration;
/// use tower_wechat::server::TokenServer;
/// use tower_wechat::{AccessToken, TokenManager, source_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let tokens_of = |_account| TokenManager::new(source_fn(|_| async {
/// #     Ok(AccessToken::new("78_Zx0", Duration::from_secs(7200)))
/// # }));
/// let router: axum::Router = TokenServer::builder()
///     .account("wx0123456789abcdef", tokens_of("wx0123456789abcdef"))
///     .account("wxfedcba9876543210", tokens_of("wxfedcba9876543210"))
///     .client("crm", "ZmFrZSBzZWNyZXQgb2YgY3Jt")
///     .client_for("shop", "ZmFrZSBzZWNyZXQgb2Ygc2hvcA", ["wxfedcba9876543210"])
///     .build()?;
/// # drop(router);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is served until it is built"]
pub struct ServerBuilder<K> {
    shared: Shared,
    pub(super) kind: K,
}

/// What both servers are set up with.
pub(super) struct Shared {
    accounts: Vec<(String, TokenManager)>,
    clients: Vec<NewClient>,
    allowed: Allowed,
    render: Option<Render>,
}

struct NewClient {
    name: String,
    secret: Secret,
    accounts: Option<Vec<String>>,
}

impl<K> ServerBuilder<K> {
    pub(super) fn new(kind: K) -> Self {
        ServerBuilder {
            shared: Shared {
                accounts: Vec::new(),
                clients: Vec::new(),
                allowed: Allowed::default(),
                render: None,
            },
            kind,
        }
    }

    /// One account, and where its tokens come from; repeatable.
    ///
    /// The server keeps the token fresh, with nobody asking for it. With
    /// [`ClientCredential`](crate::ClientCredential) it has to be the only one that refreshes this
    /// account.
    pub fn account(mut self, appid: impl Into<String>, tokens: TokenManager) -> Self {
        self.shared.accounts.push((appid.into(), tokens));
        self
    }

    /// One of those who may ask, for every account; repeatable.
    ///
    /// The name is for logs and metrics. By the secret the server knows who asks, so each has its
    /// own, of 16 bytes at least.
    pub fn client(self, name: impl Into<String>, secret: impl Into<String>) -> Self {
        self.add_client(name.into(), secret.into(), None)
    }

    /// One of those who may ask, for these accounts only; repeatable.
    pub fn client_for<A: Into<String>>(
        self,
        name: impl Into<String>,
        secret: impl Into<String>,
        appids: impl IntoIterator<Item = A>,
    ) -> Self {
        let accounts = appids.into_iter().map(Into::into).collect();
        self.add_client(name.into(), secret.into(), Some(accounts))
    }

    fn add_client(mut self, name: String, secret: String, accounts: Option<Vec<String>>) -> Self {
        self.shared.clients.push(NewClient {
            name,
            secret: Secret::new(secret),
            accounts,
        });
        self
    }

    /// How often each client may ask for a token: `burst` times at once, then once more every
    /// `per`; default 1000 and 100 ms.
    ///
    /// Past it: 45009. A gateway's calls are not counted.
    pub fn rate_limit(mut self, burst: u32, per: Duration) -> Self {
        self.shared.allowed.token_requests = RateLimit::new(burst, per);
        self
    }

    /// How often each client may have a rejected token of an account replaced: `burst` times at
    /// once, then once more every `per`; default: half of what the account may, or all of it if
    /// there is one client only.
    ///
    /// So one client that is wrong about its tokens leaves the others what they need. A refresh is
    /// charged to the client that causes it, when it takes off. The client gets it back if the call
    /// is accepted when it is sent again, or if the refresh cost WeChat's quota nothing. Past the
    /// limit the token server gives the current token as it is, and a gateway does not refresh
    /// because of this client's calls; a warning names the client. The last refresh that an account
    /// has is kept for a client that has had none. Each server counts by itself: with several
    /// replicas set this to the part of one. The account's own limit is
    /// [`refresh_budget`](crate::TokenManagerBuilder::refresh_budget): WeChat itself replaces 20
    /// [`StableToken`](crate::StableToken)s a day.
    pub fn refresh_limit(mut self, burst: u32, per: Duration) -> Self {
        self.shared.allowed.refreshes = Some(RateLimit::new(burst, per));
        self
    }

    /// What `GET /metrics` answers with; default: there is no such path.
    ///
    /// All counts go through the facade of the `metrics` crate, to the recorder that the program
    /// has installed. With `metrics-exporter-prometheus`:
    ///
    /// ```
    /// use metrics_exporter_prometheus::PrometheusBuilder;
    /// use tower_wechat::server::TokenServer;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let prometheus = PrometheusBuilder::new().install_recorder()?;
    /// let builder = TokenServer::builder().metrics(move || prometheus.render());
    /// # drop(builder);
    /// # Ok(())
    /// # }
    /// ```
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.shared.render = Some(Render::new(render));
        self
    }

    pub(super) fn into_parts(self) -> (Shared, K) {
        (self.shared, self.kind)
    }
}

impl ServerBuilder<TokenServer> {
    /// The token server; it starts to keep the accounts' tokens fresh.
    ///
    /// # Errors
    ///
    /// Says what is wrong with what it was set up with.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn build(self) -> Result<Router, BuildError> {
        let (shared, server) = self.into_parts();
        let render = shared.render();
        let registry = shared.registry()?;
        Ok(routes(&registry, server, render))
    }
}

impl Shared {
    pub(super) fn render(&self) -> Option<Render> {
        self.render.clone()
    }

    pub(super) fn registry(self) -> Result<Arc<Registry>, BuildError> {
        let allowed = self.allowed;
        let clients = self
            .clients
            .into_iter()
            .map(|client| Client::new(client.name, client.secret, client.accounts, &allowed));
        Registry::new(self.accounts, clients.collect()).map(Arc::new)
    }
}

/// What both servers answer.
pub(super) fn routes(
    registry: &Arc<Registry>,
    grant: impl Grant,
    render: Option<Render>,
) -> Router {
    metrics::describe();
    token_endpoints::routes(registry, grant).merge(health::routes(registry, render))
}

impl<K: fmt::Debug> fmt::Debug for ServerBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts = self.shared.accounts.iter().map(|(appid, _)| appid);
        let clients = self.shared.clients.iter().map(|client| &client.name);
        f.debug_struct("ServerBuilder")
            .field("kind", &self.kind)
            .field("accounts", &accounts.collect::<Vec<_>>())
            .field("clients", &clients.collect::<Vec<_>>())
            .field("allowed", &self.shared.allowed)
            .finish_non_exhaustive()
    }
}
