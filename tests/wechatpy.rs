//! wechatpy, a Python SDK of others, unmodified: alone, at the gateway, and at the token server.
//!
//! `tests/run` installs it and names its Python in `WECHATPY_PYTHON`. Without that variable these
//! tests are left out.

mod support;

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use axum::body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use support::programs::{APPID, CLIENT_SECRET, SECRET, Serving, server};
use support::*;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tower_wechat::mock::{Failure, MockWechat};
use tower_wechat::server::Gateway;
use tower_wechat::{ClientCredential, TokenManager};

const CALLS: usize = 200;

/// After so many calls the token is revoked.
const REVOCATIONS: [usize; 3] = [40, 90, 140];

/// What came of all calls.
#[derive(Debug, Deserialize)]
struct Told {
    results: HashMap<String, usize>,
    token_requests: usize,
    sent: Vec<String>,
}

impl Told {
    fn well(&self) -> usize {
        self.results.get("well").copied().unwrap_or_default()
    }
}

/// Where wechatpy gets its tokens, and where it makes its calls.
struct At<'a> {
    tokens: &'a str,
    api: &'a str,
    secret: &'a str,
}

fn python() -> Option<String> {
    let python = std::env::var("WECHATPY_PYTHON")
        .ok()
        .filter(|path| !path.is_empty());
    if python.is_none() {
        println!("LEFT OUT: there is no WECHATPY_PYTHON; tests/run installs wechatpy and sets it");
    }
    python
}

async fn wechat() -> MockWechat {
    MockWechat::builder()
        .account(APPID, SECRET)
        .grace(Duration::ZERO)
        .token_delay(Duration::from_millis(100))
        .start()
        .await
}

/// Lets 20 threads of wechatpy make their calls, while the token is revoked after so many of them.
async fn wechatpy(python: String, at: At<'_>, wechat: &MockWechat, revocations: &[usize]) -> Told {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wechatpy/client.py");
    let mut child = Command::new(python)
        .args([
            script,
            at.tokens,
            at.api,
            APPID,
            at.secret,
            "20",
            &CALLS.to_string(),
        ])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("WECHATPY_PYTHON is a Python");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut calls = 0;
    let told = loop {
        let line = lines
            .next_line()
            .await
            .unwrap()
            .expect("it tells what came of it");
        if line != "." {
            break line;
        }
        calls += 1;
        if revocations.contains(&calls) {
            wechat.revoke();
        }
    };
    assert!(child.wait().await.unwrap().success());
    let told: Told = serde_json::from_str(&told).expect("JSON");
    let to_wechat = wechat.token_requests().started;
    println!(
        "{} of {CALLS} well, {to_wechat} token requests to WeChat: {:?}",
        told.well(),
        told.results
    );
    told
}

/// What WeChat has accepted is what the SDK was told it has sent, each once.
fn assert_sent_once(told: &Told, wechat: &MockWechat) {
    let texts = wechat.messages().into_iter();
    let mut accepted: Vec<_> = texts
        .map(|message| message["text"]["content"].as_str().unwrap().to_owned())
        .collect();
    let mut sent = told.sent.clone();
    accepted.sort();
    sent.sort();
    assert_eq!(accepted, sent);
    assert_eq!(sent.len(), CALLS / 2);
}

/// wechatpy sends a file that it has sent before as an empty one, and gets 44001 for it.
fn uploads_that_came_empty(wechat: &MockWechat) -> usize {
    let requests = wechat.requests();
    let uploads = requests.iter().filter(|request| {
        request.path() == "/cgi-bin/media/upload" && request.errcode() == Some(44001)
    });
    uploads.count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_gateway_no_call_fails_and_each_revocation_costs_one_token_request() {
    let Some(python) = python() else { return };
    let _calm = calm().await;
    let wechat = wechat().await;
    let gateway = Serving::start(server("gateway", &wechat)).await;
    let at = At {
        tokens: &gateway.url,
        api: &gateway.url,
        secret: CLIENT_SECRET,
    };
    let told = wechatpy(python, at, &wechat, &REVOCATIONS).await;
    assert_eq!(told.well(), CALLS, "{told:?}");
    assert_sent_once(&told, &wechat);
    assert_eq!(uploads_that_came_empty(&wechat), 0);
    assert_eq!(wechat.token_requests().started, 1 + REVOCATIONS.len());
}

/// Beside it, for the figures: threads that refresh against each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_it_makes_many_token_requests_for_each_revocation() {
    let Some(python) = python() else { return };
    let _calm = calm().await;
    let wechat = wechat().await;
    let url = wechat.url();
    let at = At {
        tokens: &url,
        api: &url,
        secret: SECRET,
    };
    let told = wechatpy(python, at, &wechat, &REVOCATIONS).await;
    assert!(wechat.token_requests().started > 1 + REVOCATIONS.len());
    assert_eq!(told.token_requests, wechat.token_requests().started);
    println!(
        "uploads that came empty: {}",
        uploads_that_came_empty(&wechat)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_token_server_all_threads_have_one_token() {
    let Some(python) = python() else { return };
    let _calm = calm().await;
    let wechat = wechat().await;
    let server = Serving::start(server("token_server", &wechat)).await;
    let api = wechat.url();
    let at = At {
        tokens: &server.url,
        api: &api,
        secret: CLIENT_SECRET,
    };
    let told = wechatpy(python, at, &wechat, &[]).await;
    assert_eq!(told.well(), CALLS, "{told:?}");
    assert_sent_once(&told, &wechat);
    assert_eq!(wechat.token_requests().started, 1);
}

/// One message by wechatpy.
#[derive(Debug, Deserialize)]
struct OneCall {
    errcode: i64,
    errmsg: String,
    asked: Vec<String>,
}

async fn one_call(python: &str, base_url: &str) -> OneCall {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wechatpy/one_call.py");
    let output = Command::new(python)
        .args([script, base_url, APPID, CLIENT_SECRET])
        .output()
        .await
        .expect("WECHATPY_PYTHON is a Python");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A gateway that asks `wechat` for tokens with `secret`.
async fn gateway_of(wechat: &MockWechat, secret: &str) -> String {
    let source = ClientCredential::new(hyper(), APPID, secret).base_url(wechat.url());
    let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let gateway = Gateway::builder(http)
        .upstream(wechat.url())
        .account(APPID, TokenManager::new(source))
        .client("crm", CLIENT_SECRET);
    serve(gateway.build().unwrap()).await
}

const ONCE: [&str; 2] = ["/cgi-bin/token", "/cgi-bin/message/custom/send"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_what_is_the_gateways_to_say_it_neither_repeats_nor_takes_for_the_death_of_its_token() {
    let Some(python) = python() else { return };
    let wechat = MockWechat::builder().account(APPID, SECRET).start().await;
    let gateway = gateway_of(&wechat, SECRET).await;

    // A second rejection with a new token.
    wechat.reject_every_token(Some(40001));
    let told = one_call(&python, &gateway).await;
    assert_eq!(
        (told.errcode, &told.asked[..]),
        (59_900_502, &ONCE.map(String::from)[..]),
        "{told:?}"
    );
    assert!(told.errmsg.contains("40001"), "{told:?}");
    wechat.reject_every_token(None);

    // A connection that ends before the reply: it may have been a message.
    wechat.fail_next(Failure::ApiDisconnect);
    let told = one_call(&python, &gateway).await;
    assert_eq!(
        (told.errcode, &told.asked[..]),
        (59_900_502, &ONCE.map(String::from)[..]),
        "{told:?}"
    );
    assert!(told.errmsg.contains("may have acted"), "{told:?}");

    // The account's own wrong secret.
    let gateway = gateway_of(&wechat, "not the AppSecret").await;
    let told = one_call(&python, &gateway).await;
    assert_eq!(
        (told.errcode, &told.asked[..]),
        (59_900_502, &ONCE.map(String::from)[..]),
        "{told:?}"
    );
    assert!(told.errmsg.contains("not sent"), "{told:?}");
}
