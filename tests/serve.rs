//! What `serve` bounds, and that every reply can be read: raw sockets, which do what no client of a
//! library does.

mod support;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use support::more_open_files;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower_wechat::server::{Bounds, Gateway, serve};
use tower_wechat::{AccessToken, TokenManager, source_fn};

const MIB: usize = 1024 * 1024;
const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";

/// However loaded the machine is: what is to happen has happened by then.
const IN_TIME: Duration = Duration::from_secs(60);
/// For a bound that a test waits for.
const SHORT: Duration = Duration::from_millis(300);
/// For one that it must not reach.
const LONG: Duration = Duration::from_secs(600);

struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(router: Router, bounds: Bounds) -> Server {
        more_open_files();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = oneshot::channel::<()>();
        let serving = serve(listener, router, bounds).until(async {
            let _ = stopping.await;
        });
        Server {
            address,
            stop: Some(stop),
            serving: tokio::spawn(serving.into_future()),
        }
    }

    async fn connect(&self) -> Raw {
        Raw(TcpStream::connect(self.address).await.unwrap())
    }

    /// A peer with little room for what it does not read.
    async fn connect_narrow(&self) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        Raw(socket.connect(self.address).await.unwrap())
    }

    async fn assert_serves(&self) {
        let reply = self.connect().await.ask(GET).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn stopped(&mut self) {
        let ended = timeout(IN_TIME, &mut self.serving).await;
        ended.expect("it stops in time").unwrap();
    }
}

struct Raw(TcpStream);

impl Raw {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = timeout(IN_TIME, self.0.write_all(bytes.as_ref())).await;
        sent.expect("in time").expect("no broken pipe");
    }

    /// One reply with a length.
    async fn reply(&mut self) -> String {
        self.try_reply().await.expect("a reply")
    }

    async fn try_reply(&mut self) -> std::io::Result<String> {
        let mut reply = Vec::new();
        let read = async {
            loop {
                let text = String::from_utf8_lossy(&reply).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head
                        .lines()
                        .find_map(|line| line.strip_prefix("content-length: "))
                        .map_or(0, |length| length.parse().unwrap());
                    if body.len() >= length {
                        return Ok(text);
                    }
                }
                if self.0.read_buf(&mut reply).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        timeout(IN_TIME, read).await.expect("in time")
    }

    async fn ask(&mut self, request: impl AsRef<[u8]>) -> String {
        self.send(request).await;
        self.reply().await
    }

    /// All that comes until the connection is closed.
    async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        let read = timeout(IN_TIME, self.0.read_to_end(&mut rest)).await;
        read.expect("the connection ends in time").map(|_| rest)
    }

    async fn assert_ends(&mut self) {
        // By a reset or not.
        let rest = self.rest().await.unwrap_or_default();
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}

/// Refuses what is posted without a look at its body, and counts what it is asked.
fn refusing() -> Router {
    Router::new()
        .route("/", get(async || "well"))
        .route("/refuse", post(async || r#"{"errcode":42001}"#))
        .route(
            "/peer",
            get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()),
        )
        .route(
            "/echo",
            post(async |body: Body| {
                body.collect()
                    .await
                    .map_or("broken".into(), |body| body.to_bytes())
            }),
        )
        .route("/endless", any(async || Body::from_stream(endless())))
        .route(
            "/panic",
            any(async |_: Request| -> &'static str { panic!("a mistake of the handler's") }),
        )
        .route(
            "/halts",
            any(async || {
                let some = stream::iter([Ok::<_, std::io::Error>("some of it")]);
                Body::from_stream(some.chain(stream::pending()))
            }),
        )
        .route(
            "/breaks",
            any(async || {
                Body::from_stream(stream::iter([
                    Ok("some of it"),
                    Err(std::io::Error::other("broken")),
                ]))
            }),
        )
}

fn endless() -> impl futures_util::Stream<Item = std::io::Result<Bytes>> {
    stream::repeat(Bytes::from_static(&[b'x'; 16 * 1024])).map(Ok)
}

fn upload(to: &str, lines: &str, size: usize) -> Vec<u8> {
    let head = format!("POST {to} HTTP/1.1\r\nhost: h\r\ncontent-length: {size}\r\n{lines}\r\n");
    let mut upload = head.into_bytes();
    upload.resize(upload.len() + size, b'x');
    upload
}

#[tokio::test]
async fn s3_hyper_3078_a_refusal_is_read_by_who_writes_first_and_the_connection_is_kept() {
    let server = Server::start(refusing(), Bounds::default().drained(16 * MIB as u64, LONG)).await;
    for size in [1, 2, 4, 8] {
        let mut client = server.connect().await;
        for _ in 0..3 {
            let reply = client.ask(upload("/refuse", "", size * MIB)).await;
            assert!(reply.ends_with(r#"{"errcode":42001}"#), "{reply}");
            assert!(!reply.contains("connection: close"), "{reply}");
        }
        assert!(client.ask(GET).await.ends_with("well"));
    }
}

#[tokio::test]
async fn s3_what_is_too_much_to_drain_is_refused_with_close_and_the_refusal_is_read() {
    let server = Server::start(refusing(), Bounds::default().drained(64 * 1024, LONG)).await;
    for lines in ["", "connection: keep-alive\r\n"] {
        let mut client = server.connect().await;
        let reply = client.ask(upload("/refuse", lines, 8 * MIB)).await;
        assert!(reply.ends_with(r#"{"errcode":42001}"#), "{reply}");
        assert!(reply.contains("connection: close"), "{reply}");
        assert_eq!(client.rest().await.expect("no reset"), b"");
        server.assert_serves().await;
    }
}

#[tokio::test]
async fn s3_a_chunked_upload_that_is_refused_is_drained_as_well() {
    let server = Server::start(refusing(), Bounds::default().drained(16 * MIB as u64, LONG)).await;
    let mut client = server.connect().await;
    let mut upload =
        b"POST /refuse HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..64 {
        upload.extend_from_slice(b"10000\r\n");
        upload.resize(upload.len() + 0x10000, b'x');
        upload.extend_from_slice(b"\r\n");
    }
    upload.extend_from_slice(b"0\r\n\r\n");
    let reply = client.ask(upload).await;
    assert!(reply.ends_with("42001}"), "{reply}");
    assert!(client.ask(GET).await.ends_with("well"));
}

#[tokio::test]
async fn s3_a_client_that_waits_for_its_refusal_gets_it_though_the_body_does_not_come() {
    let server = Server::start(refusing(), Bounds::default()).await;
    let mut client = server.connect().await;
    let reply = client
        .ask("POST /refuse HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\n{")
        .await;
    assert!(reply.ends_with("42001}"), "{reply}");
    assert!(reply.contains("connection: close"), "{reply}");
}

#[tokio::test]
async fn s3_who_asks_by_expect_and_is_refused_is_not_asked_to_go_on() {
    let server = Server::start(refusing(), Bounds::default()).await;
    let head = |path| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"
        )
    };
    let mut client = server.connect().await;
    let reply = client.ask(head("/refuse")).await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    assert!(reply.ends_with("42001}"), "{reply}");
    assert!(reply.contains("connection: close"), "{reply}");
    assert_eq!(client.rest().await.expect("no reset"), b"");

    let mut client = server.connect().await;
    client.send(head("/echo")).await;
    assert_eq!(client.reply().await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(client.ask("hello").await.ends_with("hello"));
    assert!(client.ask(GET).await.ends_with("well"));
}

#[tokio::test]
async fn s3_a_body_that_is_left_after_its_reply_was_sent_is_drained() {
    let (left, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (leaving, has_left) = (Arc::clone(&leave), Arc::clone(&left));
    let router = refusing().route(
        "/early",
        post(async move |body: Body| {
            tokio::spawn(async move {
                leaving.notified().await;
                drop(body);
                has_left.notify_one();
            });
            "early"
        }),
    );
    let server = Server::start(router, Bounds::default().drained(16 * MIB as u64, LONG)).await;
    let mut client = server.connect().await;
    let upload = upload("/early", "", 4 * MIB);
    client.send(&upload[..MIB / 2]).await;
    assert!(client.reply().await.ends_with("early"));
    leave.notify_one();
    left.notified().await;
    client.send(&upload[MIB / 2..]).await;
    assert!(client.ask(GET).await.ends_with("well"));
}

#[tokio::test]
async fn s3_an_upload_goes_on_after_an_early_reply_for_longer_than_a_head_may_take() {
    let router = refusing().route(
        "/early",
        post(async |body: Body| {
            tokio::spawn(body.collect());
            "early"
        }),
    );
    let bounds = Bounds::default().head_timeout(SHORT);
    let server = Server::start(router, bounds.idle_timeout(SHORT * 5)).await;
    let mut client = server.connect().await;
    let upload = upload("/early", "", 100);
    let (first, rest) = upload.split_at(upload.len() - 8);
    client.send(first).await;
    assert!(client.reply().await.ends_with("early"));
    for byte in rest {
        client.send([*byte]).await;
        tokio::time::sleep(SHORT / 4).await;
    }
    assert!(client.ask(GET).await.ends_with("well"));
    client.assert_ends().await;
}

#[tokio::test]
async fn s3_a_head_that_cannot_be_read_is_answered_before_all_of_it_has_come() {
    let server = Server::start(refusing(), Bounds::default()).await;
    for (head, status) in [
        (
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(8 * MIB)),
            "431",
        ),
        (
            format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(8 * MIB)),
            "414 or 431",
        ),
        (
            format!("GET / HTTP/1.1\r\n : {}\r\n\r\n", "x".repeat(8 * MIB)),
            "400",
        ),
    ] {
        let mut client = server.connect().await;
        client.send(head).await;
        let reply = String::from_utf8(client.rest().await.expect("no reset")).unwrap();
        let got = reply.split(' ').nth(1).unwrap_or_default();
        assert!(got.len() == 3 && status.contains(got), "{status}: {reply}");
        assert!(reply.contains("connection: close"), "{reply}");
    }
}

#[tokio::test]
async fn s7_a_peer_that_does_not_read_is_put_out_and_gives_its_place_back() {
    let tokens = TokenManager::new(source_fn(|_| async { Ok(AccessToken::new("real", LONG)) }));
    let wechat = tower::service_fn(async |_: Request| {
        Ok::<_, std::convert::Infallible>(http::Response::new(Body::from_stream(endless())))
    });
    let gateway = Gateway::builder(wechat)
        .account("wx0", tokens)
        .client("crm", "0123456789abcdef")
        .concurrency_limit(1)
        .build()
        .unwrap();
    let server = Server::start(gateway, Bounds::default().write_timeout(SHORT)).await;
    let token = server
        .connect()
        .await
        .ask("GET /cgi-bin/token?grant_type=client_credential&appid=wx0&secret=0123456789abcdef HTTP/1.1\r\nhost: h\r\n\r\n")
        .await;
    let token = token.split('"').nth(3).expect(&token).to_owned();
    let call = format!("GET /cgi-bin/media/get?access_token={token} HTTP/1.1\r\nhost: h\r\n\r\n");
    let mut holds = server.connect_narrow().await;
    holds.send(&call).await;
    // It has begun.
    assert_eq!(holds.0.read(&mut [0; 4]).await.unwrap(), 4);
    let refused = server.connect().await.ask(&call).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    let has_place = async {
        loop {
            let mut next = server.connect_narrow().await;
            next.send(&call).await;
            let mut status = [0; 12];
            next.0.read_exact(&mut status).await.unwrap();
            if &status == b"HTTP/1.1 200" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(IN_TIME, has_place)
        .await
        .expect("the place is given back");
    let mut rest = Vec::new();
    let end = timeout(IN_TIME, holds.0.read_to_end(&mut rest)).await;
    let end = end
        .expect("it is cut")
        .expect_err("by a reset: it is not all");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn s7_pipelined_requests_whose_replies_are_not_read_are_put_out() {
    let router = Router::new().route("/", get(async || "x".repeat(64 * 1024)));
    let server = Server::start(router, Bounds::default().write_timeout(SHORT)).await;
    let mut client = server.connect_narrow().await;
    // It cannot send more when nobody reads it, and is cut in the end.
    let cut = timeout(IN_TIME, async {
        loop {
            if client
                .0
                .write_all(GET.repeat(100).as_bytes())
                .await
                .is_err()
            {
                return;
            }
        }
    });
    cut.await.expect("it is cut");
    server.assert_serves().await;
}

#[tokio::test]
async fn s7_a_peer_that_takes_a_few_bytes_now_and_then_is_put_out_and_a_slow_one_is_not() {
    let router = refusing().route("/large", get(async || "x".repeat(2 * MIB)));
    let timeout_for_room = Duration::from_secs(2);
    let server = Server::start(router, Bounds::default().write_timeout(timeout_for_room)).await;

    let mut dripping = server.connect_narrow().await;
    dripping
        .send("GET /endless HTTP/1.1\r\nhost: h\r\n\r\n")
        .await;
    let drips = async {
        let mut few = [0; 512];
        while dripping.0.read(&mut few).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // 5 KiB a second, and 8 are asked for.
    timeout(IN_TIME, drips).await.expect("it is cut");

    let mut slow = server.connect_narrow().await;
    slow.send("GET /large HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let (mut came, mut some) = (0, vec![0; 64 * 1024]);
    while came < 2 * MIB {
        let read = timeout(IN_TIME, slow.0.read(&mut some)).await;
        came += match read.expect("in time").expect("it is not cut") {
            0 => panic!("cut after {came}"),
            read => read,
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn s7_half_a_head_and_one_that_comes_byte_by_byte_have_the_same_time() {
    let server = Server::start(refusing(), Bounds::default().head_timeout(SHORT)).await;
    for begun in ["", "G", "GET / HTTP/1.1\r\nx: ", "PRI * HT"] {
        let mut client = server.connect().await;
        client.send(begun).await;
        client.assert_ends().await;
    }
    let mut client = server.connect().await;
    let drips = async {
        client.send("GET / HTTP/1.1\r\nx: ").await;
        while client.0.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(IN_TIME, drips).await.expect("it is cut");
    // The second one as well.
    let mut client = server.connect().await;
    client.ask(GET).await;
    client.send("GET / HTTP/1.1\r\nx: ").await;
    client.assert_ends().await;
}

#[tokio::test]
async fn s7_a_kept_connection_may_be_idle_for_longer_than_a_head_may_take() {
    let bounds = Bounds::default().head_timeout(SHORT);
    let server = Server::start(refusing(), bounds.idle_timeout(SHORT * 5)).await;
    let mut client = server.connect().await;
    client.ask(GET).await;
    tokio::time::sleep(SHORT * 2).await;
    assert!(client.ask(GET).await.ends_with("well"));
    client.assert_ends().await;
}

#[tokio::test]
async fn s7_http_2_is_off() {
    let server = Server::start(refusing(), Bounds::default()).await;
    let mut client = server.connect().await;
    client
        .send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    client.0.shutdown().await.unwrap();
    client.assert_ends().await;
}

#[tokio::test]
async fn s7_a_body_that_does_not_come_ends_for_who_waits_for_it() {
    let bounds = Bounds::default().body_timeout(SHORT);
    let server = Server::start(refusing(), bounds.drained(0, SHORT)).await;
    let mut client = server.connect().await;
    let reply = client
        .ask("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nx")
        .await;
    assert!(reply.ends_with("broken"), "{reply}");
    let mut client = server.connect().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 10000\r\n\r\n")
        .await;
    let (mut reads, mut writes) = client.0.split();
    let drips = async {
        while writes.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let replies = async {
        let mut reply = [0; 15];
        reads.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"HTTP/1.1 200 OK");
    };
    let ended = async {
        tokio::select! { () = drips => panic!("cut without a reply"), () = replies => {} }
    };
    timeout(IN_TIME, ended).await.expect("it is not waited for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_three_hundred_silent_strangers_keep_nobody_out() {
    let bounds = Bounds::default()
        .connections(50)
        .head_timeout(LONG)
        .idle_timeout(LONG);
    let server = Server::start(refusing(), bounds.patience(SHORT / 5)).await;
    let address = server.address;
    let mut kept = server.connect().await;
    kept.ask(GET).await;
    let strangers = tokio::spawn(async move {
        let mut silent = Vec::new();
        for number in 0..350 {
            let mut stranger = TcpStream::connect(address).await.unwrap();
            let begun = match number % 3 {
                0 => "",
                1 => "POST /echo HTTP/1.1\r\nhost: h\r\n",
                _ => "POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nx",
            };
            stranger.write_all(begun.as_bytes()).await.unwrap();
            silent.push(stranger);
        }
        silent
    });
    for _ in 0..20 {
        server.assert_serves().await;
    }
    let silent = strangers.await.unwrap();
    for _ in 0..20 {
        server.assert_serves().await;
    }
    drop(silent);
    server.assert_serves().await;
}

#[tokio::test]
async fn s7_past_the_bound_the_one_that_has_been_idle_longest_makes_way() {
    let bounds = Bounds::default()
        .connections(3)
        .patience(LONG)
        .idle_timeout(LONG);
    let server = Server::start(refusing(), bounds).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.ask(GET).await;
        kept.push(client);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The first was used last.
    kept[0].ask(GET).await;
    let mut fourth = server.connect().await;
    assert!(fourth.ask(GET).await.ends_with("well"));
    kept[1].assert_ends().await;
    assert!(kept[0].ask(GET).await.ends_with("well"));
    assert!(kept[2].ask(GET).await.ends_with("well"));
}

#[tokio::test]
async fn s7_calls_under_way_make_way_for_nobody() {
    let go_on = Arc::new(Notify::new());
    let going_on = Arc::clone(&go_on);
    let router = refusing().route(
        "/slow",
        get(async move || {
            going_on.notified().await;
            "slow"
        }),
    );
    let bounds = Bounds::default().connections(1).patience(Duration::ZERO);
    let server = Server::start(router, bounds).await;
    let mut under_way = server.connect().await;
    under_way
        .send("GET /slow HTTP/1.1\r\nhost: h\r\n\r\n")
        .await;
    let mut next = server.connect().await;
    next.send(GET).await;
    let early = timeout(SHORT, next.0.readable()).await;
    assert!(early.is_err(), "there is no place");
    go_on.notify_one();
    assert!(under_way.reply().await.ends_with("slow"));
    assert!(next.reply().await.ends_with("well"));
}

#[tokio::test]
async fn s7_a_call_that_waits_for_its_body_makes_way_and_others_after_it() {
    let bounds = Bounds::default()
        .connections(2)
        .patience(Duration::from_millis(1));
    let server = Server::start(refusing(), bounds).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut client = server.connect().await;
        client
            .send("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nx")
            .await;
        waiting.push(client);
    }
    for _ in 0..5 {
        server.assert_serves().await;
    }
}

#[tokio::test]
async fn s7_an_address_may_have_a_bound_of_its_own() {
    let bounds = Bounds::default().connections_by_address(2).patience(LONG);
    let server = Server::start(refusing(), bounds).await;
    let (_silent, mut idle) = (server.connect().await, server.connect().await);
    idle.ask(GET).await;
    // In place of its own idle one; then there is none.
    let _third = server.connect().await;
    idle.assert_ends().await;
    server.connect().await.assert_ends().await;
}

#[tokio::test]
async fn s8_idle_connections_are_closed_at_once_and_calls_under_way_end() {
    let (started, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (starts, goes_on) = (Arc::clone(&started), Arc::clone(&go_on));
    let router = refusing().route(
        "/slow",
        get(async move || {
            starts.notify_one();
            goes_on.notified().await;
            "slow"
        }),
    );
    let mut server = Server::start(router, Bounds::default().stop_timeout(LONG)).await;
    let mut idle = server.connect().await;
    idle.ask(GET).await;
    let mut silent = server.connect().await;
    // Both are accepted.
    server.assert_serves().await;
    let mut under_way = server.connect().await;
    under_way
        .send("GET /slow HTTP/1.1\r\nhost: h\r\n\r\n")
        .await;
    started.notified().await;
    server.stop();
    idle.assert_ends().await;
    silent.assert_ends().await;
    assert!(TcpStream::connect(server.address).await.is_err());
    go_on.notify_one();
    let reply = under_way.reply().await;
    assert!(reply.ends_with("slow"), "{reply}");
    assert!(reply.contains("connection: close"), "{reply}");
    under_way.assert_ends().await;
    drop(under_way);
    server.stopped().await;
}

#[tokio::test]
async fn s8_what_takes_too_long_when_it_stops_is_cut() {
    let mut server = Server::start(refusing(), Bounds::default().stop_timeout(SHORT)).await;
    let mut endless = server.connect().await;
    endless
        .send("GET /endless HTTP/1.1\r\nhost: h\r\n\r\n")
        .await;
    assert!(endless.0.read(&mut [0; 4]).await.unwrap() > 0);
    server.stop();
    server.stopped().await;
}

#[tokio::test]
async fn a_server_that_is_dropped_leaves_no_connection() {
    let server = Server::start(refusing(), Bounds::default()).await;
    let mut client = server.connect().await;
    client.ask(GET).await;
    server.serving.abort();
    client.assert_ends().await;
}

#[tokio::test]
async fn a_handler_that_panics_is_a_reply_and_the_connection_goes_on() {
    let server = Server::start(refusing(), Bounds::default().drained(16 * MIB as u64, LONG)).await;
    let mut client = server.connect().await;
    let reply = client.ask("GET /panic HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 500 "), "{reply}");
    let reply = client.ask(upload("/panic", "", MIB)).await;
    assert!(reply.starts_with("HTTP/1.1 500 "), "{reply}");
    assert!(client.ask(GET).await.ends_with("well"));
}

#[tokio::test]
async fn a_reply_that_breaks_off_never_ends_as_a_whole_one() {
    let server = Server::start(refusing(), Bounds::default()).await;
    let mut client = server.connect().await;
    client.send("GET /breaks HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let reply = String::from_utf8(client.rest().await.expect("what came can be read")).unwrap();
    assert!(
        reply.ends_with("A\r\nsome of it\r\n"),
        "no last chunk: {reply}"
    );
    // Only the end of the connection would say so: that must not look like one.
    let mut client = server.connect().await;
    client.send("GET /breaks HTTP/1.0\r\nhost: h\r\n\r\n").await;
    let end = client.rest().await.expect_err("a reset");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    // Nor when the server is gone.
    let mut client = server.connect().await;
    client.send("GET /halts HTTP/1.0\r\nhost: h\r\n\r\n").await;
    assert!(client.0.read(&mut [0; 4]).await.unwrap() > 0);
    server.serving.abort();
    let end = client.rest().await.expect_err("a reset");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn bounds_may_be_for_ever() {
    let ever = Duration::MAX;
    let bounds = Bounds::default()
        .patience(ever)
        .head_timeout(ever)
        .body_timeout(ever);
    let bounds = bounds
        .write_timeout(ever)
        .idle_timeout(ever)
        .connection_age(ever);
    let bounds = bounds
        .drained(u64::MAX, ever)
        .linger_timeout(ever)
        .stop_timeout(ever);
    let mut server = Server::start(refusing(), bounds).await;
    let mut client = server.connect().await;
    assert!(
        client
            .ask(upload("/refuse", "", MIB))
            .await
            .ends_with("42001}")
    );
    client
        .send("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhe")
        .await;
    assert!(client.ask("llo").await.ends_with("hello"));
    server.stop();
    client.assert_ends().await;
    server.stopped().await;
}

#[tokio::test]
async fn requests_know_their_peer() {
    let server = Server::start(refusing(), Bounds::default()).await;
    let mut client = server.connect().await;
    let own = client.0.local_addr().unwrap().to_string();
    let reply = client.ask("GET /peer HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(reply.ends_with(&own), "{reply}");
}

#[tokio::test]
async fn a_connection_can_be_bounded_in_requests_and_in_age() {
    let server = Server::start(refusing(), Bounds::default().requests_by_connection(2)).await;
    let mut client = server.connect().await;
    assert!(!client.ask(GET).await.contains("connection: close"));
    assert!(client.ask(GET).await.contains("connection: close"));
    client.assert_ends().await;
    let bounds = Bounds::default().connection_age(Duration::ZERO);
    let server = Server::start(refusing(), bounds).await;
    assert!(
        server
            .connect()
            .await
            .ask(GET)
            .await
            .contains("connection: close")
    );
}
