//! R11, on the wire: how the length of a body is told depends on the request alone.

mod support;

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use http::{Request, header};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody, channel::Channel};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, ServiceExt};
use tower_wechat::{
    AuthOutcome, ErrorKind, NotReplayed, ReplayBudget, SkipAuth, WechatAuth, WechatAuthLayer,
};

type Boxed = UnsyncBoxBody<Bytes, io::Error>;
type Wechat = WechatAuth<Client<HttpConnector, Boxed>>;

/// A request as it came.
#[derive(Clone, Debug, PartialEq)]
struct Received {
    /// Sorted lines, in lower case.
    headers: Vec<String>,
    target: String,
    body: Vec<u8>,
}

impl Received {
    fn header(&self, name: &str) -> Vec<&str> {
        let start = format!("{name}: ");
        let lines = self.headers.iter();
        lines.filter_map(|line| line.strip_prefix(&start)).collect()
    }

    /// How long the body is said to be, or that it comes in chunks.
    fn framing(&self) -> (Vec<&str>, Vec<&str>) {
        (
            self.header("content-length"),
            self.header("transfer-encoding"),
        )
    }
}

/// A server that understands no more of HTTP than it must. It does not take `token-1`, and a token
/// that is missing it takes.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<Received>>>);

impl Wire {
    async fn start() -> (Wire, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let wire = Wire::default();
        let serving = wire.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        (wire, origin)
    }

    fn received(&self) -> Vec<Received> {
        self.0.lock().unwrap().clone()
    }

    fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut buffer = BytesMut::new();
        while let Some(received) = request(&mut stream, &mut buffer).await {
            let dead = received.target.contains("access_token=token-1");
            self.0.lock().unwrap().push(received);
            let body = if dead { REJECTED } else { OK };
            let reply = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// `None` if the connection ended before the request did.
async fn request(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<Received> {
    let head = until(stream, buffer, b"\r\n\r\n").await?;
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let target = lines.next().unwrap().to_owned();
    let mut headers: Vec<_> = lines.map(str::to_ascii_lowercase).collect();
    headers.sort();
    let mut received = Received {
        headers,
        target,
        body: Vec::new(),
    };
    if received.header("transfer-encoding") == ["chunked"] {
        loop {
            let line = String::from_utf8(until(stream, buffer, b"\r\n").await?).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let chunk = exactly(stream, buffer, size + 2).await?;
            received.body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Some(received);
            }
        }
    }
    if let [length] = received.header("content-length")[..] {
        let length = length.parse().unwrap();
        received.body = exactly(stream, buffer, length).await?;
    }
    Some(received)
}

async fn until(stream: &mut TcpStream, buffer: &mut BytesMut, end: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|bytes| bytes == end) {
            return Some(buffer.copy_to_bytes(at + end.len()).into());
        }
        more(stream, buffer).await?;
    }
}

async fn exactly(stream: &mut TcpStream, buffer: &mut BytesMut, size: usize) -> Option<Vec<u8>> {
    while buffer.len() < size {
        more(stream, buffer).await?;
    }
    Some(buffer.copy_to_bytes(size).into())
}

async fn more(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<()> {
    let read = stream.read_buf(buffer).await.ok()?;
    (read > 0).then_some(())
}

/// How the frames of a body come.
#[derive(Clone, Copy, Debug)]
enum Pace {
    AllThere,
    OneByOne,
    Slowly,
}

const PACES: [Pace; 3] = [Pace::AllThere, Pace::OneByOne, Pace::Slowly];

fn pieces(bytes: usize, pace: Pace) -> impl futures_util::Stream<Item = io::Result<Frame<Bytes>>> {
    let pieces: Vec<_> = picture(bytes)
        .chunks(7_000)
        .map(Bytes::copy_from_slice)
        .collect();
    stream::iter(pieces).then(move |piece| async move {
        match pace {
            Pace::AllThere => {}
            Pace::OneByOne => tokio::task::yield_now().await,
            Pace::Slowly => tokio::time::sleep(Duration::from_millis(1)).await,
        }
        Ok(Frame::data(piece))
    })
}

fn picture(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

fn body(bytes: usize, pace: Pace) -> Boxed {
    StreamBody::new(pieces(bytes, pace)).boxed_unsync()
}

fn client() -> Client<HttpConnector, Boxed> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn wechat(origin: &str, layer: impl FnOnce(WechatAuthLayer) -> WechatAuthLayer) -> Wechat {
    let auth = WechatAuthLayer::new(numbered_tokens().0).api_origin(origin);
    layer(auth).layer(client())
}

fn upload(origin: &str, body: Boxed) -> Request<Boxed> {
    let uri = format!("{origin}/cgi-bin/media/upload");
    Request::post(uri).body(body).unwrap()
}

fn no_chunks() -> Vec<&'static str> {
    Vec::new()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn easywechat_2191_a_stream_has_its_length_however_its_frames_come() {
    let (wire, origin) = Wire::start().await;
    for bytes in [0, 1, 7_000, 20_000, 300_000] {
        // The first of each sort sends the body twice.
        let services: Vec<_> = PACES.map(|_| wechat(&origin, |layer| layer)).into();
        for _ in 0..20 {
            let calls = PACES.iter().zip(&services).map(|(pace, service)| {
                service.clone().oneshot(upload(&origin, body(bytes, *pace)))
            });
            for reply in join_all(calls).await {
                assert_eq!(text(reply.unwrap()).await, OK);
            }
        }
        let received = wire.take();
        assert_eq!(received.len(), 63);
        for request in &received {
            assert_eq!(request.framing(), (vec![&*bytes.to_string()], no_chunks()));
            assert!(request.body == picture(bytes));
            assert_eq!(request.headers, received[0].headers);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_past_the_limit_a_stream_comes_in_chunks_however_its_frames_come() {
    let (wire, origin) = Wire::start().await;
    for pace in PACES {
        let service = wechat(&origin, |layer| layer.replay_limit(50_000));
        let reply = service.clone().oneshot(upload(&origin, body(50_001, pace)));
        let reply = reply.await.unwrap();
        let outcome = reply.extensions().get::<AuthOutcome>().unwrap();
        assert!(matches!(
            outcome.not_replayed(),
            Some(NotReplayed::BodyNotKept)
        ));
        let of_just_the_limit = upload(&origin, body(50_000, pace));
        service.oneshot(of_just_the_limit).await.unwrap();
        let [past, just] = &wire.take()[..] else {
            panic!("two requests")
        };
        assert_eq!(past.framing(), (vec![], vec!["chunked"]));
        assert!(past.body == picture(50_001));
        assert_eq!(just.framing(), (vec!["50000"], no_chunks()));
    }
}

#[tokio::test]
async fn r11_a_body_whose_length_is_told_flows_as_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let (mut sender, streamed) = Channel::<Bytes, io::Error>::new(1);
    let mut request = upload(&origin, streamed.boxed_unsync());
    request
        .headers_mut()
        .insert(header::CONTENT_LENGTH, 10.into());
    let call = tokio::spawn(wechat(&origin, |layer| layer).oneshot(request));
    sender.send_data(Bytes::from("first")).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = BytesMut::new();
    let head = until(&mut stream, &mut buffer, b"\r\n\r\n").await.unwrap();
    assert!(
        String::from_utf8(head)
            .unwrap()
            .contains("content-length: 10\r\n")
    );
    assert_eq!(
        exactly(&mut stream, &mut buffer, 5).await.unwrap(),
        b"first"
    );
    sender.send_data(Bytes::from("again")).await.unwrap();
    assert_eq!(
        exactly(&mut stream, &mut buffer, 5).await.unwrap(),
        b"again"
    );
    call.abort();
}

#[tokio::test]
async fn r11_a_callers_framing_is_dropped_and_a_length_that_is_none_is_made_out() {
    let (wire, origin) = Wire::start().await;
    let service = wechat(&origin, |layer| layer);
    for headers in [
        &[("transfer-encoding", "chunked")][..],
        &[("transfer-encoding", "gzip")],
        &[("transfer-encoding", "chunked"), ("content-length", "3")],
        &[("content-length", "5"), ("content-length", "3")],
        &[("content-length", "+5")],
        &[("content-length", "many")],
        &[("trailer", "etag")],
    ] {
        let in_memory = || {
            Full::new(Bytes::from("hello"))
                .map_err(|error| match error {})
                .boxed_unsync()
        };
        let stream = || {
            StreamBody::new(stream::iter([Ok(Frame::data(Bytes::from("hello")))])).boxed_unsync()
        };
        for body in [in_memory(), stream()] {
            let mut request = upload(&origin, body);
            for (name, value) in headers {
                request.headers_mut().append(*name, value.parse().unwrap());
            }
            let reply = service.clone().oneshot(request).await.unwrap();
            assert_eq!(text(reply).await, OK, "{headers:?}");
        }
        // The very first was sent twice.
        for request in wire.take() {
            assert_eq!(request.framing(), (vec!["5"], no_chunks()), "{headers:?}");
            assert_eq!(request.body, b"hello", "{headers:?}");
        }
    }
}

// What is sent next on the connection must not be taken for the body that was promised.
#[tokio::test]
async fn r11_a_length_that_the_body_does_not_keep_to_spoils_no_other_call() {
    let (wire, origin) = Wire::start().await;
    let service = wechat(&origin, |layer| layer);
    service
        .clone()
        .oneshot(upload(&origin, body(1, Pace::AllThere)))
        .await
        .unwrap();
    wire.take();
    let empty = || Empty::new().map_err(|error| match error {}).boxed_unsync();
    for (body, completes) in [
        (empty(), true),
        (body(0, Pace::AllThere), false),
        (body(0, Pace::OneByOne), false),
        (body(3, Pace::AllThere), false),
    ] {
        let mut request = upload(&origin, body);
        request
            .headers_mut()
            .insert(header::CONTENT_LENGTH, 5.into());
        let sent = service.clone().oneshot(request);
        let sent = tokio::time::timeout(Duration::from_secs(30), sent).await;
        assert_eq!(sent.expect("it does not hang").is_ok(), completes);
        let next = upload(&origin, self::body(9, Pace::AllThere));
        assert_eq!(text(service.clone().oneshot(next).await.unwrap()).await, OK);
        let received = wire.take();
        assert_eq!(received.len(), 1 + usize::from(completes));
        assert!(received.last().unwrap().body == picture(9));
    }
}

#[tokio::test]
async fn r11_without_a_body_no_length_is_told() {
    let (wire, origin) = Wire::start().await;
    let service = wechat(&origin, |layer| layer);
    for method in ["GET", "HEAD"] {
        let in_memory = Empty::new().map_err(|error| match error {}).boxed_unsync();
        for body in [in_memory, body(0, Pace::AllThere), body(0, Pace::OneByOne)] {
            let mut request = upload(&origin, body);
            *request.method_mut() = method.parse().unwrap();
            service.clone().oneshot(request).await.unwrap();
        }
    }
    for request in wire.received() {
        assert_eq!(request.framing(), (vec![], vec![]), "{}", request.target);
    }
}

/// A body that says that nothing comes, and may not know yet that it has ended.
struct Nothing(Pace, Boxed);

impl http_body::Body for Nothing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Pace::OneByOne = self.0 {
            self.0 = Pace::AllThere;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.1).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

#[tokio::test]
async fn r11_a_body_of_no_bytes_looks_the_same_whether_it_has_ended_or_not() {
    let (wire, origin) = Wire::start().await;
    let service = wechat(&origin, |layer| layer);
    for (method, length) in [("POST", vec!["0"]), ("GET", vec![])] {
        for pace in [Pace::AllThere, Pace::OneByOne] {
            let nothing = Nothing(pace, body(0, Pace::AllThere)).boxed_unsync();
            let mut request = upload(&origin, nothing);
            *request.method_mut() = method.parse().unwrap();
            service.clone().oneshot(request).await.unwrap();
        }
        for request in wire.take() {
            assert_eq!(request.framing(), (length.clone(), no_chunks()), "{method}");
        }
    }
}

// hyper#1925: the body of a GET, if it comes in chunks, is lost in silence.
#[tokio::test]
async fn hyper_1925_a_body_of_a_get_is_not_lost() {
    let (wire, origin) = Wire::start().await;
    let mut request = upload(&origin, body(9, Pace::OneByOne));
    *request.method_mut() = http::Method::GET;
    wechat(&origin, |layer| layer)
        .oneshot(request)
        .await
        .unwrap();
    let received = wire.received();
    assert_eq!(received.len(), 2);
    for request in received {
        assert!(request.body == picture(9));
    }
}

#[tokio::test]
async fn r11_a_request_that_passes_through_is_untouched() {
    let (wire, origin) = Wire::start().await;
    let mut request = upload(&origin, body(9, Pace::AllThere));
    request.extensions_mut().insert(SkipAuth);
    wechat(&origin, |layer| layer)
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(wire.received()[0].framing(), (vec![], vec!["chunked"]));
}

#[tokio::test]
async fn r11_a_body_that_fails_before_its_end_fails_the_call_and_nothing_is_sent() {
    let (wire, origin) = Wire::start().await;
    let broken = io::Error::new(io::ErrorKind::UnexpectedEof, "the disk is away");
    let frames = pieces(20_000, Pace::OneByOne).chain(stream::iter([Err(broken)]));
    let request = upload(&origin, StreamBody::new(frames).boxed_unsync());
    let error = wechat(&origin, |layer| layer)
        .oneshot(request)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Service);
    assert_eq!(error.to_string(), "the call failed: unexpected end of file");
    let error = error.into_source().downcast::<io::Error>().unwrap();
    assert_eq!(error.to_string(), "the disk is away");
    assert!(wire.received().is_empty());
}

#[tokio::test(start_paused = true)]
async fn r11_a_body_that_stalls_is_given_up_by_the_callers_timeout() {
    let frames = pieces(20_000, Pace::AllThere).chain(stream::once(pending()));
    let request = upload("http://127.0.0.1:1", StreamBody::new(frames).boxed_unsync());
    let call = wechat("http://127.0.0.1:1", |layer| layer).oneshot(request);
    let call = tokio::time::timeout(Duration::from_secs(5), call).await;
    assert!(call.is_err());
}

// Trap 2: readiness held while something is waited for.
#[tokio::test]
async fn r10_a_body_that_is_collected_holds_nobody_else_up() {
    let (_wire, origin) = Wire::start().await;
    let limited = ConcurrencyLimit::new(client(), 1);
    let layer = WechatAuthLayer::new(numbered_tokens().0).api_origin(&origin);
    let service = layer.layer(limited);
    let (mut sender, streamed) = Channel::<Bytes, io::Error>::new(1);
    let upload_call = upload(&origin, streamed.boxed_unsync());
    let upload_call = tokio::spawn(service.clone().oneshot(upload_call));
    sender.send_data(Bytes::from("first")).await.unwrap();
    for _ in 0..3 {
        let other = upload(&origin, body(9, Pace::AllThere));
        let reply = service.clone().oneshot(other);
        let reply = tokio::time::timeout(Duration::from_secs(30), reply).await;
        assert_eq!(text(reply.expect("it has its place").unwrap()).await, OK);
    }
    drop(sender);
    assert_eq!(text(upload_call.await.unwrap().unwrap()).await, OK);
}

#[tokio::test]
async fn a_call_counts_for_the_budget_in_its_extensions_and_gives_all_back() {
    let (_wire, origin) = Wire::start().await;
    let (of_the_layer, own) = (ReplayBudget::new(1 << 20), ReplayBudget::new(1 << 20));
    let service = wechat(&origin, |layer| layer.replay_budget(of_the_layer.clone()));
    let (mut sender, streamed) = Channel::<Bytes, io::Error>::new(1);
    let mut request = upload(&origin, streamed.boxed_unsync());
    request.extensions_mut().insert(own.clone());
    let call = tokio::spawn(service.oneshot(request));
    sender.send_data(Bytes::from("first")).await.unwrap();
    sender.send_data(Bytes::from("second")).await.unwrap();
    assert_eq!((of_the_layer.kept(), own.kept()), (0, 64 * 1024));
    drop(sender);
    assert_eq!(text(call.await.unwrap().unwrap()).await, OK);
    assert_eq!(own.kept(), 0);
}

#[tokio::test(start_paused = true)]
async fn past_the_budget_a_body_that_must_be_collected_fails_after_ten_seconds() {
    let budget = ReplayBudget::new(400_000);
    let service = wechat("http://127.0.0.1:1", |layer| {
        layer.replay_budget(budget.clone())
    });
    let held = Channel::<Bytes, io::Error>::new(1);
    let (mut sender, streamed) = held;
    let holding = tokio::spawn(
        service
            .clone()
            .oneshot(upload("http://127.0.0.1:1", streamed.boxed_unsync())),
    );
    sender
        .send_data(Bytes::from(vec![0; 100_000]))
        .await
        .unwrap();
    sender.send_data(Bytes::new()).await.unwrap();
    assert_eq!(budget.kept(), 300_000);

    let asked = tokio::time::Instant::now();
    let call = service.oneshot(upload("http://127.0.0.1:1", body(100_000, Pace::AllThere)));
    let error = call.await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NoRoom);
    assert!(!error.is_token());
    assert_eq!(asked.elapsed(), Duration::from_secs(10));
    holding.abort();
    let _ = holding.await;
    assert_eq!(budget.kept(), 0);
}
