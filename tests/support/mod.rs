//! What several test files need.
#![allow(
    dead_code,
    unreachable_pub,
    unused_macros,
    reason = "each test file uses a part of it"
)]

#[cfg(target_os = "linux")]
pub mod memory;
pub mod programs;
#[macro_use]
pub mod redis_server;
pub mod world;

use std::error::Error as StdError;
use std::future::IntoFuture;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, MutexGuard};
use tower_wechat::mock::{MockReply, MockWechat};
use tower_wechat::{AccessToken, ClientCredential, TokenManager, WechatAuthLayer, source_fn};
use tracing_subscriber::fmt::format::FmtSpan;

pub const API: &str = "https://api.weixin.qq.com/cgi-bin/user/get";
pub const OK: &str = r#"{"errcode":0,"errmsg":"ok"}"#;
pub const REJECTED: &str = r#"{"errcode":40001,"errmsg":"invalid credential, access_token is invalid or not latest rid: 66f0-1a2b-3c4d"}"#;
pub const TWO_HOURS: Duration = Duration::from_secs(7200);

/// The life of the `number`th token of several that share a place in Redis: a bit less than the two
/// hours that are the most there.
///
/// The later of two tokens is the one that ends later. A process computes that end from Redis' TTL.
/// On a busy machine this is less exact than the moment between two token requests of a test.
pub fn life_of(number: usize) -> Duration {
    TWO_HOURS - Duration::from_secs(10) + Duration::from_secs(number as u64)
}

pub type HyperClient = Client<HttpConnector, Full<Bytes>>;

pub fn hyper() -> HyperClient {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Gives out `token-1`, `token-2` and so on, and counts them.
pub fn numbered_tokens() -> (TokenManager, Arc<AtomicUsize>) {
    let issued = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&issued);
    let source = source_fn(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Ok(AccessToken::new(format!("token-{number}"), TWO_HOURS)) }
    });
    (TokenManager::new(source), issued)
}

/// The manager of the mock's account.
pub fn tokens_of(wechat: &MockWechat) -> TokenManager {
    TokenManager::new(credential_of(wechat))
}

pub fn credential_of(wechat: &MockWechat) -> ClientCredential<HyperClient, Request<Full<Bytes>>> {
    ClientCredential::new(hyper(), wechat.appid(), wechat.secret()).base_url(wechat.url())
}

/// Takes any body as an upload, for tests of which it is no matter that it is a form.
pub fn take_any_upload(wechat: &MockWechat) {
    let reply = MockReply::new(r#"{"type":"image","media_id":"media-1"}"#);
    wechat.reply_to("/cgi-bin/media/upload", reply);
}

pub fn layer_of(wechat: &MockWechat) -> WechatAuthLayer {
    WechatAuthLayer::new(tokens_of(wechat)).api_origin(wechat.url())
}

pub fn get(uri: impl AsRef<str>) -> Request<Full<Bytes>> {
    Request::get(uri.as_ref()).body(Full::default()).unwrap()
}

pub fn post(uri: impl AsRef<str>, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(uri.as_ref())
        .body(Full::new(body.into()))
        .unwrap()
}

pub fn reply(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::new(Full::new(body.into()))
}

pub async fn text<B>(reply: Response<B>) -> String
where
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

/// The token in a request's query.
pub fn token_in<B>(request: &Request<B>) -> Option<String> {
    let query = request.uri().query()?;
    let mut parameters = query.split('&');
    parameters.find_map(|p| p.strip_prefix("access_token=").map(str::to_owned))
}

/// What was traced, as a writer for `tracing_subscriber::fmt`.
#[derive(Clone, Default)]
pub struct Recorded(Arc<std::sync::Mutex<Vec<u8>>>);

impl Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Recorded {
    /// All of it.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// What came since the last time.
    pub fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap()
    }
}

/// A server of the test's own; its origin.
pub async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, app).into_future());
    origin
}

/// An address where nobody listens.
pub fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Two storms at a time are too many for some machines.
pub async fn calm() -> MutexGuard<'static, ()> {
    static STORM: Mutex<()> = Mutex::const_new(());
    more_open_files();
    STORM.lock().await
}

/// A thousand calls are two thousand sockets in this process, and the usual limit is 1024.
pub fn more_open_files() {
    rlimit::increase_nofile_limit(u64::MAX).expect("more open files");
}

/// Everything traced in this process, at TRACE.
pub fn record() -> &'static Recorded {
    static RECORDED: OnceLock<Recorded> = OnceLock::new();
    RECORDED.get_or_init(|| {
        let recorded = Recorded::default();
        let writer = recorded.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::FULL)
            .with_writer(move || writer.clone())
            .init();
        recorded
    })
}

/// Display and Debug, plain and alternate, of an error and of all its sources.
pub fn told(error: &(dyn StdError + 'static)) -> String {
    let mut told = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        told += &format!("{error}\n{error:#}\n{error:?}\n{error:#?}\n");
        next = error.source();
    }
    told
}
