//! Trap 15: no secret in any Display, Debug, error chain, log or span (section 7 of the design).
//!
//! A file of its own: it records everything that the whole process traces.

mod support;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::Full;
use support::*;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_wechat::mock::{Failure, MockWechat};
use tower_wechat::{
    AccessToken, AccountId, ClientCredential, StableToken, TokenError, TokenManager,
    WeComCredential, WechatAuthLayer, source_fn,
};

const SECRET: &str = "S3CRETs3cretS3CRETs3cret";

/// Everything traced in this process, at TRACE.
fn recorded() -> String {
    record().text()
}

fn assert_silent(text: &str, secrets: &[String]) {
    let hints = ["access_token=", "secret="];
    for secret in secrets.iter().map(String::as_str).chain(hints) {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a secret");
    }
}

async fn account() -> MockWechat {
    MockWechat::builder()
        .account("wx0123456789abcdef", SECRET)
        .grace(Duration::ZERO)
        .start()
        .await
}

/// An HTTP client's error, which prints the URL as they all do.
#[derive(Debug)]
struct Leaky {
    url: String,
}

impl fmt::Display for Leaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error sending request for url ({})", self.url)
    }
}

impl StdError for Leaky {}

async fn leaky(request: Request<Full<Bytes>>) -> Result<http::Response<Full<Bytes>>, Leaky> {
    let url = request.uri().to_string();
    Err(Leaky { url })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storms_and_failures_tell_no_secret() {
    record();
    let wechat = account().await;
    let mut errors = String::new();
    let uri = format!("{}/cgi-bin/user/get", wechat.url());

    // A storm at a revoked token, and a token that is rejected for ever.
    let service = layer_of(&wechat).layer(hyper());
    for _ in 0..3 {
        let calls = (0..20).map(|_| service.clone().oneshot(get(&uri)));
        for reply in join_all(calls).await {
            text(reply.unwrap()).await;
        }
        wechat.revoke();
    }
    wechat.reject_every_token(Some(42001));
    for _ in 0..10 {
        let reply = service.clone().oneshot(get(&uri)).await.unwrap();
        let outcome = format!(
            "{:?}",
            reply.extensions().get::<tower_wechat::AuthOutcome>()
        );
        errors += &outcome;
        text(reply).await;
    }
    wechat.reject_every_token(None);

    // Every way in which a token request can fail, at each of the sources.
    let echo = format!(r#"{{"errcode":40125,"errmsg":"invalid appsecret {SECRET}"}}"#);
    for failure in [
        Failure::Token(40125),
        Failure::Token(40164),
        Failure::TokenStatus(502),
        Failure::TokenStatus(404),
        Failure::TokenBody(Bytes::from(echo)),
        Failure::TokenBody(Bytes::from(format!("<html>{SECRET}"))),
        Failure::TokenBody(Bytes::from(format!(r#"{{"access_token":"{SECRET}"}}"#))),
        Failure::TokenDisconnect,
    ] {
        for kind in 0..3 {
            let failing = account().await;
            // As often as the manager may ask.
            for _ in 0..4 {
                failing.fail_next(failure.clone());
            }
            let (http, id, url) = (hyper(), failing.appid(), failing.url());
            let tokens = match kind {
                0 => TokenManager::new(ClientCredential::new(http, id, SECRET).base_url(&url)),
                1 => TokenManager::new(StableToken::new(http, id, SECRET).base_url(&url)),
                _ => TokenManager::new(WeComCredential::new(http, id, SECRET).base_url(&url)),
            };
            let service = WechatAuthLayer::new(tokens).api_origin(&url).layer(hyper());
            let call = service.oneshot(get(format!("{url}/cgi-bin/user/get")));
            errors += &told(&call.await.unwrap_err());
        }
    }

    // Nobody there: the client's own errors, of the token request and of the call.
    let nobody = "http://127.0.0.1:1";
    let source = ClientCredential::new(hyper(), "wx0123456789abcdef", SECRET).base_url(nobody);
    let tokens = TokenManager::builder(source)
        .issue_timeout(Duration::from_millis(100))
        .build();
    let service = WechatAuthLayer::new(tokens)
        .api_origin(nobody)
        .layer(hyper());
    errors += &told(&service.oneshot(get(nobody)).await.unwrap_err());
    let service = WechatAuthLayer::new(tokens_of(&wechat))
        .api_origin(nobody)
        .layer(hyper());
    errors += &told(&service.oneshot(get(nobody)).await.unwrap_err());

    // Clients whose errors print the URL.
    let source = ClientCredential::new(service_fn(leaky), "wx0123456789abcdef", SECRET);
    let tokens = TokenManager::builder(source)
        .issue_timeout(Duration::from_millis(100))
        .build();
    let error = tokens.token().await.unwrap_err();
    errors += &told(&error);
    assert!(matches!(error, TokenError::Transport(_)));
    let service = WechatAuthLayer::new(tokens_of(&wechat)).layer(service_fn(leaky));
    let error = service.oneshot(get(API)).await.unwrap_err();
    errors += &told(&error);
    // It is not lost, for those who ask for it.
    assert!(
        error
            .into_source()
            .downcast::<Leaky>()
            .unwrap()
            .url
            .contains("access_token=")
    );

    let mut secrets = vec![SECRET.to_owned()];
    let requests = wechat.requests();
    secrets.extend(
        requests
            .iter()
            .filter_map(|r| r.access_token().map(str::to_owned)),
    );
    assert!(secrets.len() > 10);
    assert_silent(&errors, &secrets);
    // WeCom's own page about an errcode is in its errmsg.
    let ours = errors.replace("https://open.work.weixin.qq.com/devtool/query?e=", "");
    assert!(!ours.contains('?'), "a URL with a query");
    let recorded = recorded();
    assert!(
        recorded.contains("the access_token was rejected"),
        "it records"
    );
    assert!(recorded.contains("no new access_token"), "it records");
    assert_silent(&recorded, &secrets);
}

#[tokio::test]
async fn no_public_type_tells_a_secret_by_debug() {
    let token = AccessToken::new(SECRET, TWO_HOURS);
    let tokens = TokenManager::new(source_fn(|_| async {
        Ok(AccessToken::new(SECRET, TWO_HOURS))
    }));
    tokens.token().await.unwrap();
    let http = service_fn(|_: Request<Full<Bytes>>| async { Ok::<_, Infallible>(reply(OK)) });
    let layer = WechatAuthLayer::new(tokens.clone());
    let mut service = layer.layer(hyper());
    let future = service.call(get(API));
    let mut told = String::new();
    for debug in [
        &token as &dyn fmt::Debug,
        &tokens,
        &TokenManager::builder(source_fn(|_| async {
            Ok(AccessToken::new(SECRET, TWO_HOURS))
        })),
        &ClientCredential::new(http, "wx", SECRET),
        &StableToken::new(http, "wx", SECRET),
        &WeComCredential::new(http, "wx", SECRET),
        &layer,
        &service,
        &future,
        &Some(tokens.keep_fresh()),
        &TokenError::transport(Leaky { url: SECRET.into() }),
        &TokenError::other(Leaky {
            url: format!("https://h/?secret={SECRET}"),
        }),
        &AccountId::wecom("ww0", SECRET),
        &layer
            .clone()
            .answer_token_requests([AccountId::wecom("ww0", SECRET)]),
    ] {
        told += &format!("{debug:?}\n{debug:#?}\n");
    }
    assert_silent(&told, &[SECRET.to_owned()]);
}

#[tokio::test]
async fn the_token_an_sdk_asked_for_is_in_no_log() {
    record();
    let token = "a-token-for-an-sdk-78_Zx0";
    let tokens = TokenManager::new(source_fn(move |_| async move {
        Ok(AccessToken::new(token, TWO_HOURS))
    }));
    let service = WechatAuthLayer::new(tokens)
        .answer_token_requests(["wx0"])
        .layer(hyper());
    let request = get("https://api.weixin.qq.com/cgi-bin/token?appid=wx0");
    let reply = service.oneshot(request).await.unwrap();
    assert!(text(reply).await.contains(token));
    assert!(!recorded().contains(token));
}
