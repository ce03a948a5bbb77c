use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::builder::MockBuilder;
use super::failure::Failure;
use super::handle::MockAccount;
use super::own_reply::MockReply;
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

    /// The AppID of the first account (WeCom: the CorpID).
    pub fn appid(&self) -> &str {
        &self.server.state().accounts[0].appid
    }

    /// The AppSecret of the first account (WeCom: the CorpSecret).
    pub fn secret(&self) -> &str {
        &self.server.state().accounts[0].secret
    }

    /// The account with this AppID; of several applications of one company the first.
    ///
    /// The calls here that mean one account mean the first one: `wechat.revoke()` is
    /// `wechat.account(wechat.appid()).revoke()`.
    ///
    /// # Panics
    ///
    /// When there is none: see [`MockBuilder::another_account`].
    #[track_caller]
    pub fn account(&self, appid: &str) -> MockAccount {
        let mut accounts = self.accounts().into_iter();
        match accounts.find(|account| account.appid() == appid) {
            Some(account) => account,
            None => panic!("MockWechat has no account {appid:?}: give it to the builder"),
        }
    }

    /// All accounts, the first one first.
    pub fn accounts(&self) -> Vec<MockAccount> {
        let places = 0..self.server.state().accounts.len();
        places
            .map(|at| MockAccount::new(self.server.clone(), at))
            .collect()
    }

    fn first(&self) -> MockAccount {
        MockAccount::new(self.server.clone(), 0)
    }

    /// The first account's [`MockAccount::current_token`].
    pub fn current_token(&self) -> Option<String> {
        self.first().current_token()
    }

    /// The first account's [`MockAccount::revoke`].
    pub fn revoke(&self) {
        self.first().revoke();
    }

    /// The first account's [`MockAccount::expire`].
    pub fn expire(&self) {
        self.first().expire();
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

    /// The first account's [`MockAccount::set_quota`].
    pub fn set_quota(&self, quota: u32) {
        self.first().set_quota(quota);
    }

    /// The first account's [`MockAccount::refuse_excess_forces`].
    pub fn refuse_excess_forces(&self, refuse: bool) {
        self.first().refuse_excess_forces(refuse);
    }

    /// The first account's [`MockAccount::deny_address`].
    pub fn deny_address(&self, deny: bool) {
        self.first().deny_address(deny);
    }

    /// Answers requests to this path with a reply of your own, from now on.
    ///
    /// A path that ends in `*` stands for all that begin so. Of several replies to a request the
    /// latest counts, and of those with a [condition](MockReply::when) the latest whose condition
    /// holds. API calls have to carry a good token first, unless it is a reply
    /// [without](MockReply::without_token); no other check is made of them. A queued
    /// [failure](MockWechat::fail_next) comes before it.
    ///
    /// # Panics
    ///
    /// If `path` does not begin with a slash: no request would match it.
    #[track_caller]
    pub fn reply_to(&self, path: impl Into<String>, reply: MockReply) {
        let path = path.into();
        assert!(path.starts_with('/'), "a path begins with a slash: {path}");
        self.server.state().lock().replies.push(path, reply);
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

    /// Whether bodies in chunked encoding are taken.
    ///
    /// WeChat wants to know the length of every body: it answers others with the status 412 and
    /// nothing else. Turn this on to test a client against a server that is not WeChat.
    pub fn accept_chunked(&self, accept: bool) {
        self.server.state().lock().settings.accept_chunked = accept;
    }

    /// All requests of every kind, in order of arrival, each as far as it has come.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.server.state().lock().log.requests()
    }

    /// How many token requests there were, of all three kinds and all accounts.
    pub fn token_requests(&self) -> TokenRequests {
        self.server.state().lock().log.token_requests(None)
    }

    /// The first account's [`MockAccount::messages`].
    pub fn messages(&self) -> Vec<Value> {
        self.first().messages()
    }

    /// Forgets the requests, with them the [`token_requests`](MockWechat::token_requests), and the
    /// messages of all accounts.
    ///
    /// Requests that are under way stay forgotten. Tokens, quotas, menus, replies of your own and
    /// the controls stay as they are.
    pub fn clear(&self) {
        let mut inner = self.server.state().lock();
        inner.log.clear();
        for account in &mut inner.accounts {
            account.messages.clear();
        }
    }
}

impl fmt::Debug for MockWechat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockWechat")
            .field("addr", &self.server.addr())
            .finish_non_exhaustive()
    }
}
