//! The layer, and what it is set up with.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::request::Parts;
use tokio::time::Instant;
use tower_layer::Layer;

use crate::platform::Platform;
use crate::request::{Scope, SkipAuth, Target};
use crate::service::WechatAuth;
use crate::token::TokenManager;

/// Puts the account's `access_token` on every WeChat call, and survives its death.
///
/// It wraps any HTTP client service. To each request for a WeChat API it adds the token; it reads
/// every reply that could be a rejection of the token (errcode 40001, 42001 or 40014), gets a new
/// one, once for everybody, and sends the same request again. The caller sees the second reply.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower::{Layer, ServiceExt};
/// use tower_wechat::{ClientCredential, TokenManager, WechatAuthLayer};
/// # use tower_wechat::mock::MockWechat;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let wechat = MockWechat::start().await;
/// # let (origin, appid, secret) = (wechat.url(), wechat.appid(), wechat.secret());
/// let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let tokens = TokenManager::new(
///     ClientCredential::new(http.clone(), appid, secret).base_url(&origin),
/// );
/// let wechat_api = WechatAuthLayer::new(tokens).api_origin(&origin).layer(http);
///
/// let request = http::Request::get(format!("{origin}/cgi-bin/user/get"))
///     .body(Full::default())?;
/// let reply = wechat_api.oneshot(request).await?;
/// assert!(reply.status().is_success());
/// # Ok(())
/// # }
/// ```
///
/// # Where it goes in a stack
///
/// Outside it belong layers that speak of the *call*: a timeout for all of it, a concurrency limit
/// for callers, your own retries (the layer retries nothing but the rejected token), traces of the
/// request as your code made it, without the token. Inside it belong layers that speak of the
/// *wire*: decompression, redirects (a client that follows them may send the URL on as `Referer`;
/// turn that off), the client itself. A trace layer inside it prints the token in every span.
///
/// The token source gets the client without this layer.
#[derive(Clone)]
pub struct WechatAuthLayer {
    config: Config,
}

/// What a service needs to know; shared by its clones.
#[derive(Clone)]
pub(crate) struct Config {
    accounts: Accounts,
    scope: Scope,
    refresh_on: Option<Vec<i64>>,
    pub(crate) replay_limit: usize,
    pub(crate) inspect_limit: usize,
    answer_token_requests: bool,
    pub(crate) warnings: Arc<Warnings>,
}

#[derive(Clone)]
enum Accounts {
    One(TokenManager),
    Selected(Arc<Select>),
}

type Select = dyn Fn(&Parts) -> Option<TokenManager> + Send + Sync;

/// What has been warned of: one bad day must not fill a disk with the same line.
#[derive(Default)]
pub(crate) struct Warnings {
    coding: AtomicBool,
    pub(crate) same_token: Seldom,
    pub(crate) body_not_kept: Seldom,
    pub(crate) rejected_again: Seldom,
}

/// A warning given once a minute at most; in between it is for those who debug.
#[derive(Default)]
pub(crate) struct Seldom {
    warned_at: Mutex<Option<Instant>>,
}

impl Seldom {
    pub(crate) fn tell(&self, path: &str, message: &str) {
        if self.is_due() {
            tracing::warn!(path, "{message}");
        } else {
            tracing::debug!(path, "{message}");
        }
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut warned_at = self
            .warned_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let due = warned_at.is_none_or(|at| now >= at + Duration::from_secs(60));
        if due {
            *warned_at = Some(now);
        }
        due
    }
}

/// What becomes of a request.
pub(crate) enum Route<'a> {
    /// It is sent as it is.
    Pass,
    /// It gets a token of this manager's.
    Authorize(Cow<'a, TokenManager>),
    /// It asks for a token and is answered with one of this manager's.
    Answer(Cow<'a, TokenManager>),
}

impl WechatAuthLayer {
    /// A layer for the account whose tokens these are.
    pub fn new(tokens: TokenManager) -> Self {
        WechatAuthLayer::with(Accounts::One(tokens))
    }

    /// A layer for many accounts: `select` says for each request whose token it gets.
    ///
    /// Where it says `None`, the request is sent as it is.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use bytes::Bytes;
    /// use http_body_util::{BodyExt, Full};
    /// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// use tower::{Layer, ServiceExt};
    /// use tower_wechat::{ClientCredential, TokenManager, WechatAuthLayer};
    /// # use tower_wechat::mock::MockWechat;
    ///
    /// /// Which of our accounts a request speaks for.
    /// #[derive(Clone, PartialEq, Eq, Hash)]
    /// struct Account(&'static str);
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let wechat = MockWechat::start().await;
    /// # let origin = wechat.url();
    /// # let (appid, secret) = (wechat.appid(), wechat.secret());
    /// let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    /// let mut accounts = HashMap::new();
    /// for name in ["shop", "news"] {
    ///     let source = ClientCredential::new(http.clone(), appid, secret).base_url(&origin);
    ///     accounts.insert(Account(name), TokenManager::new(source));
    /// }
    /// let layer = WechatAuthLayer::select(move |request| {
    ///     accounts.get(request.extensions.get::<Account>()?).cloned()
    /// });
    /// let service = layer.api_origin(&origin).layer(http);
    ///
    /// let request = http::Request::get(format!("{origin}/cgi-bin/user/get"))
    ///     .extension(Account("shop"))
    ///     .body(Full::default())?;
    /// let users = service.clone().oneshot(request).await?.into_body().collect().await?;
    /// assert!(String::from_utf8_lossy(&users.to_bytes()).contains("OPENID1"));
    ///
    /// let unnamed = http::Request::get(format!("{origin}/cgi-bin/user/get"))
    ///     .body(Full::default())?;
    /// let refused = service.oneshot(unnamed).await?.into_body().collect().await?;
    /// assert!(refused.to_bytes().starts_with(b"{\"errcode\":41001"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn select(select: impl Fn(&Parts) -> Option<TokenManager> + Send + Sync + 'static) -> Self {
        WechatAuthLayer::with(Accounts::Selected(Arc::new(select)))
    }

    fn with(accounts: Accounts) -> Self {
        WechatAuthLayer {
            config: Config {
                accounts,
                scope: Scope::default(),
                refresh_on: None,
                replay_limit: 16 * 1024 * 1024,
                inspect_limit: 4 * 1024,
                answer_token_requests: false,
                warnings: Arc::default(),
            },
        }
    }

    /// The platform: its hosts get the token, its errcodes mean a refresh. Default: official
    /// accounts and mini programs.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.config.scope.set_platform(platform);
        self
    }

    /// One more place that may be sent the token, such as `http://127.0.0.1:8080`; repeatable.
    ///
    /// The platform's own hosts get it over https only. The paths that take another token (`/sns/*` and
    /// the like) are known at the root of an origin: behind a proxy that puts a path before them, send
    /// such requests with [`SkipAuth`].
    ///
    /// # Panics
    ///
    /// When `origin` is not `http://` or `https://`, a host and maybe a port, and nothing more.
    pub fn api_origin(mut self, origin: impl AsRef<str>) -> Self {
        self.config.scope.add_origin(origin.as_ref());
        self
    }

    /// How many bytes of a streaming request body are kept for a replay; default 16 MiB.
    ///
    /// The largest upload that WeChat takes is 10 MB. Bodies that are in memory already (`Full`,
    /// `String`, `Bytes`, and a box around one of them) are replayed whatever their size.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.config.replay_limit = bytes;
        self
    }

    /// How many bytes of a reply are read ahead, at most, to find its errcode; default 4 KiB.
    ///
    /// WeChat's errors are about 220 bytes. A reply that is larger, or that does not begin as a
    /// JSON object does, is handed on at its first frame.
    pub fn inspect_limit(mut self, bytes: usize) -> Self {
        self.config.inspect_limit = bytes;
        self
    }

    /// Replaces the platform's errcodes that mean "get another token".
    ///
    /// Only those belong here that WeChat gives before it acts on a call, as the call is repeated.
    pub fn refresh_on(mut self, errcodes: impl IntoIterator<Item = i64>) -> Self {
        self.config.refresh_on = Some(errcodes.into_iter().collect());
        self
    }

    /// Whether a request for a token is answered with the manager's own; default no.
    ///
    /// For an SDK that fetches tokens by itself through the wrapped client: its second token would
    /// void the first. With this it is handed the one that the layer uses.
    pub fn answer_token_requests(mut self, answer: bool) -> Self {
        self.config.answer_token_requests = answer;
        self
    }
}

impl<S> Layer<S> for WechatAuthLayer {
    type Service = WechatAuth<S>;

    fn layer(&self, inner: S) -> WechatAuth<S> {
        WechatAuth::new(inner, Arc::new(self.config.clone()))
    }
}

impl Config {
    pub(crate) fn route(&self, request: &Parts) -> Route<'_> {
        let target = self.scope.target(&request.uri);
        if target == Target::Elsewhere
            || (target == Target::Token && !self.answer_token_requests)
            || request.extensions.get::<SkipAuth>().is_some()
        {
            return Route::Pass;
        }
        let tokens = match &self.accounts {
            Accounts::One(tokens) => Cow::Borrowed(tokens),
            Accounts::Selected(select) => match select(request) {
                Some(tokens) => Cow::Owned(tokens),
                None => return Route::Pass,
            },
        };
        if target == Target::Token {
            Route::Answer(tokens)
        } else {
            Route::Authorize(tokens)
        }
    }

    pub(crate) fn platform(&self) -> Platform {
        self.scope.platform()
    }

    pub(crate) fn refresh_on(&self) -> &[i64] {
        match &self.refresh_on {
            Some(errcodes) => errcodes,
            None => self.platform().refresh_codes(),
        }
    }

    pub(crate) fn warn_of_coding(&self) {
        if !self.warnings.coding.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "replies come in a content-encoding that is not looked into, so a rejected token \
                 would go unnoticed: turn on the feature `decompression`, or decompress inside \
                 this layer"
            );
        }
    }
}

impl fmt::Debug for WechatAuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WechatAuthLayer")
            .field("config", &self.config)
            .finish()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("scope", &self.scope)
            .field("replay_limit", &self.replay_limit)
            .field("inspect_limit", &self.inspect_limit)
            .field("refresh_on", &self.refresh_on())
            .field("answer_token_requests", &self.answer_token_requests)
            .finish_non_exhaustive()
    }
}
