//! What a pager gets to read: each trouble is told in a warning, and not once for every call.
//!
//! A file of its own: it records what the whole process traces.

mod support;

use std::convert::Infallible;
use std::future::ready;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::Full;
use support::*;
use tower::{Layer, ServiceExt, service_fn};
use tower_wechat::WechatAuthLayer;

fn lines(text: String) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn each_trouble_is_one_warning_however_many_calls_it_befalls() {
    let recorded = Recorded::default();
    let writer = recorded.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .init();

    // Every token is rejected: somebody else refreshes, the new one is dead too, the budget is used up.
    let (tokens, _) = numbered_tokens();
    let service = WechatAuthLayer::new(tokens).layer(service_fn(|_: Request<Full<Bytes>>| {
        ready(Ok::<_, Infallible>(reply(REJECTED)))
    }));
    join_all((0..1000).map(|_| service.clone().oneshot(get(API)))).await;
    for _ in 0..100 {
        service.clone().oneshot(get(API)).await.unwrap();
    }
    let warnings = lines(recorded.take());
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    for what in [
        "something else refreshes",
        "rejected as well",
        "budget is used up",
    ] {
        let told = warnings.iter().filter(|line| line.contains(what));
        assert_eq!(told.count(), 1, "{what}: {warnings:#?}");
    }

    // R3: replies that cannot be read.
    let (tokens, _) = numbered_tokens();
    let service = WechatAuthLayer::new(tokens).layer(service_fn(|_: Request<Full<Bytes>>| {
        let reply = Response::builder().header("content-encoding", "zstd");
        ready(Ok::<_, Infallible>(
            reply.body(Full::new(Bytes::from("?"))).unwrap(),
        ))
    }));
    for _ in 0..100 {
        service.clone().oneshot(get(API)).await.unwrap();
    }
    let warnings = lines(recorded.take());
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains("content-encoding"), "{warnings:#?}");

    // Mistakes that only show as "41001, access_token missing", or as a token that dies all the time.
    let (tokens, _) = numbered_tokens();
    let service = WechatAuthLayer::new(tokens).layer(service_fn(|_: Request<Full<Bytes>>| {
        ready(Ok::<_, Infallible>(reply(OK)))
    }));
    for _ in 0..100 {
        for url in [
            "http://api.weixin.qq.com/cgi-bin/user/get",
            "https://api.weixin.qq.com/cgi-bin/token?grant_type=client_credential",
            "http://127.0.0.1/cgi-bin/user/get",
            "https://api.weixin.qq.com/sns/userinfo",
        ] {
            service.clone().oneshot(get(url)).await.unwrap();
        }
    }
    let warnings = lines(recorded.take());
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("use https"), "{warnings:#?}");
    let what = "answer_token_requests";
    assert!(warnings[1].contains(what), "{warnings:#?}");
}
