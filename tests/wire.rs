//! Bodies over real sockets: streaming uploads that are replayed.

mod support;

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, channel::Channel};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use support::*;
use tower::{Layer, ServiceExt};
use tower_wechat::mock::MockWechat;
use tower_wechat::{AuthOutcome, NotReplayed, WechatAuth};

type Streamed = UnsyncBoxBody<Bytes, Infallible>;
type Uploads = WechatAuth<Client<HttpConnector, Streamed>>;

const PIECE: usize = 64 * 1024;

/// A mock with a revoked token, and a client that still holds it.
async fn revoked(limit: usize) -> (MockWechat, Uploads) {
    let wechat = MockWechat::builder().grace(Duration::ZERO).start().await;
    let layer = layer_of(&wechat).replay_limit(limit);
    let uri = format!("{}/cgi-bin/user/get", wechat.url());
    layer.layer(hyper()).oneshot(get(uri)).await.unwrap();
    wechat.revoke();
    wechat.clear();
    take_any_upload(&wechat);
    let http = Client::builder(TokioExecutor::new()).build_http();
    (wechat, layer.layer(http))
}

/// A body whose pieces come one by one, from a task of their own.
fn streamed(pieces: usize, pause: Duration) -> Streamed {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        for number in 0..pieces {
            let piece = Bytes::from(vec![number as u8; PIECE]);
            if sender.send_data(piece).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    });
    body.boxed_unsync()
}

/// A body that flows as it comes, for its length is told: of so many pieces.
fn upload(wechat: &MockWechat, pieces: usize, body: Streamed) -> Request<Streamed> {
    let uri = format!("{}/cgi-bin/media/upload?type=image", wechat.url());
    let request = Request::post(uri).header("content-length", pieces * PIECE);
    request.body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streaming_upload_is_replayed_byte_for_byte() {
    // trap 10: octocrab#835; linkerd2#15649
    let (wechat, service) = revoked(16 * 1024 * 1024).await;
    let body = streamed(80, Duration::ZERO);
    let reply = service.oneshot(upload(&wechat, 80, body)).await.unwrap();
    assert!(reply.extensions().get::<AuthOutcome>().unwrap().replayed());
    assert!(text(reply).await.contains("media_id"));
    let requests = wechat.requests();
    let [first, _token, second] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert_eq!(first.body_len(), (80 * PIECE) as u64);
    assert_eq!(second.body_len(), first.body_len());
    assert_eq!(second.body_sha256().unwrap(), first.body_sha256().unwrap());
    assert_eq!(first.headers(), second.headers());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_before_the_body_was_read_is_replayed_whole() {
    // trap 10 again: linkerd2-proxy#3216
    let (wechat, service) = revoked(16 * 1024 * 1024).await;
    wechat.answer_early(true);
    let body = streamed(40, Duration::from_millis(5));
    let reply = service.oneshot(upload(&wechat, 40, body)).await.unwrap();
    assert!(reply.extensions().get::<AuthOutcome>().unwrap().replayed());
    assert!(text(reply).await.contains("media_id"));
    let last = wechat.requests().pop().unwrap();
    assert_eq!(last.body_len(), (40 * PIECE) as u64);
    assert!(last.body_sha256().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_over_the_limit_is_sent_once_and_says_so() {
    let (wechat, service) = revoked(10 * PIECE).await;
    // WeChat itself would answer 412 to what is over the limit.
    wechat.accept_chunked(true);
    let body = streamed(40, Duration::ZERO);
    let reply = service
        .clone()
        .oneshot(upload(&wechat, 40, body))
        .await
        .unwrap();
    let outcome = reply.extensions().get::<AuthOutcome>().unwrap().clone();
    assert!(matches!(
        outcome.not_replayed(),
        Some(NotReplayed::BodyNotKept)
    ));
    assert!(text(reply).await.contains("40001"));
    assert_eq!(wechat.requests()[0].body_len(), (40 * PIECE) as u64);
    // The next one profits from the refresh.
    let body = streamed(40, Duration::ZERO);
    let reply = service.oneshot(upload(&wechat, 40, body)).await.unwrap();
    assert!(text(reply).await.contains("media_id"));
    assert_eq!(wechat.token_requests().started, 1);
}
