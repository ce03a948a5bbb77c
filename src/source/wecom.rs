use std::fmt;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;
use zeroize::Zeroizing;

use super::exchange::Endpoint;
use super::secret::Secret;
use crate::platform::Platform;
use crate::token::{AccessToken, BoxError, TokenError, TokenSource, query_value};

/// `GET /cgi-bin/gettoken`: the token of one application of a company's in WeCom (WeCom's page
/// "Get access_token").
///
/// WeCom gives the same token until it expires, and it may void one early. The layer that uses it
/// wants [`Platform::WeCom`].
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_wechat::{Platform, TokenManager, WeComCredential, WechatAuthLayer};
///
/// let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let tokens = TokenManager::new(
///     WeComCredential::new(http, "ww0123456789abcdef", "the application's secret")
///         // The real one, https://qyapi.weixin.qq.com, needs a client with TLS.
///         .base_url("http://127.0.0.1:8080"),
/// );
/// let layer = WechatAuthLayer::new(tokens).platform(Platform::WeCom);
/// # drop(layer);
/// ```
#[derive(Clone)]
pub struct WeComCredential<S, B> {
    endpoint: Endpoint<S, B>,
    corpid: String,
    corpsecret: Secret,
}

impl<S, B> WeComCredential<S, B>
where
    S: Service<Request<B>>,
{
    /// The source for one application of one company.
    pub fn new(http: S, corpid: impl Into<String>, corpsecret: impl Into<String>) -> Self {
        WeComCredential {
            endpoint: Endpoint::new(http, Platform::WeCom.base_url()),
            corpid: corpid.into(),
            corpsecret: Secret::new(corpsecret),
        }
    }

    /// Asks another server in place of `https://qyapi.weixin.qq.com`.
    ///
    /// # Panics
    ///
    /// When `base_url` is not `http://` or `https://` with a host, or has a query.
    pub fn base_url(mut self, base_url: impl AsRef<str>) -> Self {
        self.endpoint.set_base_url(base_url.as_ref());
        self
    }
}

impl<S, B, R> TokenSource for WeComCredential<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + 'static,
    B: From<Bytes> + Send + 'static,
    R: Body + Send,
    R::Data: Send,
    R::Error: Into<BoxError> + 'static,
{
    async fn issue(&self, _rejected: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
        let path_and_query = Zeroizing::new(format!(
            "/cgi-bin/gettoken?corpid={}&corpsecret={}",
            *query_value(&self.corpid),
            *query_value(self.corpsecret.expose()),
        ));
        self.endpoint.get(&path_and_query, &self.corpsecret).await
    }
}

impl<S, B> fmt::Debug for WeComCredential<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeComCredential")
            .field("base_url", &self.endpoint.base_url())
            .field("corpid", &self.corpid)
            .field("corpsecret", &self.corpsecret)
            .finish_non_exhaustive()
    }
}
