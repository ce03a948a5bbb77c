//! Uploads at a revoked token: what is sent again, and what cannot be.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::header;
use bytes::Bytes;
use http_body_util::channel::Channel;
use serde_json::Value;
use tower_wechat::NotReplayed;
use tower_wechat::mock::RecordedRequest;

use super::super::*;
use super::ADAPTERS;
use super::adapter::Setup;
use super::reqwest::multipart::{Form, Part};
use super::reqwest::{Body, Request, Response};

const PIECE: usize = 64 * 1024;
const FIVE_MB: usize = 5_000_000;

/// No two pieces of it are alike, nor is any like itself moved by a few bytes.
fn picture(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251 + at / PIECE) as u8).collect()
}

/// A body whose pieces come one by one, from a task of their own.
fn streamed(pieces: usize, pause: Duration) -> Body {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        for piece in picture(pieces * PIECE).chunks(PIECE) {
            if sender
                .send_data(Bytes::copy_from_slice(piece))
                .await
                .is_err()
            {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    });
    Body::wrap(body)
}

fn form(setup: &Setup, media: Part) -> Request {
    let form = Form::new()
        .text("title", "图片")
        .part("media", media.file_name("a.jpg"));
    let upload = setup
        .client
        .post(setup.url("/cgi-bin/media/upload?type=image"));
    upload.multipart(form).build().unwrap()
}

/// It came with its length, and not in chunks.
#[track_caller]
fn assert_of_told_length(name: &str, request: &RecordedRequest) {
    let headers = request.headers();
    assert!(!headers.contains_key(header::TRANSFER_ENCODING), "{name}");
    let lengths: Vec<_> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
    assert_eq!(lengths, [&request.body_len().to_string()], "{name}");
}

/// It was sent twice, with one token request between, and the same both times.
async fn assert_replayed(name: &str, setup: &Setup, reply: Response) -> RecordedRequest {
    assert!(outcome_in(reply.extensions()).replayed(), "{name}");
    let answer: Value = reply.json().await.unwrap();
    let requests = setup.wechat.requests();
    let [first, token, second] = &requests[..] else {
        panic!("{name}: {requests:?}")
    };
    assert!(token.is_token_request());
    assert_eq!(
        (first.errcode(), second.errcode()),
        (Some(40001), Some(0)),
        "{name}"
    );
    assert_eq!(first.body_len(), second.body_len(), "{name}");
    let sha256 = first.body_sha256().expect("it was read to its end");
    assert_eq!(second.body_sha256(), Some(sha256), "{name}");
    assert_eq!(answer["media_id"], format!("media-{sha256}"), "{name}");
    assert_eq!(first.headers(), second.headers(), "{name}");
    assert_of_told_length(name, first);
    second.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_in_memory_is_replayed_byte_for_byte() {
    for (name, wrap) in ADAPTERS {
        let setup = Setup::revoked().await;
        let request = form(&setup, Part::bytes(picture(FIVE_MB)));
        let reply = setup.wrapped(wrap).send(request).await.unwrap();
        let sent = assert_replayed(name, &setup, reply).await;
        assert!(sent.body_len() > FIVE_MB as u64, "{name}");
        // reqwest knows how long it is, and goes on saying so, at the first sending as well.
        for sent in setup.wechat.requests().iter().step_by(2) {
            let length = sent.headers()["content-length"].to_str().unwrap();
            assert_eq!(length, sent.body_len().to_string(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_in_memory_is_replayed_whatever_the_limit() {
    for (name, wrap) in ADAPTERS {
        let mut setup = Setup::revoked().await;
        setup.layer = setup.layer.replay_limit(1024);
        let request = form(&setup, Part::bytes(picture(FIVE_MB)));
        let reply = setup.wrapped(wrap).send(request).await.unwrap();
        let sent = assert_replayed(name, &setup, reply).await;
        assert!(sent.body_len() > FIVE_MB as u64, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_with_a_streaming_part_is_replayed_byte_for_byte() {
    for (name, wrap) in ADAPTERS {
        let setup = Setup::revoked().await;
        let part = Part::stream(streamed(40, Duration::ZERO));
        let reply = setup.wrapped(wrap).send(form(&setup, part)).await.unwrap();
        let sent = assert_replayed(name, &setup, reply).await;
        assert!(sent.body_len() > 40 * PIECE as u64, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_rejected_before_it_was_read_is_replayed_whole() {
    // trap 10: linkerd2-proxy#3216
    for (name, wrap) in ADAPTERS {
        let setup = Setup::new().await;
        take_any_upload(&setup.wechat);
        let adapter = setup.wrapped(wrap);
        let upload = |pause| {
            let upload = setup
                .client
                .post(setup.url("/cgi-bin/media/upload?type=image"));
            upload.body(streamed(40, pause)).build().unwrap()
        };
        adapter.send(upload(Duration::ZERO)).await.unwrap();
        let well = setup.wechat.requests().pop().unwrap();

        setup.revoke().await;
        setup.wechat.answer_early(true);
        let reply = adapter
            .send(upload(Duration::from_millis(5)))
            .await
            .unwrap();
        assert!(outcome_in(reply.extensions()).replayed(), "{name}");
        let again = setup.wechat.requests().pop().unwrap();
        assert_eq!(again.errcode(), Some(0), "{name}");
        assert_eq!(again.body_len(), 40 * PIECE as u64, "{name}");
        assert_eq!(again.body_sha256(), well.body_sha256(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streaming_part_over_the_limit_is_sent_once_and_the_next_call_profits() {
    for (name, wrap) in ADAPTERS {
        let mut setup = Setup::revoked().await;
        setup.layer = setup.layer.replay_limit(10 * PIECE);
        // WeChat itself would answer 412 to what is over the limit.
        setup.wechat.accept_chunked(true);
        let adapter = setup.wrapped(wrap);

        let part = Part::stream(streamed(40, Duration::ZERO));
        let reply = adapter.send(form(&setup, part)).await.unwrap();
        let outcome = outcome_in(reply.extensions());
        let why = outcome.not_replayed();
        assert!(
            matches!(why, Some(NotReplayed::BodyNotKept)),
            "{name}: {why:?}"
        );
        // WeChat's own reply, whole.
        let answer: Value = reply.json().await.unwrap();
        assert_eq!(answer["errcode"], 40001, "{name}");
        assert!(
            answer["errmsg"].as_str().unwrap().contains("rid: "),
            "{name}"
        );
        let requests = setup.wechat.requests();
        let uploads: Vec<_> = requests.iter().filter(|r| !r.is_token_request()).collect();
        assert_eq!(uploads.len(), 1, "{name}");
        assert!(uploads[0].body_len() > 40 * PIECE as u64, "{name}");
        assert_eq!(setup.wechat.token_requests().started, 1, "{name}");

        let part = Part::stream(streamed(40, Duration::ZERO));
        let reply = adapter.send(form(&setup, part)).await.unwrap();
        assert_eq!(outcome_in(reply.extensions()).errcode(), None, "{name}");
        assert!(reply.text().await.unwrap().contains("media_id"), "{name}");
        assert_eq!(setup.wechat.token_requests().started, 1, "{name}");
    }
}

/// A file with these bytes, whose name is gone when it is dropped.
fn file_of(bytes: &[u8]) -> tokio::fs::File {
    use std::io::{Seek, Write};

    let path = std::env::temp_dir().join(format!("upload-{}-{:p}", std::process::id(), bytes));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    std::fs::remove_file(path).unwrap();
    file.into()
}

// fastwego/offiaccount#15, easywechat#2191: of 60 uploads of 20 KB 29 went out in chunks, and
// WeChat answers 412; of 3 MB all did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn easywechat_2191_an_upload_from_a_file_has_a_length_whatever_its_size() {
    for (name, wrap) in ADAPTERS {
        let setup = Setup::new().await;
        // WeChat takes no file of no bytes.
        take_any_upload(&setup.wechat);
        let adapter = setup.wrapped(wrap);
        for (size, times) in [(0, 10), (20_000, 60), (3_000_000, 4)] {
            let bytes = picture(size);
            setup.wechat.clear();
            for _ in 0..times {
                let part = Part::stream(file_of(&bytes));
                let reply = in_time(adapter.send(form(&setup, part))).await.unwrap();
                assert!(reply.text().await.unwrap().contains("media_id"), "{name}");
            }
            let requests = setup.wechat.requests();
            let uploads: Vec<_> = requests.iter().filter(|r| !r.is_token_request()).collect();
            assert_eq!(uploads.len(), times);
            for upload in uploads {
                assert_of_told_length(name, upload);
                assert!(upload.body_len() >= size as u64, "{name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_a_stream_of_no_bytes_has_a_length_too() {
    for (name, wrap) in ADAPTERS {
        let setup = Setup::new().await;
        let url = setup.url("/cgi-bin/media/upload?type=image");
        let upload = setup
            .client
            .post(url)
            .body(Body::wrap_stream(file_stream(&[])));
        let adapter = setup.wrapped(wrap);
        in_time(adapter.send(upload.build().unwrap()))
            .await
            .unwrap();
        assert_of_told_length(name, &setup.wechat.requests().pop().unwrap());
    }
}

fn file_stream(
    bytes: &[u8],
) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let piece = Bytes::copy_from_slice(bytes);
    futures_util::stream::iter((!piece.is_empty()).then_some(Ok(piece)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_past_the_limit_a_stream_is_sent_in_chunks_each_time() {
    for (name, wrap) in ADAPTERS {
        let mut setup = Setup::new().await;
        setup.layer = setup.layer.replay_limit(PIECE);
        let adapter = setup.wrapped(wrap);
        for _ in 0..10 {
            let part = Part::stream(file_of(&picture(3 * PIECE)));
            in_time(adapter.send(form(&setup, part))).await.unwrap();
            let upload = setup.wechat.requests().pop().unwrap();
            assert_eq!(
                upload.headers()[header::TRANSFER_ENCODING],
                "chunked",
                "{name}"
            );
            assert!(
                !upload.headers().contains_key(header::CONTENT_LENGTH),
                "{name}"
            );
            assert!(upload.body_len() > 3 * PIECE as u64, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_a_stream_that_fails_while_it_is_collected_fails_the_call_and_nothing_is_sent() {
    for (name, wrap) in ADAPTERS {
        let setup = Setup::new().await;
        let broken = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the disk is away");
        let pieces = [Ok(Bytes::from("a picture")), Err(broken())];
        let stream = futures_util::stream::iter(pieces);
        let url = setup.url("/cgi-bin/media/upload?type=image");
        let upload = setup.client.post(url).body(Body::wrap_stream(stream));
        let failed = setup.wrapped(wrap).send(upload.build().unwrap()).await;
        let error = failed.expect_err("it fails").clients();
        assert!(error.is_body(), "{name}: {error:?}");
        assert!(
            told(&error).contains("the disk is away"),
            "{name}: {error:?}"
        );
        assert!(setup.wechat.requests().is_empty(), "{name}");
    }
}
