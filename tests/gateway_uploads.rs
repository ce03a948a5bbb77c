//! Uploads through a gateway, over real sockets: how they come to WeChat, and what is kept of them.

mod support;

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_wechat::TokenManager;
use tower_wechat::mock::{MockWechat, RecordedRequest};
use tower_wechat::server::{Gateway, ServerBuilder};

const SECRET: &str = "the-secret-of-crm-which-is-long";

struct Setup {
    wechat: MockWechat,
    origin: String,
    token: String,
}

impl Setup {
    async fn new(build: impl FnOnce(ServerBuilder<Gateway>) -> ServerBuilder<Gateway>) -> Setup {
        let wechat = MockWechat::builder().grace(Duration::ZERO).start().await;
        take_any_upload(&wechat);
        let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
        let gateway = Gateway::builder(http)
            .upstream(wechat.url())
            .account(wechat.appid(), TokenManager::new(credential_of(&wechat)))
            .client("crm", SECRET)
            .signing_key("a key of the gateway's, of 32 bytes or more");
        let gateway: Router = build(gateway).build().unwrap();
        let origin = serve(gateway).await;
        let token = token_for(&origin, &wechat, SECRET).await;
        Setup {
            wechat,
            origin,
            token,
        }
    }

    fn target(&self) -> String {
        format!(
            "/cgi-bin/media/upload?type=image&access_token={}",
            self.token
        )
    }

    async fn upload(&self, body: Body) -> (StatusCode, Value) {
        let client: Client<HttpConnector, Body> =
            Client::builder(TokioExecutor::new()).build_http();
        let request = Request::post(format!("{}{}", self.origin, self.target()));
        let reply = client.request(request.body(body).unwrap()).await.unwrap();
        let status = reply.status();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// The uploads that came to WeChat.
    fn uploads(&self) -> Vec<RecordedRequest> {
        let requests = self.wechat.requests();
        let uploads = requests.into_iter().filter(|r| !r.is_token_request());
        uploads.collect()
    }
}

async fn token_for(origin: &str, wechat: &MockWechat, secret: &str) -> String {
    let appid = wechat.appid();
    let uri = format!(
        "{origin}/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={secret}"
    );
    let given = text(hyper().request(get(uri)).await.unwrap()).await;
    let given: Value = serde_json::from_str(&given).unwrap();
    given["access_token"]
        .as_str()
        .unwrap_or_else(|| panic!("{given}"))
        .to_owned()
}

/// A body of unknown length, whose pieces come one by one.
fn in_chunks(bytes: usize) -> Body {
    let pieces = (0..bytes)
        .step_by(5_000)
        .map(move |at| (bytes - at).min(5_000));
    let pieces: Vec<_> = pieces.collect();
    Body::from_stream(stream::unfold(pieces.into_iter(), |mut pieces| async {
        tokio::task::yield_now().await;
        let piece = Bytes::from(vec![7; pieces.next()?]);
        Some((Ok::<_, Infallible>(piece), pieces))
    }))
}

#[track_caller]
fn assert_of_told_length(upload: &RecordedRequest, bytes: usize) {
    let headers = upload.headers();
    assert!(!headers.contains_key(header::TRANSFER_ENCODING));
    let lengths: Vec<_> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
    assert_eq!(lengths, [&bytes.to_string()]);
    assert_eq!(upload.body_len(), bytes as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn easywechat_2191_a_clients_chunks_come_to_wechat_with_a_length() {
    let setup = Setup::new(|gateway| gateway).await;
    // So that there is a token to revoke.
    setup.upload(in_chunks(1)).await;
    for bytes in [0, 1, 20_000, 3_000_000] {
        setup.wechat.revoke();
        setup.wechat.clear();
        for (status, answer) in join_all((0..10).map(|_| setup.upload(in_chunks(bytes)))).await {
            assert_eq!(status, StatusCode::OK, "{answer}");
            assert!(answer["media_id"].is_string(), "{answer}");
        }
        let uploads = setup.uploads();
        assert!(
            uploads.len() > 10,
            "some were sent again: {} of {bytes}",
            uploads.len()
        );
        for upload in &uploads {
            assert_of_told_length(upload, bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_chunks_past_the_limit_are_too_large_and_with_a_length_they_pass() {
    let setup = Setup::new(|gateway| gateway.replay_limit(100_000)).await;
    let (status, answer) = setup.upload(in_chunks(100_001)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer["errcode"], 45001);
    assert!(setup.uploads().is_empty());

    let (status, _) = setup.upload(in_chunks(100_000)).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = setup.upload(Body::from(vec![7; 100_001])).await;
    assert_eq!(status, StatusCode::OK);
    let [chunks, told] = &setup.uploads()[..] else {
        panic!("two uploads")
    };
    assert_of_told_length(chunks, 100_000);
    assert_of_told_length(told, 100_001);
}

// What one server takes for the length and the next one does not, smuggles a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_a_length_beside_chunks_counts_for_nothing() {
    let setup = Setup::new(|gateway| gateway).await;
    let lines = [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
    ];
    for lines in lines {
        setup.wechat.clear();
        let mut stream = TcpStream::connect(setup.origin.trim_start_matches("http://"))
            .await
            .unwrap();
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{lines}\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            setup.target()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        for upload in setup.uploads() {
            assert_of_told_length(&upload, 5);
        }
        let refused = reply.starts_with("HTTP/1.1 400");
        assert_eq!(setup.uploads().len(), usize::from(!refused), "{reply}");
    }
}
