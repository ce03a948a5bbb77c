use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt, service_fn};
use zeroize::Zeroizing;

use super::builder::{self, ServerBuilder};
use super::clients::Client;
use super::error::BuildError;
use super::headers;
use super::limits::{self, Limits};
use super::metrics;
use super::opaque::{Seal, Unsealed};
use super::query::parameters;
use super::redirect;
use super::refusal::Refusal;
use super::registry::{Account, Registry};
use super::target::{API, Upstream};
use crate::body::ReplyBody;
use crate::error::Error;
use crate::layer::WechatAuthLayer;
use crate::outcome::AuthOutcome;
use crate::platform::{self, Platform};
use crate::service::WechatAuth;
use crate::token::{BoxError, TokenManager};
use crate::warnings::Seldom;

/// As long as what HMAC-SHA256 makes of it.
const SHORTEST_KEY: usize = 32;

/// Whatever client a gateway asks WeChat with.
type Http = BoxCloneSyncService<Request, Response, BoxError>;

/// One token for every process and every language: passes calls on to WeChat, with the real token in place of its own.
///
/// A client asks the gateway for a token as it would ask WeChat, gets one of the gateway's own, and makes its calls to
/// the gateway with it. It never sees a token of WeChat's, and so never sees one die: the gateway refreshes and sends the
/// call again. Bodies stream in both directions.
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
/// Any service of http's types whose request body is `axum::body::Body`, such as hyper-util's client. A reqwest client is one
/// as `HttpClient::new(client).map_request(from_axum)`, both of the module `reqwest`, with tower's `ServiceExt`. It should not
/// follow redirects, which clients do themselves; and have a limit for how long a reply's body may pause (reqwest's
/// `read_timeout`), as the gateway has none.
///
/// # What can be reached
///
/// One origin, [`upstream`](ServerBuilder::upstream), and of that the folders of WeChat's server API, or those that
/// [`paths`](ServerBuilder::paths) lists. Paths that take another token or the AppSecret (`/sns/*`, `/cgi-bin/component/*`) are not passed
/// on. Every path but the token requests' wants a good token, in the query and once.
///
/// # Limits
///
/// Every call holds at most [`replay_limit`](ServerBuilder::replay_limit) bytes of its body, so memory is
/// bounded by that times [`concurrency_limit`](ServerBuilder::concurrency_limit).
#[derive(Clone)]
pub struct Gateway {
    http: Http,
    upstream: String,
    paths: Vec<String>,
    signing_key: Option<Zeroizing<Vec<u8>>>,
    former_keys: Vec<Zeroizing<Vec<u8>>>,
    token_life: Duration,
    replay_limit: usize,
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
        let http = http.map_response(|reply: http::Response<R>| reply.map(Body::new));
        ServerBuilder::new(Gateway {
            http: BoxCloneSyncService::new(http.map_err(Into::into)),
            upstream: Platform::OfficialAccount.base_url().to_owned(),
            paths: API.map(str::to_owned).to_vec(),
            signing_key: None,
            former_keys: Vec::new(),
            token_life: Duration::from_secs(7200),
            replay_limit: 16 * 1024 * 1024,
            limits: Limits::default(),
        })
    }
}

impl ServerBuilder<Gateway> {
    /// Where calls are passed on to; default `https://api.weixin.qq.com`.
    ///
    /// An origin: a scheme, a host, and maybe a port. [`build`](ServerBuilder::build) says whether it is one.
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

    /// What the gateway's tokens are signed with, 32 bytes or more; default: random ones, so that a restart voids all tokens.
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

    /// How long the gateway's tokens live; default 7200 s, as WeChat's.
    pub fn token_life(mut self, life: Duration) -> Self {
        self.kind.token_life = life;
        self
    }

    /// How many bytes of a streaming request body are kept for a replay; default 16 MiB.
    ///
    /// See [`WechatAuthLayer::replay_limit`].
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.kind.replay_limit = bytes;
        self
    }

    /// How many bytes the body of a call may have; default 32 MiB. Past it: status 413.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.kind.limits.body_bytes = bytes;
        self
    }

    /// How long the body of a call may pause; default 30 s. Past it: status 408.
    pub fn body_pause(mut self, pause: Duration) -> Self {
        self.kind.limits.body_pause = pause;
        self
    }

    /// How many bytes the target and the headers of a call may have; default 32 KiB. Past it: status 431.
    pub fn header_limit(mut self, bytes: usize) -> Self {
        self.kind.limits.header_bytes = bytes;
        self
    }

    /// How many calls may wait for WeChat's reply at a time; default 1000. Past it: status 503, at once.
    pub fn concurrency_limit(mut self, calls: usize) -> Self {
        self.kind.limits.calls = calls;
        self
    }

    /// How long a call may take until WeChat's reply begins, its upload included; default 120 s. Past it: status 504.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.kind.limits.timeout = timeout;
        self
    }

    /// The gateway; it starts to keep the accounts' tokens fresh.
    ///
    /// Its router has a fallback, for everything that is passed on: merge it with routes of your own, but not with
    /// another fallback.
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
        let registry = shared.registry()?;
        let seal = Arc::new(Seal::new(&keys, registry.clients(), gateway.token_life));
        let layer =
            WechatAuthLayer::select(|call| Some(call.extensions.get::<OnBehalf>()?.0.clone()))
                .api_origin(upstream.origin())
                .replay_limit(gateway.replay_limit);
        let calls = Arc::new(Calls {
            registry: Arc::clone(&registry),
            seal: Arc::clone(&seal),
            upstream,
            limits: gateway.limits,
            wechat: layer.layer(gateway.http),
            failing: Seldom::default(),
        });
        let pass_on = service_fn(move |request| Arc::clone(&calls).answer(request));
        let calls = gateway.limits.around(pass_on);
        Ok(builder::routes(&registry, seal, render).fallback_service(calls))
    }
}

impl Gateway {
    fn keys(&self) -> Result<Vec<Zeroizing<Vec<u8>>>, BuildError> {
        let given = self.signing_key.iter().chain(&self.former_keys);
        if given.clone().any(|key| key.len() < SHORTEST_KEY) {
            return Err(BuildError::new(
                "a signing key has 32 random bytes at least",
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

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// In the extensions of a call that is passed on: whose token it gets.
#[derive(Clone)]
struct OnBehalf(TokenManager);

/// What all calls of a gateway share.
struct Calls {
    registry: Arc<Registry>,
    seal: Arc<Seal>,
    upstream: Upstream,
    limits: Limits,
    wechat: WechatAuth<Http>,
    failing: Seldom,
}

impl Calls {
    async fn answer(self: Arc<Self>, request: Request) -> Result<Response, Infallible> {
        let reply = self.pass_on(request).await;
        Ok(reply.unwrap_or_else(IntoResponse::into_response))
    }

    async fn pass_on(&self, request: Request) -> Result<Response, Refusal> {
        let (target, token) = self
            .read(&request)
            .inspect_err(|_| metrics::call_refused("malformed"))?;
        let (client, account) = self.open(&token)?;

        let path = target.path().to_owned();
        let call = self.call(request, target, account);
        let call = call.inspect_err(|_| metrics::call(client, account, "body_failed"))?;
        let reply = self.send(call).await;
        let reply = reply.map_err(|error| self.failed(client, account, &path, &error))?;
        metrics::call(client, account, "ok");
        tracing::debug!(
            client = &*client.name,
            account = &*account.appid,
            path,
            "passed on"
        );
        Ok(self.hand_on(reply, &token, account))
    }

    /// Where the call is to go, and the token that it came with.
    fn read(&self, request: &Request) -> Result<(Uri, String), Refusal> {
        let uri = request.uri();
        let target_bytes = uri
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        if target_bytes + headers::size(request.headers()) > self.limits.header_bytes {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err(Refusal::with_status(
                status,
                48001,
                "the headers are too large for the gateway",
            ));
        }
        let target = self.upstream.target(request)?;
        let mut tokens = parameters(uri.query().unwrap_or_default())
            .filter(|(name, _)| name == "access_token")
            .map(|(_, token)| token);
        let token = tokens.next().filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| Refusal::new(41001, "access_token missing"))?;
        if tokens.next().is_some() {
            // It would be up to the server which of them counts.
            return Err(Refusal::new(
                40001,
                "invalid credential, there is more than one access_token",
            ));
        }
        Ok((target, token.into_owned()))
    }

    fn open(&self, token: &str) -> Result<(&Client, &Account), Refusal> {
        self.seal.open(token, &self.registry).map_err(|unsealed| match unsealed {
            Unsealed::Invalid => {
                metrics::call_refused("invalid_token");
                Refusal::new(
                    40001,
                    "invalid credential, access_token is invalid or not latest: get one from this gateway",
                )
            }
            Unsealed::Expired => {
                metrics::call_refused("expired_token");
                Refusal::new(42001, "access_token expired")
            }
        })
    }

    /// The call as WeChat gets it: made anew, so that nothing goes along that is not meant to.
    fn call(&self, request: Request, target: Uri, account: &Account) -> Result<Request, Refusal> {
        let (head, body) = request.into_parts();
        let mut call = Request::new(self.limits.body(body)?);
        *call.method_mut() = head.method;
        *call.uri_mut() = target;
        *call.headers_mut() = head.headers;
        headers::clean_request(call.headers_mut());
        call.extensions_mut()
            .insert(OnBehalf(account.tokens.clone()));
        Ok(call)
    }

    /// Boxed, as the compiler does not see that the future can go to another thread where it is awaited.
    fn send(&self, call: Request) -> BoxFuture<Result<http::Response<ReplyBody<Body>>, Error>> {
        Box::pin(self.wechat.clone().oneshot(call))
    }

    fn failed(&self, client: &Client, account: &Account, path: &str, error: &Error) -> Refusal {
        let (client_name, appid) = (&*client.name, &*account.appid);
        if let Some(why) = error.token_error() {
            // The manager has told of it already.
            tracing::debug!(client = client_name, account = appid, path, %error, "not passed on");
            metrics::call(client, account, "no_token");
            return Refusal::no_token(why);
        }
        if let Some(refusal) = limits::body_failed(error.get_ref()) {
            metrics::call(client, account, "body_failed");
            return refusal;
        }
        metrics::call(client, account, "failed");
        if self.failing.is_due() {
            tracing::warn!(client = client_name, account = appid, path, %error, "a call did not get through to WeChat");
        } else {
            tracing::debug!(client = client_name, account = appid, path, %error, "a call did not get through to WeChat");
        }
        Refusal::with_status(
            StatusCode::BAD_GATEWAY,
            platform::BUSY,
            format!("system error: {error}"),
        )
    }

    fn hand_on(
        &self,
        reply: http::Response<ReplyBody<Body>>,
        token: &str,
        account: &Account,
    ) -> Response {
        let (mut head, body) = reply.into_parts();
        headers::clean_reply(&mut head.headers);
        redirect::clean(&mut head.headers, &self.upstream, token, &account.tokens);
        let mut reply = Response::new(Body::new(body));
        *reply.status_mut() = head.status;
        *reply.headers_mut() = head.headers;
        // Of what the client leaves there, only this tells no token.
        if let Some(outcome) = head.extensions.remove::<AuthOutcome>() {
            reply.extensions_mut().insert(outcome);
        }
        reply
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
