use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use bytes::Bytes;
use tower::{Service, service_fn};
use zeroize::Zeroizing;

use super::builder::{self, ServerBuilder};
use super::calls::Calls;
use super::error::BuildError;
use super::http::Http;
use super::limits::Limits;
use super::opaque::{LONGEST_LIFE, Seal};
use super::target::{API, Upstream};
use crate::platform::Platform;
use crate::token::BoxError;

/// As long as what HMAC-SHA256 makes of it.
const SHORTEST_KEY: usize = 32;

/// One token for every process and every language: passes calls on to WeChat, with the real token
/// in place of its own.
///
/// A client asks the gateway for a token as it would ask WeChat, gets one of the gateway's own, and
/// makes its calls to the gateway with it. It never sees a token of WeChat's, and is not told when
/// one dies: the gateway refreshes and sends the call again, and where even that does not help, it
/// says so in an errcode of its own ([`server`](crate::server#endpoints)). Bodies stream in both
/// directions, but one that comes in chunks is collected first: WeChat wants its length.
///
/// ```
/// # use axum::body::Body;
/// # use bytes::Bytes;
/// # use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # use tower_wechat::mock::MockWechat;
/// # use tower_wechat::{ClientCredential, TokenManager};
/// use tower_wechat::server::Gateway;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let wechat = MockWechat::start().await;
/// # let source = ClientCredential::new(
/// #     Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>(), wechat.appid(), wechat.secret(),
/// # );
/// # let (appid, tokens) = (wechat.appid(), TokenManager::new(source.base_url(wechat.url())));
/// # let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
/// let gateway = Gateway::builder(http)
///     .account(appid, tokens)
///     .client("crm", "a secret of this client's own")
///     .client_for("shop", "another secret, of this client's own", [appid])
///     .signing_key("32 random bytes, the same at each replica of this gateway")
///     .build()?;
/// # drop(gateway);
/// # Ok(())
/// # }
/// ```
///
/// # The client that it asks WeChat with
///
/// Any service of http's types whose request body is `axum::body::Body`, such as hyper-util's
/// client. A reqwest client is one as `HttpClient::new(client).map_request(from_axum)`, both of the
/// module `reqwest`, with tower's `ServiceExt`. It should not follow redirects, which clients do
/// themselves.
///
/// # What it did
///
/// Replies that were passed on have [`AuthOutcome`](crate::AuthOutcome) in their extensions, for
/// layers of your own around the router.
///
/// # What can be reached
///
/// One origin, [`upstream`](ServerBuilder::upstream), and of that the folders of WeChat's server
/// API, or those that [`paths`](ServerBuilder::paths) lists. Never passed on are paths that take
/// another token or the AppSecret (`/sns/*`, `/cgi-bin/component/*`, WeCom's `/cgi-bin/gettoken`),
/// and `/cgi-bin/openapi/rid/get`, which tells the token of an earlier call. Every path but the
/// token requests' wants a good token, in the query and once.
///
/// # Limits
///
/// Every call holds at most [`replay_limit`](ServerBuilder::replay_limit) bytes of its body, and
/// all of them [`replay_budget`](ServerBuilder::replay_budget) bytes together.
#[derive(Clone)]
pub struct Gateway {
    http: Http,
    upstream: String,
    paths: Vec<String>,
    signing_key: Option<Zeroizing<Vec<u8>>>,
    former_keys: Vec<Zeroizing<Vec<u8>>>,
    token_life: Duration,
    limits: Limits,
}

impl Gateway {
    /// Sets a gateway up that asks WeChat by `http`.
    pub fn builder<S, R>(http: S) -> ServerBuilder<Gateway>
    where
        S: Service<Request, Response = http::Response<R>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        ServerBuilder::new(Gateway {
            http: Http::new(http),
            upstream: Platform::OfficialAccount.base_url().to_owned(),
            paths: API.map(str::to_owned).to_vec(),
            signing_key: None,
            former_keys: Vec::new(),
            token_life: Duration::from_secs(7200),
            limits: Limits::default(),
        })
    }
}

impl ServerBuilder<Gateway> {
    /// Where calls are passed on to; default `https://api.weixin.qq.com`.
    ///
    /// An origin: a scheme, a host, and maybe a port. [`build`](ServerBuilder::build) says whether
    /// it is one.
    pub fn upstream(mut self, origin: impl Into<String>) -> Self {
        self.kind.upstream = origin.into();
        self
    }

    /// The paths that are passed on, in place of all folders of WeChat's server API.
    ///
    /// One that ends in `/` is a folder and all that is in it, any other one path.
    pub fn paths<P: Into<String>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.kind.paths = paths.into_iter().map(Into::into).collect();
        self
    }

    /// What the gateway's tokens are signed with, 32 bytes or more; default: random ones, so that a
    /// restart voids all tokens.
    ///
    /// Gateways with the same key, accounts and clients take each other's tokens.
    pub fn signing_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.kind.signing_key = Some(Zeroizing::new(key.as_ref().to_vec()));
        self
    }

    /// A key whose tokens are still taken, while a new one takes its place; repeatable.
    pub fn former_signing_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.kind
            .former_keys
            .push(Zeroizing::new(key.as_ref().to_vec()));
        self
    }

    /// How long the gateway's tokens live, 1 s to 30 days; default 7200 s, as WeChat's.
    pub fn token_life(mut self, life: Duration) -> Self {
        self.kind.token_life = life;
        self
    }

    /// How many bytes of a call's body are kept for a replay; default 16 MiB.
    ///
    /// See [`WechatAuthLayer::replay_limit`](crate::WechatAuthLayer::replay_limit). A body that
    /// comes in chunks is collected before it is passed on, and may not be larger than this. Past
    /// it: status 413.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.kind.limits.replay_bytes = bytes;
        self
    }

    /// How many bytes of bodies are kept at a time, of all calls together; default 256 MiB.
    ///
    /// Where there are several clients, none of them gets more than half of it. Past it a body with
    /// a Content-Length is passed on without a copy, and one that comes in chunks waits up to 10 s
    /// for room; then: status 503. See [`ReplayBudget`](crate::ReplayBudget), also for how large
    /// one body may be.
    pub fn replay_budget(mut self, bytes: usize) -> Self {
        self.kind.limits.replay_total = bytes;
        self
    }

    /// How many bytes the body of a call may have; default 32 MiB. Past it: status 413.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.kind.limits.body_bytes = bytes;
        self
    }

    /// How long the body of a call may pause, and that of a reply; default 30 s. Past it: status
    /// 408, and of a reply an error, or, where its beginning has gone out, its end.
    pub fn body_pause(mut self, pause: Duration) -> Self {
        self.kind.limits.body_pause = pause;
        self
    }

    /// How many bytes the target and the headers of a call may have; default 32 KiB. Past it:
    /// status 431.
    pub fn header_limit(mut self, bytes: usize) -> Self {
        self.kind.limits.header_bytes = bytes;
        self
    }

    /// How many calls may be under way at a time, their replies included; default 1000. Past it:
    /// status 503, at once.
    ///
    /// Where there are several clients, none of them gets more than half of it.
    pub fn concurrency_limit(mut self, calls: usize) -> Self {
        self.kind.limits.calls = calls;
        self
    }

    /// How long a call may take until WeChat's reply begins, its upload included; default 120 s.
    /// Past it: errcode 59900502, as WeChat may have acted on the call.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.kind.limits.timeout = timeout;
        self
    }

    /// The gateway; it starts to keep the accounts' tokens fresh.
    ///
    /// Its router has a fallback, for everything that is passed on. In an application of yours,
    /// whose own routes then come first, make it the fallback: `app.fallback_service(gateway)`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with what it was set up with.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn build(self) -> Result<Router, BuildError> {
        let (shared, gateway) = self.into_parts();
        let render = shared.render();
        let upstream = Upstream::new(&gateway.upstream, gateway.paths.clone())?;
        let keys = gateway.keys()?;
        gateway.limits.check()?;
        gateway.check_life()?;
        let registry = shared.registry()?;
        let seal = Arc::new(Seal::new(&keys, registry.clients(), gateway.token_life));
        let calls = Calls::new(
            Arc::clone(&registry),
            Arc::clone(&seal),
            upstream,
            gateway.limits,
            gateway.http,
        );
        let calls = Arc::new(calls);
        let pass_on = service_fn(move |request| Arc::clone(&calls).answer(request));
        Ok(builder::routes(&registry, seal, render).fallback_service(pass_on))
    }
}

impl Gateway {
    fn check_life(&self) -> Result<(), BuildError> {
        if (Duration::from_secs(1)..=LONGEST_LIFE).contains(&self.token_life) {
            return Ok(());
        }
        Err(BuildError::new(
            "the life of a gateway's tokens is 1 s to 30 days",
        ))
    }

    fn keys(&self) -> Result<Vec<Zeroizing<Vec<u8>>>, BuildError> {
        let given = self.signing_key.iter().chain(&self.former_keys);
        if given.clone().any(|key| key.len() < SHORTEST_KEY) {
            return Err(BuildError::new(
                "a signing key has 32 bytes at least: take random ones, as `openssl rand -hex 32` gives",
            ));
        }
        if self.signing_key.is_some() {
            return Ok(given.cloned().collect());
        }
        tracing::warn!(
            "the gateway has no signing key: its tokens die with it, and no other gateway takes them"
        );
        let mut random = Zeroizing::new(vec![0; SHORTEST_KEY]);
        getrandom::fill(&mut random).map_err(|error| {
            BuildError::new(format!("the system gives no random bytes: {error}"))
        })?;
        Ok(std::iter::once(random).chain(given.cloned()).collect())
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("upstream", &self.upstream)
            .field("token_life", &self.token_life)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
