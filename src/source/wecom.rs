use std::fmt;

use tower_service::Service;
use zeroize::Zeroizing;

use super::client::{IncomingReply, OutgoingRequest};
use super::exchange::Endpoint;
use super::secret::Secret;
use crate::platform::Platform;
use crate::token::{AccessToken, BoxError, TokenError, TokenSource, query_value};

/// `GET /cgi-bin/gettoken`: the token of one application of a company's in WeCom (WeCom's page
/// "Get access_token").
///
/// WeCom gives the same token until it expires, and it may void one early. The layer that uses it
/// wants [`Platform::WeCom`]. To share its token among processes (feature `redis`) give it a place
/// of its own, as `Layout::new("wecom:ww0123456789abcdef:1000002")`: the corpid is that of all
/// applications.
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
pub struct WeComCredential<S, Q> {
    endpoint: Endpoint<S, Q>,
    corpid: String,
    corpsecret: Secret,
}

impl<S, Q> WeComCredential<S, Q>
where
    S: Service<Q>,
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
    #[track_caller]
    pub fn base_url(mut self, base_url: impl AsRef<str>) -> Self {
        self.endpoint.set_base_url(base_url.as_ref());
        self
    }
}

impl<S, Q> TokenSource for WeComCredential<S, Q>
where
    S: Service<Q> + Clone + Send + Sync + 'static,
    S::Response: IncomingReply,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send,
    Q: OutgoingRequest + 'static,
{
    async fn issue(&self, _rejected: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
        let path_and_query = Zeroizing::new(format!(
            "/cgi-bin/gettoken?corpid={}&corpsecret={}",
            *query_value(&self.corpid),
            *query_value(self.corpsecret.expose()),
        ));
        self.endpoint.get(&path_and_query, &self.corpsecret).await
    }

    fn account(&self) -> Option<&str> {
        Some(&self.corpid)
    }
}

/// Whatever the request type is: it is not held.
impl<S, Q> Clone for WeComCredential<S, Q>
where
    S: Clone,
{
    fn clone(&self) -> Self {
        WeComCredential {
            endpoint: self.endpoint.clone(),
            corpid: self.corpid.clone(),
            corpsecret: self.corpsecret.clone(),
        }
    }
}

impl<S, Q> fmt::Debug for WeComCredential<S, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeComCredential")
            .field("base_url", &self.endpoint.base_url())
            .field("corpid", &self.corpid)
            .field("corpsecret", &self.corpsecret)
            .finish_non_exhaustive()
    }
}
