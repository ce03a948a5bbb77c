//! The sources: what they put on the wire, and what they make of what comes back. Over real sockets
//! with `MockWechat`, and with services made by hand where the wire cannot be made to do it.
#![cfg(feature = "mock")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::pending;
use std::io;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::{Service, ServiceBuilder, service_fn};
use tower_wechat::mock::{Failure, MockWechat};
use tower_wechat::{
    AccessToken, ClientCredential, StableToken, TokenError, TokenManager, TokenSource,
    WeComCredential, source_fn,
};

type BoxError = Box<dyn StdError + Send + Sync>;

const SECRET: &str = "5ec3e7";

fn http() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn plain(wechat: &MockWechat) -> TokenManager {
    let source = ClientCredential::new(http(), wechat.appid(), wechat.secret());
    TokenManager::new(source.base_url(wechat.url()))
}

fn stable(wechat: &MockWechat) -> TokenManager {
    let source = StableToken::new(http(), wechat.appid(), wechat.secret());
    TokenManager::new(source.base_url(wechat.url()))
}

fn wecom(wechat: &MockWechat) -> TokenManager {
    let source = WeComCredential::new(http(), wechat.appid(), wechat.secret());
    TokenManager::new(source.base_url(wechat.url()))
}

/// One request as it came to a [`Desk`].
#[derive(Clone, Debug)]
struct Got {
    method: Method,
    uri: Uri,
    content_type: Option<String>,
    body: Bytes,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn is_forced(&self) -> bool {
        self.json()["force_refresh"] == json!(true)
    }
}

/// A server of one's own making: it answers as it was told, in order.
#[derive(Clone, Default)]
struct Desk {
    got: Arc<Mutex<Vec<Got>>>,
    replies: Arc<Mutex<VecDeque<(u16, Bytes)>>>,
}

impl Desk {
    fn answering<T: Into<Bytes>>(replies: impl IntoIterator<Item = T>) -> Desk {
        let desk = Desk::default();
        let replies = replies.into_iter().map(|reply| (200, reply.into()));
        desk.replies.lock().unwrap().extend(replies);
        desk
    }

    fn giving<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Desk {
        Desk::answering(tokens.into_iter().map(granted))
    }

    fn http(
        &self,
    ) -> impl Service<
        Request<Full<Bytes>>,
        Response = Response<Full<Bytes>>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static {
        let desk = self.clone();
        service_fn(move |request: Request<Full<Bytes>>| {
            let desk = desk.clone();
            async move {
                let (head, body) = request.into_parts();
                let content_type = head.headers.get(header::CONTENT_TYPE);
                let got = Got {
                    content_type: content_type.map(|value| value.to_str().unwrap().to_owned()),
                    method: head.method,
                    uri: head.uri,
                    body: body.collect().await.unwrap().to_bytes(),
                };
                desk.got.lock().unwrap().push(got);
                let reply = desk.replies.lock().unwrap().pop_front();
                let (status, body) = reply.expect("a request too many");
                let reply = Response::builder().status(status).body(Full::new(body));
                Ok::<_, Infallible>(reply.unwrap())
            }
        })
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    fn forced(&self) -> Vec<bool> {
        self.got().iter().map(Got::is_forced).collect()
    }
}

fn granted(token: &str) -> String {
    json!({"access_token": token, "expires_in": 7200}).to_string()
}

/// A client that always fails with `error`.
fn failing<E: Clone + Send + Sync + 'static>(
    error: E,
) -> impl Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = E, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    service_fn(move |_: Request<Full<Bytes>>| {
        let error = error.clone();
        async move { Err::<Response<Full<Bytes>>, E>(error) }
    })
}

fn says_nothing_secret(error: &TokenError) {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut next = error.source();
    while let Some(error) = next {
        text += &format!(" {error} {error:?}");
        next = error.source();
    }
    assert!(!text.contains(SECRET), "{text}");
}

// ClientCredential.

#[tokio::test]
async fn client_credential_asks_by_get() {
    let wechat = MockWechat::start().await;
    let token = plain(&wechat).token().await.unwrap();
    assert_eq!(Some(token.secret()), wechat.current_token().as_deref());
    assert!(token.expires_in() > secs(7100) && token.expires_in() <= secs(7200));

    let requests = wechat.requests();
    let [request] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert_eq!(
        (request.method(), request.path()),
        (&Method::GET, "/cgi-bin/token")
    );
    let query = "grant_type=client_credential&appid=wx0123456789abcdef\
                 &secret=0123456789abcdef0123456789abcdef";
    assert_eq!(request.query(), Some(query));
    assert_eq!(request.body_len(), 0);
}

#[tokio::test]
async fn client_credential_percent_encodes_an_odd_appid_and_secret() {
    let (appid, secret) = ("wx&a=1#é", "s e/c+r%41?&secret=x");
    let wechat = MockWechat::builder().account(appid, secret).start().await;
    plain(&wechat).token().await.unwrap();
    let query = "grant_type=client_credential&appid=wx%26a%3D1%23%C3%A9\
                 &secret=s%20e%2Fc%2Br%2541%3F%26secret%3Dx";
    assert_eq!(wechat.requests()[0].query(), Some(query));
}

#[tokio::test]
async fn client_credential_gets_another_token_after_a_rejection() {
    let wechat = MockWechat::start().await;
    let tokens = plain(&wechat);
    let first = tokens.token().await.unwrap();
    wechat.revoke();
    let second = tokens.refresh(&first).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(Some(second.secret()), wechat.current_token().as_deref());
    assert_eq!(wechat.token_requests().issued, 2);
}

#[tokio::test]
async fn a_wrong_appid_or_secret_is_told_once_and_without_the_secret() {
    let wechat = MockWechat::start().await;
    for (appid, secret, errcode, advice) in [
        (wechat.appid(), SECRET, 40125, "the secret is wrong"),
        ("wx-other", SECRET, 40013, "the appid is wrong"),
        ("", SECRET, 41002, "the appid is missing"),
        (wechat.appid(), "", 41004, "the secret is missing"),
    ] {
        wechat.clear();
        let source = ClientCredential::new(http(), appid, secret).base_url(wechat.url());
        let tokens = TokenManager::new(source);
        for _ in 0..10 {
            let error = tokens.token().await.unwrap_err();
            assert_eq!(error.errcode(), Some(errcode));
            assert!(error.to_string().contains(advice), "{error}");
            says_nothing_secret(&error);
        }
        assert_eq!(wechat.token_requests().started, 1);
    }
}

#[tokio::test]
async fn an_address_that_is_not_allowed_comes_with_advice() {
    let wechat = MockWechat::start().await;
    wechat.deny_address(true);
    for tokens in [plain(&wechat), stable(&wechat)] {
        let error = tokens.token().await.unwrap_err();
        assert_eq!(error.errcode(), Some(40164));
        let text = error.to_string();
        assert!(text.contains("invalid ip 127.0.0.1"), "{text}");
        assert!(
            text.contains("put 127.0.0.1 on the account's IP allow-list"),
            "{text}"
        );
    }
    let error = wecom(&wechat).token().await.unwrap_err();
    assert_eq!(error.errcode(), Some(60020));
    let advice = error.advice().unwrap();
    assert_eq!(
        advice,
        "put 127.0.0.1 on the application's list of trusted addresses"
    );
}

#[tokio::test]
async fn a_wrong_secret_of_wecom_is_called_a_corpsecret() {
    let wechat = MockWechat::start().await;
    let source = WeComCredential::new(http(), wechat.appid(), SECRET).base_url(wechat.url());
    let error = TokenManager::new(source).token().await.unwrap_err();
    assert_eq!(error.errcode(), Some(40001));
    assert!(
        error.to_string().contains("the corpsecret is wrong"),
        "{error}"
    );
}

#[tokio::test]
async fn a_used_up_quota_is_remembered_and_the_token_kept() {
    let wechat = MockWechat::builder().daily_quota(1).start().await;
    let tokens = plain(&wechat);
    let first = tokens.token().await.unwrap();
    for _ in 0..100 {
        let error = tokens.refresh(&first).await.unwrap_err();
        assert_eq!(error.errcode(), Some(45009));
    }
    assert_eq!(wechat.token_requests().started, 2);
    assert_eq!(tokens.cached(), Some(first));
}

#[tokio::test]
async fn what_passes_is_asked_again() {
    let wechat = MockWechat::start().await;
    for failure in [
        Failure::Token(-1),
        Failure::TokenStatus(502),
        Failure::TokenStatus(503),
        Failure::TokenDisconnect,
    ] {
        wechat.clear();
        wechat.fail_next(failure);
        plain(&wechat).token().await.unwrap();
        assert_eq!(wechat.token_requests().started, 2);
    }
}

#[tokio::test]
async fn a_connection_that_always_breaks_is_a_transport_error() {
    let wechat = MockWechat::start().await;
    for _ in 0..4 {
        wechat.fail_next(Failure::TokenDisconnect);
    }
    let source = ClientCredential::new(http(), wechat.appid(), SECRET).base_url(wechat.url());
    let error = TokenManager::new(source).token().await.unwrap_err();
    assert!(matches!(error, TokenError::Transport(_)), "{error:?}");
    says_nothing_secret(&error);
}

#[tokio::test]
async fn a_refused_connection_says_so_and_no_more() {
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let source = ClientCredential::new(http(), "wx1", SECRET);
    let source = source.base_url(format!("http://127.0.0.1:{port}"));
    let error = TokenManager::new(source).token().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the token request failed: connection refused"
    );
    says_nothing_secret(&error);
}

#[tokio::test]
async fn a_page_of_html_is_told_by_its_status() {
    let wechat = MockWechat::start().await;
    for status in [302, 400, 403, 404] {
        wechat.clear();
        wechat.fail_next(Failure::TokenStatus(status));
        let error = plain(&wechat).token().await.unwrap_err();
        assert!(
            matches!(error, TokenError::Status(s) if s == status),
            "{error:?}"
        );
        assert_eq!(wechat.token_requests().started, 1);
    }
}

#[tokio::test]
async fn bad_token_replies_are_clear_errors_and_the_next_call_is_well() {
    let deep = "[".repeat(100_000);
    let padded = format!(
        r#"{{"access_token":"t","expires_in":7200,"pad":"{}"}}"#,
        "x".repeat(65_536)
    );
    let replies: [(&[u8], &str); 26] = [
        (b"", "it is empty"),
        (b" \r\n", "not a JSON object"),
        (b"<html>busy</html>", "not a JSON object"),
        (br#"{"access_token":"SEEN","expires_i"#, "not a JSON object"),
        (br#"{"access_token":"SEEN"#, "not a JSON object"),
        (
            br#"{"access_token":"SEEN","expires_in":7200}{}"#,
            "not a JSON object",
        ),
        (br#"["SEEN",7200]"#, "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"\xff\xfe\x00", "not a JSON object"),
        (deep.as_bytes(), "larger than 64 KiB"),
        (&deep.as_bytes()[..60_000], "not a JSON object"),
        (padded.as_bytes(), "larger than 64 KiB"),
        (b"{}", "no access_token"),
        (br#"{"errcode":0,"errmsg":"ok"}"#, "no access_token"),
        (
            br#"{"access_token":"","expires_in":7200}"#,
            "access_token is empty",
        ),
        (
            br#"{"access_token":null,"expires_in":7200}"#,
            "access_token is not a string",
        ),
        (
            br#"{"access_token":42,"expires_in":7200}"#,
            "access_token is not a string",
        ),
        (br#"{"access_token":"SEEN"}"#, "no expires_in"),
        (
            br#"{"access_token":"SEEN","expires_in":null}"#,
            "expires_in is not a number",
        ),
        (
            br#"{"access_token":"SEEN","expires_in":"2 h"}"#,
            "expires_in is not a number",
        ),
        (
            br#"{"access_token":"SEEN","expires_in":0}"#,
            "between 1 and 2592000",
        ),
        (
            br#"{"access_token":"SEEN","expires_in":-7200}"#,
            "between 1 and 2592000",
        ),
        (
            br#"{"access_token":"SEEN","expires_in":7200.5}"#,
            "between 1 and 2592000",
        ),
        (
            br#"{"access_token":"SEEN","expires_in":1e300}"#,
            "between 1 and 2592000",
        ),
        (
            br#"{"access_token":"SEEN","expires_in":2592001}"#,
            "between 1 and 2592000",
        ),
        (
            br#"{"access_token":"SEEN","expires_in":18446744073709551615}"#,
            "between 1 and 2592000",
        ),
    ];
    let wechat = MockWechat::start().await;
    for (reply, wrong) in replies {
        for tokens in [plain(&wechat), stable(&wechat), wecom(&wechat)] {
            wechat.clear();
            wechat.fail_next(Failure::TokenBody(Bytes::copy_from_slice(reply)));
            let error = tokens.token().await.unwrap_err();
            assert!(
                matches!(error, TokenError::InvalidReply { .. }),
                "{error:?}"
            );
            let text = format!("{error} {error:?}");
            assert!(text.contains(wrong), "{text}");
            assert!(!text.contains("SEEN"), "{text}");
            assert_eq!(wechat.token_requests().started, 1, "{wrong}");
            tokens.token().await.unwrap();
        }
    }
}

#[tokio::test]
async fn odd_token_replies_that_are_fine_are_fine() {
    let wechat = MockWechat::start().await;
    let long = "x".repeat(2048);
    for (reply, secret) in [
        (
            "\u{feff}\r\n{\n  \"expires_in\" : 7200,\n  \"access_token\" : \"t\"\n}\n".to_owned(),
            "t",
        ),
        (
            r#"{"errcode":0,"errmsg":"ok","access_token":"t","expires_in":1}"#.to_owned(),
            "t",
        ),
        (
            r#"{"errcode":"0","access_token":"t","expires_in":2592000,"x":{"errcode":40001}}"#
                .to_owned(),
            "t",
        ),
        (granted(&long), &*long),
    ] {
        wechat.fail_next(Failure::TokenBody(reply.into()));
        assert_eq!(plain(&wechat).token().await.unwrap().secret(), secret);
    }
}

#[cfg(feature = "decompression")]
#[tokio::test]
async fn a_token_reply_in_gzip_is_read() {
    use std::io::Write;

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(granted("t").as_bytes()).unwrap();
    let body = Bytes::from(gzip.finish().unwrap());
    let http = service_fn(move |_: Request<Full<Bytes>>| {
        let reply = Response::builder().header(header::CONTENT_ENCODING, "gzip");
        let reply = reply.body(Full::new(body.clone())).unwrap();
        async move { Ok::<_, Infallible>(reply) }
    });
    let source = ClientCredential::new(http, "wx1", SECRET);
    assert_eq!(source.issue(None).await.unwrap().secret(), "t");
}

#[tokio::test]
async fn an_errcode_beside_a_token_counts_for_more() {
    let reply =
        r#"{"access_token":"t","expires_in":7200,"errcode":"40013","errmsg":"invalid appid"}"#;
    let tokens = TokenManager::new(ClientCredential::new(
        Desk::answering([reply]).http(),
        "a",
        "b",
    ));
    assert_eq!(tokens.token().await.unwrap_err().errcode(), Some(40013));
}

#[tokio::test]
async fn a_secret_that_comes_back_in_an_errmsg_is_not_printed() {
    let reply = format!(r#"{{"errcode":40125,"errmsg":"invalid appsecret {SECRET}\r\nrid: 1"}}"#);
    let tokens = TokenManager::new(StableToken::new(
        Desk::answering([reply]).http(),
        "a",
        SECRET,
    ));
    let error = tokens.token().await.unwrap_err();
    says_nothing_secret(&error);
    assert!(!error.to_string().contains(['\r', '\n']), "{error}");
}

#[tokio::test]
async fn a_reply_without_an_end_is_not_read_to_it() {
    let http = service_fn(|_: Request<Full<Bytes>>| async {
        let frame = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b' '; 1024])));
        Ok::<_, Infallible>(Response::new(StreamBody::new(stream::repeat_with(frame))))
    });
    let tokens = TokenManager::new(ClientCredential::new(http, "a", "b"));
    let error = tokens.token().await.unwrap_err();
    assert!(error.to_string().contains("64 KiB"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_breaks_off_is_a_transport_error_and_asked_for_again() {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let http = service_fn(move |_: Request<Full<Bytes>>| {
        *count.lock().unwrap() += 1;
        async {
            let half = Frame::data(Bytes::from_static(br#"{"access_"#));
            let reset = io::Error::from(io::ErrorKind::ConnectionReset);
            let body = StreamBody::new(stream::iter([Ok(half), Err(reset)]));
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    let tokens = TokenManager::new(ClientCredential::new(http, "a", "b"));
    let error = tokens.token().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the token request failed: connection reset"
    );
    assert_eq!(*asked.lock().unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_never_comes_is_a_timeout() {
    let http = service_fn(|_: Request<Full<Bytes>>| {
        pending::<Result<Response<Full<Bytes>>, Infallible>>()
    });
    let tokens = TokenManager::new(ClientCredential::new(http, "a", "b"));
    let error = tokens.token().await.unwrap_err();
    assert!(matches!(error, TokenError::Timeout { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_whose_body_never_ends_is_a_timeout() {
    let http = service_fn(|_: Request<Full<Bytes>>| async {
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        Ok::<_, Infallible>(Response::new(body))
    });
    let tokens = TokenManager::new(ClientCredential::new(http, "a", "b"));
    let error = tokens.token().await.unwrap_err();
    assert!(matches!(error, TokenError::Timeout { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_below_the_source_is_asked_again() {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let http = ServiceBuilder::new()
        .timeout(secs(1))
        .service_fn(move |_: Request<Full<Bytes>>| {
            *count.lock().unwrap() += 1;
            let hangs = *count.lock().unwrap() == 1;
            async move {
                if hangs {
                    pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(granted("t")))))
            }
        });
    let tokens = TokenManager::new(ClientCredential::new(http, "a", "b"));
    assert_eq!(tokens.token().await.unwrap().secret(), "t");
    assert_eq!(*asked.lock().unwrap(), 2);
}

// Trap 1: a clone that was never made ready is called (tower#547): these two panic then.
#[tokio::test]
async fn trap_1_a_limited_client_is_made_ready_before_it_is_called() {
    let desk = Desk::giving(["t1", "t2", "t3"]);
    let http = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(desk.http());
    let tokens = TokenManager::new(StableToken::new(http, "a", "b"));
    let first = tokens.token().await.unwrap();
    assert_eq!(tokens.refresh(&first).await.unwrap().secret(), "t2");

    let http = ServiceBuilder::new().buffer(1).service(desk.http());
    let tokens = TokenManager::new(ClientCredential::new(http, "a", "b"));
    assert_eq!(tokens.token().await.unwrap().secret(), "t3");
}

#[tokio::test(start_paused = true)]
async fn a_clients_error_whose_text_holds_the_url_is_not_printed() {
    let url = format!("error sending request for url (http://h/cgi-bin/token?secret={SECRET})");
    // What the client's error is made of must not matter.
    let source = ClientCredential::new(failing(url.clone()), "a", SECRET);
    let error = TokenManager::new(source).token().await.unwrap_err();
    says_nothing_secret(&error);

    let text: &'static str = url.leak();
    let error = TokenManager::new(StableToken::new(failing(text), "a", SECRET))
        .token()
        .await;
    let error = error.unwrap_err();
    says_nothing_secret(&error);
    // But it is there for whoever wants it.
    let TokenError::Transport(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.get_ref().to_string(), text);

    let boxed = service_fn(move |_: Request<Full<Bytes>>| async move {
        Err::<Response<Full<Bytes>>, BoxError>(io::Error::other(text).into())
    });
    let error = TokenManager::new(WeComCredential::new(boxed, "a", SECRET))
        .token()
        .await;
    says_nothing_secret(&error.unwrap_err());
}

// base_url.

#[tokio::test]
async fn a_base_url_may_have_a_path_and_a_slash_at_its_end() {
    for (base_url, uri) in [
        (
            "http://gateway:8080",
            "http://gateway:8080/cgi-bin/stable_token",
        ),
        (
            "http://gateway:8080/",
            "http://gateway:8080/cgi-bin/stable_token",
        ),
        (
            "https://gateway/wx",
            "https://gateway/wx/cgi-bin/stable_token",
        ),
        (
            "https://gateway/wx/1//",
            "https://gateway/wx/1/cgi-bin/stable_token",
        ),
        (
            "http://[::1]:80/wx",
            "http://[::1]:80/wx/cgi-bin/stable_token",
        ),
    ] {
        let desk = Desk::giving(["t"]);
        let source = StableToken::new(desk.http(), "a", "b").base_url(base_url);
        TokenManager::new(source).token().await.unwrap();
        assert_eq!(desk.got()[0].uri, uri);
    }
}

#[tokio::test]
async fn wechat_itself_is_asked_where_no_base_url_is_set() {
    let desk = Desk::giving(["t1", "t2", "t3"]);
    TokenManager::new(ClientCredential::new(desk.http(), "a", "b"))
        .token()
        .await
        .unwrap();
    TokenManager::new(StableToken::new(desk.http(), "a", "b"))
        .token()
        .await
        .unwrap();
    TokenManager::new(WeComCredential::new(desk.http(), "a", "b"))
        .token()
        .await
        .unwrap();
    let uris: Vec<_> = desk.got().iter().map(|got| got.uri.to_string()).collect();
    assert_eq!(
        uris,
        [
            "https://api.weixin.qq.com/cgi-bin/token?grant_type=client_credential&appid=a&secret=b",
            "https://api.weixin.qq.com/cgi-bin/stable_token",
            "https://qyapi.weixin.qq.com/cgi-bin/gettoken?corpid=a&corpsecret=b",
        ]
    );
}

#[test]
fn a_base_url_that_is_none_panics_where_it_is_set() {
    for base_url in [
        "",
        "/",
        "/wx",
        "gateway",
        "gateway:8080",
        "ftp://gateway",
        "http://",
        "http:///wx",
        "http://gate way",
        "http://gateway?x=1",
        "http://gateway/wx?",
        "http://gateway/wx#top",
    ] {
        let set =
            || drop(ClientCredential::new(Desk::default().http(), "a", "b").base_url(base_url));
        assert!(
            catch_unwind(std::panic::AssertUnwindSafe(set)).is_err(),
            "{base_url:?}"
        );
    }
}

#[test]
fn no_source_prints_its_secret() {
    let http = Desk::default().http();
    for text in [
        format!("{:?}", ClientCredential::new(http.clone(), "wx1", SECRET)),
        format!("{:#?}", StableToken::new(http.clone(), "wx1", SECRET)),
        format!("{:?}", WeComCredential::new(http, "wx1", SECRET)),
    ] {
        assert!(!text.contains(SECRET), "{text}");
        assert!(text.contains("wx1"), "{text}");
    }
}

#[tokio::test]
async fn a_secret_that_makes_the_url_too_long_is_an_error() {
    let source = ClientCredential::new(Desk::default().http(), "a", SECRET.repeat(20_000));
    let error = TokenManager::new(source).token().await.unwrap_err();
    assert!(matches!(error, TokenError::Other(_)), "{error:?}");
    says_nothing_secret(&error);
}

// StableToken.

#[tokio::test]
async fn stable_token_asks_by_post_with_json() {
    let desk = Desk::giving(["t"]);
    let (appid, secret) = ("wx\"1\\", "s\n\u{1}é&=");
    TokenManager::new(StableToken::new(desk.http(), appid, secret))
        .token()
        .await
        .unwrap();
    let got = &desk.got()[0];
    assert_eq!(got.method, Method::POST);
    assert_eq!(
        (got.uri.path(), got.uri.query()),
        ("/cgi-bin/stable_token", None)
    );
    assert_eq!(got.content_type.as_deref(), Some("application/json"));
    assert_eq!(
        got.json(),
        json!({
            "grant_type": "client_credential",
            "appid": appid,
            "secret": secret,
            "force_refresh": false,
        })
    );
}

#[tokio::test]
async fn stable_token_gives_every_process_the_same_token() {
    let wechat = MockWechat::start().await;
    let first = stable(&wechat).token().await.unwrap();
    assert_eq!(stable(&wechat).token().await.unwrap(), first);
    assert_eq!(wechat.token_requests().issued, 1);
}

// Trap 7: "refresh" returns the token that was rejected (WxJava in stable mode).
#[tokio::test]
async fn trap_7_stable_token_survives_a_revocation() {
    let wechat = MockWechat::start().await;
    let tokens = stable(&wechat);
    let first = tokens.token().await.unwrap();
    wechat.revoke();
    let second = tokens.refresh(&first).await.unwrap();
    assert_ne!(first, second);
    // Asked without force first, and then with it.
    assert_eq!(wechat.token_requests().started, 3);
    assert_eq!(wechat.token_requests().issued, 2);
    assert_eq!(stable(&wechat).token().await.unwrap(), second);
}

#[tokio::test]
async fn stable_token_of_another_process_is_taken_over_without_force() {
    let wechat = MockWechat::start().await;
    let (one, two) = (stable(&wechat), stable(&wechat));
    let first = one.token().await.unwrap();
    two.token().await.unwrap();
    wechat.revoke();
    let second = one.refresh(&first).await.unwrap();
    assert_eq!(two.refresh(&first).await.unwrap(), second);
    assert_eq!(wechat.token_requests().issued, 2);
}

#[tokio::test(start_paused = true)]
async fn stable_token_never_forces_a_first_token_or_a_renewal() {
    let desk = Desk::giving(["t"; 3]);
    let tokens = TokenManager::new(StableToken::new(desk.http(), "a", "b"));
    tokens.token().await.unwrap();
    sleep(secs(7000)).await;
    tokens.token().await.unwrap();
    sleep(secs(1)).await;
    sleep(secs(7200)).await;
    tokens.token().await.unwrap();
    assert_eq!(desk.forced(), [false; 3]);
}

#[tokio::test(start_paused = true)]
async fn stable_token_forces_only_when_the_answer_is_the_rejected_token() {
    let desk = Desk::giving(["old", "new", "new", "newer"]);
    let tokens = TokenManager::new(StableToken::new(desk.http(), "a", "b"));
    let old = tokens.token().await.unwrap();
    // Renewed elsewhere.
    let new = tokens.refresh(&old).await.unwrap();
    assert_eq!(new.secret(), "new");
    assert_eq!(desk.forced(), [false; 2]);
    // Not renewed.
    assert_eq!(tokens.refresh(&new).await.unwrap().secret(), "newer");
    assert_eq!(desk.forced(), [false, false, false, true]);
    // WeChat, which does not say that it wants to know, is never told which one was rejected.
    let told = desk.got();
    assert!(
        told.iter()
            .all(|got| got.json().get("rejected_token").is_none())
    );
}

#[tokio::test(start_paused = true)]
async fn stable_token_forces_at_most_once_in_30_s() {
    let desk = Desk::giving(["t"; 8]);
    let tokens = TokenManager::new(StableToken::new(desk.http(), "a", "b"));
    let rejected = tokens.token().await.unwrap();
    // WeChat ignores the force.
    assert_eq!(tokens.refresh(&rejected).await.unwrap(), rejected);
    sleep(Duration::from_millis(29_900)).await;
    assert_eq!(tokens.refresh(&rejected).await.unwrap(), rejected);
    assert_eq!(desk.forced(), [false, false, true, false]);
    // The manager pauses for two seconds when it has got the same token twice.
    sleep(secs(2)).await;
    assert_eq!(tokens.refresh(&rejected).await.unwrap(), rejected);
    assert_eq!(desk.forced(), [false, false, true, false, false, true]);
}

// Two managers of one process, as two layers that were set up apart.
#[tokio::test(start_paused = true)]
async fn m6_stable_token_clones_share_what_wechat_forces_in_a_day() {
    let desk = Desk::giving(vec!["t"; 10_000]);
    let source = StableToken::new(desk.http(), "a", "b");
    let rejected = AccessToken::new("t", secs(7200));
    for _ in 0..24 * 60 {
        let _ = source.issue(Some(&rejected)).await;
        let _ = source.clone().issue(Some(&rejected)).await;
        sleep(secs(60)).await;
    }
    let forced = desk.forced().into_iter().filter(|forced| *forced).count();
    assert!((17..=18).contains(&forced), "{forced}");
}

#[tokio::test(start_paused = true)]
async fn stable_token_clones_share_the_30_s() {
    let desk = Desk::giving(["t"; 5]);
    let source = StableToken::new(desk.http(), "a", "b");
    let rejected = AccessToken::new("t", secs(1));
    source.issue(Some(&rejected)).await.unwrap();
    source.clone().issue(Some(&rejected)).await.unwrap();
    assert_eq!(desk.forced(), [false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn stable_token_a_force_that_failed_is_repeated_after_30_s() {
    let busy = r#"{"errcode":-1,"errmsg":"system error"}"#.to_owned();
    let desk = Desk::answering([
        granted("t"),
        granted("t"),
        busy,
        granted("t"),
        granted("t"),
        granted("new"),
    ]);
    let tokens = TokenManager::new(StableToken::new(desk.http(), "a", "b"));
    let rejected = tokens.token().await.unwrap();
    assert_eq!(tokens.refresh(&rejected).await.unwrap(), rejected);
    assert_eq!(desk.forced(), [false, false, true, false]);
    sleep(secs(30)).await;
    assert_eq!(tokens.refresh(&rejected).await.unwrap().secret(), "new");
    assert_eq!(desk.forced()[4..], [false, true]);
}

#[tokio::test(start_paused = true)]
async fn stable_token_rejected_forever_forces_less_than_wechat_allows_in_ten_minutes() {
    let desk = Desk::giving(["t"; 64]);
    let tokens = TokenManager::new(StableToken::new(desk.http(), "a", "b"));
    let rejected = tokens.token().await.unwrap();
    for _ in 0..600 {
        let _ = tokens.refresh(&rejected).await;
        sleep(secs(1)).await;
    }
    let forced = desk.forced().into_iter().filter(|forced| *forced).count();
    assert!((2..=11).contains(&forced), "{forced}");
}

#[tokio::test]
async fn neither_kind_of_token_kills_the_other() {
    let wechat = MockWechat::start().await;
    let (plain, stable) = (plain(&wechat), stable(&wechat));
    let first = stable.token().await.unwrap();
    plain.token().await.unwrap();
    assert_ne!(plain.token().await.unwrap(), first);
    assert_eq!(stable.token().await.unwrap(), first);
}

// WeComCredential.

#[tokio::test]
async fn wecom_asks_gettoken_with_corpid_and_corpsecret() {
    let wechat = MockWechat::builder().account("ww+1", "c&s").start().await;
    wecom(&wechat).token().await.unwrap();
    let request = &wechat.requests()[0];
    assert_eq!(
        (request.method(), request.path()),
        (&Method::GET, "/cgi-bin/gettoken")
    );
    assert_eq!(request.query(), Some("corpid=ww%2B1&corpsecret=c%26s"));
}

#[tokio::test]
async fn wecom_says_40001_for_a_wrong_secret_and_it_is_remembered() {
    let wechat = MockWechat::start().await;
    let source = WeComCredential::new(http(), wechat.appid(), SECRET).base_url(wechat.url());
    let tokens = TokenManager::new(source);
    for _ in 0..10 {
        let error = tokens.token().await.unwrap_err();
        assert_eq!(error.errcode(), Some(40001));
        says_nothing_secret(&error);
    }
    assert_eq!(wechat.token_requests().started, 1);
}

#[tokio::test]
async fn wecom_gets_another_token_after_a_rejection() {
    let wechat = MockWechat::start().await;
    let tokens = wecom(&wechat);
    let first = tokens.token().await.unwrap();
    wechat.revoke();
    assert_ne!(tokens.refresh(&first).await.unwrap(), first);
}

// Sources of one's own.

#[tokio::test]
async fn a_closure_is_a_source_and_is_told_of_the_rejected_token() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = told.clone();
    let tokens = TokenManager::new(source_fn(move |rejected: Option<AccessToken>| {
        let mut notes = notes.lock().unwrap();
        notes.push(rejected.map(|token| token.secret().to_owned()));
        let token = AccessToken::new(format!("t{}", notes.len()), secs(7200));
        async move { Ok(token) }
    }));
    let first = tokens.token().await.unwrap();
    assert_eq!(tokens.refresh(&first).await.unwrap().secret(), "t2");
    assert_eq!(*told.lock().unwrap(), [None, Some("t1".to_owned())]);
}

#[tokio::test]
async fn a_source_can_wrap_a_source() {
    struct Prefixed<T>(T);

    impl<T: TokenSource> TokenSource for Prefixed<T> {
        async fn issue(&self, rejected: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
            let token = self.0.issue(rejected).await?;
            Ok(AccessToken::new(
                format!("p-{}", token.secret()),
                token.expires_in(),
            ))
        }
    }

    let wechat = MockWechat::start().await;
    let source = ClientCredential::new(http(), wechat.appid(), wechat.secret());
    let source = Arc::new(Prefixed(source.base_url(wechat.url())));
    let token = TokenManager::new(source.clone()).token().await.unwrap();
    assert_eq!(
        token.secret(),
        format!("p-{}", wechat.current_token().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_of_ones_own_says_what_failed() {
    let sealed = TokenManager::new(source_fn(|_| async {
        Err(TokenError::other("the vault is sealed"))
    }));
    let error = sealed.token().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the token source failed: the vault is sealed"
    );

    let gone = TokenManager::new(source_fn(|_| async {
        let url = format!("http://h/?secret={SECRET}");
        Err(TokenError::other(io::Error::new(
            io::ErrorKind::NotFound,
            url,
        )))
    }));
    let error = gone.token().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the token source failed: entity not found"
    );
    says_nothing_secret(&error);

    let status = TokenManager::new(source_fn(|_| async {
        Err(TokenError::Status(StatusCode::IM_A_TEAPOT))
    }));
    assert!(
        status
            .token()
            .await
            .unwrap_err()
            .to_string()
            .contains("418")
    );
}
