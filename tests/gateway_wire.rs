//! The gateway over real sockets, between a client and an upstream whose every byte is written by
//! hand: framing (S4), replies that break off (S2), and tokens that come back (S5).

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::{nobody, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;
use tower_wechat::reqwest::{HttpClient, from_axum};
use tower_wechat::server::{Gateway, ServerBuilder};
use tower_wechat::{AccessToken, TokenManager, source_fn};

const APPID: &str = "wx0123456789abcdef";
const SECRET: &str = "the-secret-of-crm-which-is-long";
/// What the gateway itself has to say.
const OF_THE_GATEWAY: &str = r#""errcode":59900502"#;
const JSON: &str = r#"{"errcode":0,"errmsg":"ok"}"#;
const REJECTED: &str = r#"{"errcode":40001,"errmsg":"invalid credential rid: 66f0-1a2b"}"#;

/// An upstream that answers each request with the next of its replies, and then closes the
/// connection.
struct Upstream {
    url: String,
    received: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    async fn start(replies: impl IntoIterator<Item = String>) -> Upstream {
        let replies: Vec<_> = replies.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&received);
        tokio::spawn(async move {
            for reply in replies {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                log.lock().unwrap().push(request);
                let (reply, stalls) = match reply.strip_suffix("STALL") {
                    Some(reply) => (reply, true),
                    None => (&*reply, false),
                };
                stream.write_all(reply.as_bytes()).await.unwrap();
                if stalls {
                    // Until the gateway gives up.
                    let _ = stream.read(&mut [0; 1]).await;
                }
            }
        });
        Upstream { url, received }
    }

    fn received(&self) -> Vec<String> {
        self.received.lock().unwrap().clone()
    }
}

/// One request, head and body.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the request ends early: {text}");
        request.extend_from_slice(&buffer[..read]);
    }
}

/// A gateway in front of `upstream`, whose tokens are `78_real-1`, `78_real-2` and so on.
struct Served {
    address: String,
    token: String,
}

impl Served {
    async fn start(upstream: &str) -> Served {
        let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
        Served::of(Gateway::builder(http), upstream).await
    }

    async fn of(builder: ServerBuilder<Gateway>, upstream: &str) -> Served {
        let issued = std::sync::atomic::AtomicUsize::new(0);
        let source = source_fn(move |_| {
            let number = issued.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            let token = AccessToken::new(format!("78_real-{number}"), Duration::from_secs(7200));
            async move { Ok(token) }
        });
        let gateway = builder
            .upstream(upstream)
            .account(APPID, TokenManager::new(source))
            .client("crm", SECRET)
            .body_pause(Duration::from_millis(200));
        let url = serve(gateway.build().unwrap()).await;
        let mut served = Served {
            address: url.trim_start_matches("http://").to_owned(),
            token: String::new(),
        };
        let target =
            format!("/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret={SECRET}");
        let reply = served
            .send(&format!(
                "GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
            ))
            .await;
        let (_, token) = reply.split_once(r#""access_token":""#).expect(&reply);
        served.token = token.split_once('"').unwrap().0.to_owned();
        served
    }

    /// What comes back until the connection is closed.
    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut reply).await;
        String::from_utf8_lossy(&reply).into_owned()
    }

    fn request(&self, method: &str, rest: &str) -> String {
        format!(
            "{method} /cgi-bin/message/custom/send?access_token={} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{rest}",
            self.token
        )
    }

    async fn post(&self) -> String {
        let body = "{}";
        let rest = format!("content-length: {}\r\n\r\n{body}", body.len());
        self.send(&self.request("POST", &rest)).await
    }
}

/// What a client gets to a POST that is answered so.
async fn answered(reply: impl Into<String>) -> String {
    let upstream = Upstream::start([reply.into()]).await;
    let reply = Served::start(&upstream.url).await.post().await;
    assert_eq!(upstream.received().len(), 1, "sent once");
    reply
}

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}")
}

fn values<'a>(reply: &'a str, name: &str) -> Vec<&'a str> {
    let (head, _) = reply.split_once("\r\n\r\n").expect("a head");
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(named, _)| named.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

/// The body, which is as long as the head says.
#[track_caller]
fn body(reply: &str) -> String {
    let (_, body) = reply.split_once("\r\n\r\n").expect(reply);
    match values(reply, "content-length")[..] {
        [length] => {
            assert!(values(reply, "transfer-encoding").is_empty(), "{reply}");
            assert_eq!(body.len(), length.parse::<usize>().unwrap(), "{reply}");
            body.to_owned()
        }
        [] => {
            assert_eq!(values(reply, "transfer-encoding"), ["chunked"], "{reply}");
            let mut whole = String::new();
            let mut rest = body;
            loop {
                let (length, after) = rest.split_once("\r\n").expect(reply);
                let length = usize::from_str_radix(length, 16).expect(reply);
                if length == 0 {
                    assert_eq!(after, "\r\n", "{reply}");
                    return whole;
                }
                whole.push_str(&after[..length]);
                rest = &after[length + 2..];
            }
        }
        _ => panic!("several lengths: {reply}"),
    }
}

#[track_caller]
fn assert_may_have_acted(reply: &str) {
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    let body = body(reply);
    assert!(
        body.contains(OF_THE_GATEWAY) && body.contains("may have acted"),
        "{reply}"
    );
    assert!(!reply.contains("real-1"), "{reply}");
}

#[tokio::test]
async fn s4_servicetalk_1349_a_length_beside_chunks_cuts_nothing_off() {
    let chunks = format!("{:x}\r\n{JSON}\r\n0\r\n\r\n", JSON.len());
    let headers = "transfer-encoding: chunked\r\ncontent-length: 5\r\n";
    assert_eq!(body(&answered(ok(headers, &chunks)).await), JSON);
    let headers = "content-length: 5\r\ntransfer-encoding: chunked\r\n";
    assert_eq!(body(&answered(ok(headers, &chunks)).await), JSON);
    // A body that is not held until its end.
    let headers = "content-type: image/png\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n";
    assert_eq!(
        body(&answered(ok(headers, "9\r\na picture\r\n0\r\n\r\n")).await),
        "a picture"
    );
}

#[tokio::test]
async fn s4_aspnet_proxy_30_a_length_is_said_anew() {
    for headers in [
        "content-length: 27, 27\r\n",
        "content-length: 27\r\ncontent-length: 27\r\n",
    ] {
        let reply = answered(ok(headers, JSON)).await;
        assert_eq!(values(&reply, "content-length"), ["27"], "{reply}");
        assert_eq!(body(&reply), JSON);
    }
    // Until the connection ends.
    assert_eq!(body(&answered(ok("", JSON)).await), JSON);
}

#[tokio::test]
async fn s4_a_transfer_coding_that_nobody_undoes_is_not_passed_on_as_if_it_were_undone() {
    let chunks = "6\r\n\x1f\x08\x00\x00\x00\x00\r\n0\r\n\r\n";
    for coding in ["gzip, chunked", "gzip\r\ntransfer-encoding: chunked"] {
        let headers = format!("transfer-encoding: {coding}\r\n");
        assert_may_have_acted(&answered(ok(&headers, chunks)).await);
    }
}

#[tokio::test]
async fn s4_nghttp2_2867_a_101_never_reaches_a_client() {
    let reply = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    assert_may_have_acted(&answered(reply).await);
}

#[tokio::test]
async fn s4_interim_replies_stay_with_the_gateway() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n";
    let reply = answered(interim.to_owned() + &ok("content-length: 27\r\n", JSON)).await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    assert!(values(&reply, "link").is_empty(), "{reply}");
    assert_eq!(body(&reply), JSON);
}

#[tokio::test]
async fn s4_hyper_1925_the_body_of_a_get_or_head_is_refused_and_not_lost() {
    let upstream = Upstream::start([]).await;
    let gateway = Served::start(&upstream.url).await;
    for method in ["GET", "HEAD"] {
        for rest in [
            "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "content-length: 2\r\n\r\n{}",
        ] {
            let reply = gateway.send(&gateway.request(method, rest)).await;
            assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
            if method == "GET" {
                assert!(reply.contains(r#""errcode":43002"#), "{reply}");
            }
        }
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn s4_a_get_that_declares_an_empty_body_is_passed_on_without_a_word_of_it() {
    for rest in [
        "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "content-length: 0\r\n\r\n",
        "\r\n",
    ] {
        let upstream = Upstream::start([ok("content-length: 27\r\n", JSON)]).await;
        let gateway = Served::start(&upstream.url).await;
        let reply = gateway.send(&gateway.request("GET", rest)).await;
        assert_eq!(body(&reply), JSON);
        let received = &upstream.received()[0];
        for name in ["content-length", "transfer-encoding"] {
            assert!(values(received, name).is_empty(), "{received}");
        }
    }
}

#[tokio::test]
async fn s4_head_keeps_a_length_that_means_something() {
    for (headers, expected) in [
        ("content-length: 27\r\n", &["27"][..]),
        ("transfer-encoding: chunked\r\n", &[]),
        ("content-length: 27, 27\r\n", &[]),
        ("", &[]),
    ] {
        let upstream = Upstream::start([ok(headers, "")]).await;
        let gateway = Served::start(&upstream.url).await;
        let reply = gateway.send(&gateway.request("HEAD", "\r\n")).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        assert_eq!(
            values(&reply, "content-length"),
            expected,
            "{headers}: {reply}"
        );
        assert!(reply.ends_with("\r\n\r\n"), "{reply}");
    }
}

#[tokio::test]
async fn s2_caddy_7845_a_reply_that_breaks_off_is_an_error_and_not_silence() {
    let half = &JSON[..13];
    for reply in [
        ok("content-length: 27\r\n", half),
        ok("content-length: 27\r\n", ""),
        ok(
            "content-type: application/json\r\ntransfer-encoding: chunked\r\n",
            &format!("d\r\n{half}\r\n"),
        ),
        ok("transfer-encoding: chunked\r\n", "1b\r\n{"),
        ok("content-type: image/png\r\ncontent-length: 27\r\n", ""),
        // Before its head, and in it.
        String::new(),
        "HTTP/1.1 200 OK\r\ncontent-le".into(),
    ] {
        assert_may_have_acted(&answered(reply).await);
    }
}

#[tokio::test]
async fn s2_what_breaks_off_after_the_head_has_gone_out_has_no_clean_end_and_is_no_silence() {
    for headers in [
        "content-type: image/png\r\ncontent-length: 27\r\n",
        "content-type: image/png\r\ntransfer-encoding: chunked\r\n",
    ] {
        let piece = match headers.contains("chunked") {
            true => "9\r\na picture\r\n",
            false => "a picture",
        };
        let reply = answered(ok(headers, piece)).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        assert!(reply.contains("a picture"), "{reply}");
        assert!(!reply.ends_with("0\r\n\r\n"), "{reply}");
    }
}

#[tokio::test]
async fn s2_a_replays_reply_that_breaks_off_is_an_error_too() {
    let rejected = ok(&format!("content-length: {}\r\n", REJECTED.len()), REJECTED);
    let upstream = Upstream::start([rejected, ok("content-length: 27\r\n", &JSON[..13])]).await;
    let reply = Served::start(&upstream.url).await.post().await;
    assert_may_have_acted(&reply);
    assert_eq!(upstream.received().len(), 2);
}

#[tokio::test]
async fn s2_a_rejection_that_breaks_off_is_none() {
    let reply = answered(ok("content-length: 90\r\n", &REJECTED[..30])).await;
    assert_may_have_acted(&reply);
}

#[tokio::test]
async fn s2_a_reply_that_stalls_while_it_is_read_ahead_is_given_up() {
    for reply in [
        ok("content-length: 27\r\n", &JSON[..13]),
        ok("content-type: text/plain\r\ncontent-length: 27\r\n", "text"),
        ok("content-type: image/png\r\ncontent-length: 27\r\n", ""),
    ] {
        let reply = answered(reply + "STALL").await;
        assert_may_have_acted(&reply);
        assert!(reply.contains("stopped coming"), "{reply}");
    }
}

#[tokio::test]
async fn s1_a_call_that_found_nobody_was_not_sent_and_may_be_sent_again() {
    let reqwest = reqwest::Client::builder().no_proxy().build().unwrap();
    let reqwest = HttpClient::new(reqwest).map_request(from_axum);
    let unknown = "http://does-not-exist.invalid";
    for (gateway, upstream) in [
        (Served::start(&nobody()).await, "hyper-util"),
        (Served::start(unknown).await, "hyper-util, no such name"),
        (
            Served::of(Gateway::builder(reqwest.clone()), &nobody()).await,
            "reqwest",
        ),
        (
            Served::of(Gateway::builder(reqwest), unknown).await,
            "reqwest, no such name",
        ),
    ] {
        let reply = gateway.post().await;
        assert!(reply.starts_with("HTTP/1.1 502 "), "{upstream}: {reply}");
        let body = body(&reply);
        assert!(
            body.contains(r#""errcode":-1"#) && body.contains("not sent"),
            "{upstream}: {reply}"
        );
    }
}

#[tokio::test]
async fn s1_a_connection_that_ends_before_the_reply_may_have_been_a_call_by_any_client() {
    let upstream = Upstream::start([String::new()]).await;
    let reqwest = reqwest::Client::builder().no_proxy().build().unwrap();
    let reqwest = HttpClient::new(reqwest).map_request(from_axum);
    let gateway = Served::of(Gateway::builder(reqwest), &upstream.url).await;
    assert_may_have_acted(&gateway.post().await);
    assert_eq!(upstream.received().len(), 1, "sent once");
}

#[tokio::test]
async fn s5_the_real_token_leaves_in_no_part_of_a_reply() {
    for token in [
        "78_real-1",
        "78%5Freal-1",
        "78%5freal%2D1",
        "78%255Freal-1",
        "78\\u005freal-1",
    ] {
        let chunked = "transfer-encoding: chunked\r\n";
        let redirect = "HTTP/1.1 302 Found\r\nlocation: /cgi-bin/x\r\n";
        let text = format!("{{\"errmsg\":\"{token}\"}}");
        let length = text.len();
        for reply in [
            // In a body, called something, nothing and something else.
            ok(
                &format!("content-type: text/html\r\ncontent-length: {length}\r\n"),
                &text,
            ),
            ok(&format!("content-length: {length}\r\n"), &text),
            ok(
                &format!("content-type: image/jpeg\r\ncontent-length: {length}\r\n"),
                &text,
            ),
            ok(
                chunked,
                &format!(
                    "5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
                    &text[..5],
                    length - 5,
                    &text[5..]
                ),
            ),
            // In the body of a redirect.
            format!("{redirect}content-type: text/html\r\ncontent-length: {length}\r\n\r\n{text}"),
            format!("{redirect}{chunked}\r\n{length:x}\r\n{text}\r\n0\r\n\r\n"),
            // In headers, and in what is said of the status.
            ok(
                &format!(
                    "x-request: {token}\r\nlink: <https://h/?a={token}>\r\ncontent-length: 27\r\n"
                ),
                JSON,
            ),
            format!("HTTP/1.1 200 {token}\r\ncontent-length: 27\r\n\r\n{JSON}"),
            format!("{redirect}location: https://h/?a={token}\r\ncontent-length: 0\r\n\r\n"),
            // In trailers.
            ok(
                &format!("trailer: x-request\r\n{chunked}"),
                &format!("1b\r\n{JSON}\r\n0\r\nx-request: {token}\r\n\r\n"),
            ),
            ok(
                &format!("content-type: image/png\r\ntrailer: x-request\r\n{chunked}"),
                &format!("9\r\na picture\r\n0\r\nx-request: {token}\r\n\r\n"),
            ),
        ] {
            let told = answered(reply.clone()).await;
            assert!(!told.contains("real"), "{reply}\n{told}");
            // Each of them is whole.
            body(&told);
        }
    }
}

#[tokio::test]
async fn s5_a_token_that_comes_after_the_head_has_gone_out_breaks_the_reply_off() {
    let text = "x".repeat(20_000);
    let before = format!("4e20\r\n{text}\r\n");
    let reply = format!("{before}4\r\n78_r\r\n5\r\neal-1\r\n0\r\n\r\n");
    let reply = answered(ok(
        "content-type: text/plain\r\ntransfer-encoding: chunked\r\n",
        &reply,
    ))
    .await;
    assert!(
        reply.contains(&text) && !reply.contains("78_r"),
        "{}",
        reply.len()
    );
    assert!(!reply.ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn r11_a_body_whose_length_is_declared_goes_out_with_that_length() {
    let upstream = Upstream::start([ok("content-length: 27\r\n", JSON)]).await;
    let gateway = Served::start(&upstream.url).await;
    assert_eq!(body(&gateway.post().await), JSON);
    let received = &upstream.received()[0];
    assert_eq!(values(received, "content-length"), ["2"], "{received}");
    assert!(
        values(received, "transfer-encoding").is_empty(),
        "{received}"
    );
}
