//! The layer.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use crate::account_id::AccountId;
use crate::base_url::BaseUrl;
use crate::body::ReplayBudget;
use crate::config::{Accounts, Config};
use crate::platform::Platform;
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
    config: Arc<Config>,
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
            config: Arc::new(Config::new(accounts)),
        }
    }

    /// A copy of its own, where services that are made already share it.
    fn config(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }

    /// The platform: its hosts get the token, its errcodes mean a refresh. Default: official
    /// accounts and mini programs.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.config().scope.set_platform(platform);
        self
    }

    /// One more place that may be sent the token, such as `http://127.0.0.1:8080` or
    /// `http://proxy.corp/wx`; repeatable.
    ///
    /// The platform's own hosts get it over https only. With a path, only what is below it gets the
    /// token, and WeChat's paths begin there: `http://proxy.corp/wx/sns/userinfo` keeps the user's
    /// token. Of several that fit the longest counts. A request whose URI is only a path is read
    /// both as it is and below each of these paths.
    ///
    /// # Panics
    ///
    /// When `base_url` is not `http://` or `https://`, a host, maybe a port and maybe a path.
    #[track_caller]
    pub fn api_origin(mut self, base_url: impl AsRef<str>) -> Self {
        match BaseUrl::parse(base_url.as_ref()) {
            Ok(base_url) => self.config().scope.add(base_url),
            Err(error) => panic!("{error}"),
        }
        self
    }

    /// How many bytes of a request's body are kept; default 16 MiB.
    ///
    /// Of a body whose length is known, so many are kept for a replay while it is sent. One whose
    /// length is not known is collected up to here before it is sent, as WeChat answers 412 to a
    /// body in chunks; a longer one is sent in chunks all the same, with a warning, and without a
    /// replay.
    ///
    /// The largest upload that WeChat takes is 10 MB. Bodies that are in memory already (`Full`,
    /// `String`, `Bytes`, a box around one of them, a form whose parts are) are replayed whatever
    /// their size.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.config().replay_limit = bytes;
        self
    }

    /// What all calls together may keep; default: each its [`replay_limit`](Self::replay_limit),
    /// and no bound in total.
    ///
    /// A request that has a [`ReplayBudget`] in its extensions counts for that one instead: a share
    /// of this one's, for whoever it is sent for. Clones of a body that was in memory in one piece
    /// already count for none.
    pub fn replay_budget(mut self, budget: ReplayBudget) -> Self {
        self.config().replay_budget = Some(budget);
        self
    }

    /// How many bytes of a reply are read ahead, at most, to find its errcode; default 4 KiB.
    ///
    /// WeChat's errors are about 220 bytes. A reply that is larger, or that does not begin as a
    /// JSON object does, is handed on at its first frame. One with `Content-Disposition`, and a
    /// part of one (206), is somebody's content and not read at all.
    pub fn inspect_limit(mut self, bytes: usize) -> Self {
        self.config().inspect_limit = bytes;
        self
    }

    /// Replaces the platform's errcodes that mean "get another token".
    ///
    /// Only those belong here that WeChat gives before it acts on a call, as the call is repeated.
    pub fn refresh_on(mut self, errcodes: impl IntoIterator<Item = i64>) -> Self {
        self.config().refresh_on = Some(errcodes.into_iter().collect());
        self
    }

    /// The accounts whose token requests are answered with the manager's own token; default none.
    ///
    /// For an SDK that fetches tokens by itself through the wrapped client: its second token would
    /// void the first. If it asks for one of these accounts, it gets the token that the layer uses,
    /// and nothing is sent; the AppSecret it asks with is not looked at, so who may call through
    /// this client may have its token. Any other token request of its platform passes, and a
    /// warning says so. With [`select`](WechatAuthLayer::select) that closure says whose token an
    /// answer holds.
    ///
    /// `GET /cgi-bin/token` and WeCom's `gettoken` name the account in the query, and
    /// `POST /cgi-bin/stable_token` in its body, of which up to 64 KiB are read for that.
    ///
    /// ```
    /// # use tower_wechat::{AccessToken, TokenManager, source_fn};
    /// use tower_wechat::{AccountId, Platform, WechatAuthLayer};
    ///
    /// # let tokens = TokenManager::new(source_fn(|_| async {
    /// #     Ok(AccessToken::new("78_Zx0", std::time::Duration::from_secs(7200)))
    /// # }));
    /// let layer = WechatAuthLayer::new(tokens.clone()).answer_token_requests(["wx0123456789abcdef"]);
    ///
    /// let application = AccountId::wecom("ww0123456789abcdef", "its corpsecret");
    /// let wecom = WechatAuthLayer::new(tokens)
    ///     .platform(Platform::WeCom)
    ///     .answer_token_requests([application]);
    /// # drop((layer, wecom));
    /// ```
    pub fn answer_token_requests(
        mut self,
        accounts: impl IntoIterator<Item = impl Into<AccountId>>,
    ) -> Self {
        self.config().answered = accounts.into_iter().map(Into::into).collect();
        self
    }
}

impl<S> Layer<S> for WechatAuthLayer {
    type Service = WechatAuth<S>;

    fn layer(&self, inner: S) -> WechatAuth<S> {
        WechatAuth::new(inner, Arc::clone(&self.config))
    }
}

impl fmt::Debug for WechatAuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WechatAuthLayer")
            .field("config", &self.config)
            .finish()
    }
}
