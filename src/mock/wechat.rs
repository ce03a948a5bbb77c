use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::builder::MockBuilder;
use super::failure::Failure;
use super::record::{RecordedRequest, TokenRequests};
use super::server::Server;

/// A WeChat server in the process, for tests.
///
/// Clones are handles to one server. It stops, listener and open connections alike, when the last
/// handle is dropped. It runs on the tokio runtime it was started on, which needs its I/O and time
/// drivers. All controls act at once, on requests that arrive afterwards.
///
/// ```
/// use http_body_util::{BodyExt, Empty};
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_wechat::mock::MockWechat;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let wechat = MockWechat::start().await;
/// let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
///
/// let url = format!(
///     "{}/cgi-bin/token?grant_type=client_credential&appid={}&secret={}",
///     wechat.url(), wechat.appid(), wechat.secret(),
/// );
/// let reply = client.get(url.parse()?).await?.into_body().collect().await?.to_bytes();
/// let reply: serde_json::Value = serde_json::from_slice(&reply)?;
/// assert_eq!(reply["access_token"].as_str(), wechat.current_token().as_deref());
///
/// wechat.revoke();
/// let url = format!("{}/cgi-bin/user/get?access_token={}", wechat.url(), reply["access_token"].as_str().unwrap());
/// let reply = client.get(url.parse()?).await?.into_body().collect().await?.to_bytes();
/// let reply: serde_json::Value = serde_json::from_slice(&reply)?;
/// assert_eq!(reply["errcode"], 40001);
///
/// assert_eq!(wechat.requests().len(), 2);
/// assert_eq!(wechat.token_requests().issued, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MockWechat {
    server: Arc<Server>,
}

impl MockWechat {
    /// Starts a server with the defaults of [`MockBuilder`].
    ///
    /// # Panics
    ///
    /// When no port can be bound on 127.0.0.1, or outside a tokio runtime.
    pub async fn start() -> MockWechat {
        MockWechat::builder().start().await
    }

    /// A builder, to start a server that differs from the default one.
    pub fn builder() -> MockBuilder {
        MockBuilder::new()
    }

    pub(super) fn new(server: Server) -> MockWechat {
        MockWechat {
            server: Arc::new(server),
        }
    }

    /// Where the server is: `http://127.0.0.1:PORT`, with no slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.addr())
    }

    /// The address that the server listens on.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The AppID that gets tokens (WeCom: the CorpID).
    pub fn appid(&self) -> &str {
        &self.server.state().appid
    }

    /// The AppSecret that gets tokens (WeCom: the CorpSecret).
    pub fn secret(&self) -> &str {
        &self.server.state().secret
    }

    /// The newest token of `cgi-bin/token`.
    ///
    /// `None` before the first one, and after [`revoke`](MockWechat::revoke) until the next one. A
    /// token that has expired is still the newest one. Stable and WeCom tokens are not told here.
    pub fn current_token(&self) -> Option<String> {
        self.server.state().lock().tokens.current()
    }

    /// Voids every token of every kind at once, with no grace.
    ///
    /// Calls with them get 40001 (WeCom tokens: 40014). As with WeChat, a plain stable_token request
    /// goes on handing out the stable token that is now dead, until it would have been replaced
    /// anyhow or `force_refresh` is used.
    pub fn revoke(&self) {
        self.server.state().lock().tokens.revoke();
    }

    /// Lets every token expire now: calls with them get 42001.
    pub fn expire(&self) {
        self.server.state().lock().tokens.expire(Instant::now());
    }

    /// Answers every API call that has a token, good or not, with `errcode`; `None` ends this.
    pub fn reject_every_token(&self, errcode: Option<i64>) {
        self.server.state().lock().settings.reject_every_token = errcode;
    }

    /// How long a token request waits before it is looked at.
    ///
    /// No token is made for a client that goes away meanwhile.
    pub fn set_token_delay(&self, delay: Duration) {
        self.server.state().lock().settings.token_delay = delay;
    }

    /// How long an API call waits before it is answered, drawn evenly from `delay` for each call.
    ///
    /// The wait comes after the call was acted on: a client that gives up has sent its message all
    /// the same.
    pub fn set_api_delay(&self, delay: RangeInclusive<Duration>) {
        self.server.state().lock().settings.api_delay = delay;
    }

    /// How many `cgi-bin/token` requests a day are served; those past it get 45009.
    ///
    /// The day's count goes on: a quota below it is exhausted at once. The day begins with its first
    /// request. stable_token and gettoken have quotas of their own at WeChat, and none here.
    pub fn set_quota(&self, quota: u32) {
        self.server.state().lock().tokens.set_quota(quota);
    }

    /// Whether token requests get 40164: the address is not on the account's allow-list.
    pub fn deny_address(&self, deny: bool) {
        self.server.state().lock().settings.deny_address = deny;
    }

    /// Queues a failure for one request: the next one of its kind, and so on in order.
    ///
    /// It comes before every check, the token's too.
    pub fn fail_next(&self, failure: Failure) {
        self.server.state().lock().queue(failure);
    }

    /// Whether API calls with a bad token are answered before their body is read.
    ///
    /// A proxy in front of WeChat may do so. What remains of the body is then read and thrown away,
    /// so that the client can go on writing; it shows in no [`RecordedRequest`].
    pub fn answer_early(&self, early: bool) {
        self.server.state().lock().settings.answer_early = early;
    }

    /// All requests of every kind, in order of arrival, each as far as it has come.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.server.state().lock().log.requests()
    }

    /// How many token requests there were, of all three kinds.
    pub fn token_requests(&self) -> TokenRequests {
        self.server.state().lock().log.token_requests()
    }

    /// The customer service messages that were accepted, in order: one sent twice is here twice.
    pub fn messages(&self) -> Vec<Value> {
        self.server.state().lock().messages.clone()
    }

    /// Forgets the requests, with them the [`token_requests`](MockWechat::token_requests), and the messages.
    ///
    /// Requests that are under way stay forgotten. Tokens, quotas, the menu and the controls stay as
    /// they are.
    pub fn clear(&self) {
        let mut inner = self.server.state().lock();
        inner.log.clear();
        inner.messages.clear();
    }
}

impl fmt::Debug for MockWechat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockWechat")
            .field("addr", &self.server.addr())
            .finish_non_exhaustive()
    }
}
