//! S7: what many uploads that stop before their end hold in a gateway, and that it comes back.
#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get as on_get;
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use support::programs::{APPID, CLIENT_SECRET, Serving, server};
use support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tower_wechat::mock::MockWechat;

const MIB: usize = 1 << 20;
/// As much as is kept of one call, nearly.
const UPLOAD: usize = 16 * MIB - 100 * 1024;
const PIECE: usize = 64 * 1024;

/// A WeChat that reads what is sent, and does nothing with it.
async fn reads_all() -> String {
    let token = json!({"access_token": "a-token-of-this-wechat", "expires_in": 7200}).to_string();
    let app = Router::new()
        .route("/cgi-bin/token", on_get(|| async { token }))
        .fallback(|body: Body| async {
            let mut frames = body.into_data_stream();
            while let Some(Ok(_)) = frames.next().await {}
            OK
        });
    serve(app).await
}

/// An upload of which all but the last bytes are sent, or as many as are read.
async fn upload(gateway: &str, token: &str, chunked: bool) -> TcpStream {
    let address = gateway.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let framing = match chunked {
        true => format!("transfer-encoding: chunked\r\n\r\n{UPLOAD:x}"),
        false => format!("content-length: {UPLOAD}\r\n"),
    };
    let head = format!(
        "POST /cgi-bin/media/upload?access_token={token} HTTP/1.1\r\nhost: h\r\n{framing}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![7; PIECE];
    for _ in 0..UPLOAD / PIECE - 1 {
        // One that waits for room is not read, and one that did not get any is refused.
        let written = timeout(Duration::from_secs(5), stream.write_all(&piece)).await;
        if !matches!(written, Ok(Ok(()))) {
            break;
        }
    }
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_uploads_that_stop_hold_no_more_than_the_budget_and_give_it_back() {
    more_open_files();
    let wechat = MockWechat::start().await;
    let mut command = server("gateway", &wechat);
    command
        .env("WECHAT_BASE_URL", reads_all().await)
        .env("WECHAT_LOG", "warn");
    let gateway = Serving::start(command).await;
    let url = &gateway.url;
    let uri = format!(
        "{url}/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret={CLIENT_SECRET}"
    );
    let given = text(hyper().request(get(uri)).await.unwrap()).await;
    let given: Value = serde_json::from_str(&given).unwrap();
    let token = given["access_token"].as_str().unwrap();
    let mib = |bytes| bytes / MIB as u64;
    let before = mib(gateway.memory().now);

    let attack = (0..320).map(|number| upload(url, token, number % 2 == 0));
    let held = join_all(attack).await;
    let memory = gateway.memory();
    let (during, peak) = (mib(memory.now), mib(memory.peak));
    drop(held);

    let mut after = during;
    for _ in 0..200 {
        after = mib(gateway.memory().now);
        if after < before + 100 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    println!("{before} MiB before, {during} during, {peak} at most, {after} after");
    assert!(peak < 256 + 100, "{peak} MiB");
    assert!(after < before + 100, "{before} MiB before, {after} after");
}
