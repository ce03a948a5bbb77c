use std::fmt;
use std::time::Duration;

use tower_service::Service;
use zeroize::Zeroizing;

use super::client::{IncomingReply, OutgoingRequest};
use super::exchange::Endpoint;
use super::secret::Secret;
use crate::platform::Platform;
use crate::token::{AccessToken, BoxError, RateLimit, TokenError, TokenSource, query_value};

/// `GET /cgi-bin/token`: the classic token of an official account or a mini program (WeChat's page
/// "Get access token").
///
/// Each request makes a new token, and the one before it goes on for about five minutes. WeChat
/// allows 2000 requests a day. Where several processes ask for the same account they void each
/// other's tokens: use [`StableToken`](crate::StableToken) then, one server that asks for all, or
/// the feature `redis`.
///
/// `http` is any HTTP client service that is `Clone`, `Send` and `Sync`, and whose types are
/// [`OutgoingRequest`] and [`IncomingReply`]: of http's types with a request body made from
/// [`Bytes`](bytes::Bytes), as `Full<Bytes>` and axum's are, or, with the features for reqwest, a
/// `reqwest::Client` as it is. Put a timeout or a proxy under it as you like (boxed:
/// `BoxCloneSyncService`), but not the layer that this source feeds.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_wechat::{ClientCredential, TokenManager};
///
/// let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let tokens = TokenManager::new(
///     ClientCredential::new(http, "wx0123456789abcdef", "the AppSecret")
///         // The real one, https://api.weixin.qq.com, needs a client with TLS.
///         .base_url("http://127.0.0.1:8080"),
/// );
/// # drop(tokens);
/// ```
pub struct ClientCredential<S, Q> {
    endpoint: Endpoint<S, Q>,
    appid: String,
    secret: Secret,
}

impl<S, Q> ClientCredential<S, Q>
where
    S: Service<Q>,
{
    /// The source for one account.
    pub fn new(http: S, appid: impl Into<String>, secret: impl Into<String>) -> Self {
        ClientCredential {
            endpoint: Endpoint::new(http, Platform::OfficialAccount.base_url()),
            appid: appid.into(),
            secret: Secret::new(secret),
        }
    }

    /// Asks another server in place of `https://api.weixin.qq.com`.
    ///
    /// # Panics
    ///
    /// When `base_url` is not `http://` or `https://` with a host, or has a query.
    #[track_caller]
    pub fn base_url(mut self, base_url: impl AsRef<str>) -> Self {
        self.endpoint.set_base_url(base_url.as_ref());
        self
    }
}

impl<S, Q> TokenSource for ClientCredential<S, Q>
where
    S: Service<Q> + Clone + Send + Sync + 'static,
    S::Response: IncomingReply,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send,
    Q: OutgoingRequest + 'static,
{
    async fn issue(&self, _rejected: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
        let path_and_query = Zeroizing::new(format!(
            "/cgi-bin/token?grant_type=client_credential&appid={}&secret={}",
            *query_value(&self.appid),
            *query_value(self.secret.expose()),
        ));
        self.endpoint.get(&path_and_query, &self.secret).await
    }

    fn account(&self) -> Option<&str> {
        Some(&self.appid)
    }

    fn shared_as(&self) -> Option<&str> {
        Some(&self.appid)
    }

    /// WeChat gives 2000 classic tokens a day; renewals and first tokens need some of them.
    fn refresh_limit(&self) -> Option<RateLimit> {
        Some(RateLimit::new(5, Duration::from_secs(60)))
    }
}

/// Whatever the request type is: it is not held.
impl<S, Q> Clone for ClientCredential<S, Q>
where
    S: Clone,
{
    fn clone(&self) -> Self {
        ClientCredential {
            endpoint: self.endpoint.clone(),
            appid: self.appid.clone(),
            secret: self.secret.clone(),
        }
    }
}

impl<S, Q> fmt::Debug for ClientCredential<S, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredential")
            .field("base_url", &self.endpoint.base_url())
            .field("appid", &self.appid)
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}
