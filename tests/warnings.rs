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
use tower_wechat::{Platform, WechatAuthLayer};

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

    // Every token is rejected, at every path: somebody else refreshes, the new one is dead too, the
    // budget is used up.
    let (tokens, _) = numbered_tokens();
    let service = WechatAuthLayer::new(tokens).layer(service_fn(|_: Request<Full<Bytes>>| {
        ready(Ok::<_, Infallible>(reply(REJECTED)))
    }));
    join_all((0..1000).map(|_| service.clone().oneshot(get(API)))).await;
    for path in 0..100 {
        let call = get(format!("{API}/{path}"));
        service.clone().oneshot(call).await.unwrap();
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

    // Mistakes that only show as "41001, access_token missing", or as a token that dies all the
    // time.
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

    // R8: what passed without a token and should have had one.
    for (uri, answer, told) in [
        (
            "http://proxy.corp:8080/wx/cgi-bin/user/get?secret=hush",
            MISSING,
            "add .api_origin(\"http://proxy.corp:8080\")",
        ),
        (
            "https://qyapi.weixin.qq.com/cgi-bin/user/get?secret=hush",
            OK,
            "add .platform(Platform::WeCom)",
        ),
        (
            "https://qyapi.weixin.qq.com/cgi-bin/user/get",
            MISSING,
            "add .platform(Platform::WeCom)",
        ),
        (
            "https://api.weixin.qq.com/sns/userinfo",
            MISSING,
            "the path takes another token",
        ),
        (
            "https://api.weixin.qq.com/cgi-bin/nobodys",
            MISSING,
            "select names no account",
        ),
    ] {
        let service = answering(answer);
        for _ in 0..100 {
            text(service.clone().oneshot(get(uri)).await.unwrap()).await;
        }
        let warnings = lines(recorded.take());
        assert_eq!(warnings.len(), 1, "{uri}: {warnings:#?}");
        assert!(warnings[0].contains(told), "{uri}: {warnings:#?}");
        let host = get(uri).uri().host().unwrap().to_owned();
        assert!(warnings[0].contains(&host), "{warnings:#?}");
        assert!(!warnings[0].contains("hush"), "{warnings:#?}");
    }

    // And what is none: the caller's own token, other answers, other calls of the other platform's.
    for (uri, answer) in [
        (
            "http://proxy.corp/cgi-bin/user/get?access_token=own",
            MISSING,
        ),
        ("http://proxy.corp/x?component_access_token=own", MISSING),
        ("http://proxy.corp/cgi-bin/user/get", OK),
        ("http://proxy.corp/cgi-bin/user/get", REJECTED),
        (
            "http://proxy.corp/cgi-bin/user/get",
            r#"[{"errcode":41001}]"#,
        ),
        (
            "http://proxy.corp/cgi-bin/user/get",
            r#"{"x":{"errcode":41001}}"#,
        ),
        ("http://proxy.corp/cgi-bin/user/get", r#"{"errcode":41001"#),
        (
            "https://qyapi.weixin.qq.com/cgi-bin/user/get?access_token=own",
            OK,
        ),
        ("https://qyapi.weixin.qq.com/cgi-bin/gettoken?corpid=a", OK),
        ("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=k", OK),
        ("https://mp.weixin.qq.com/s?__biz=a", "<html>"),
    ] {
        text(answering(answer).oneshot(get(uri)).await.unwrap()).await;
        let warnings = lines(recorded.take());
        assert!(warnings.is_empty(), "{uri}: {warnings:#?}");
    }

    // A file that holds such words is somebody's content, and a large reply is none of these.
    for padding in [0, 300] {
        let (tokens, _) = numbered_tokens();
        let wechat = service_fn(move |_: Request<Full<Bytes>>| {
            let body = format!("{MISSING}{}", " ".repeat(padding));
            let reply = match padding {
                0 => Response::builder().header("content-disposition", "attachment"),
                _ => Response::builder(),
            };
            ready(Ok::<_, Infallible>(
                reply.body(Full::<Bytes>::from(body)).unwrap(),
            ))
        });
        let service = WechatAuthLayer::new(tokens).layer(wechat);
        text(service.oneshot(get("http://proxy.corp/x")).await.unwrap()).await;
        let warnings = lines(recorded.take());
        assert!(warnings.is_empty(), "{warnings:#?}");
    }

    // One client for two platforms: each layer leaves to the other what is the other's.
    let wecom = WechatAuthLayer::new(numbered_tokens().0).platform(Platform::WeCom);
    for uri in [API, "https://qyapi.weixin.qq.com/cgi-bin/user/get"] {
        let service = wecom.layer(answering(OK));
        text(service.oneshot(get(uri)).await.unwrap()).await;
        let warnings = lines(recorded.take());
        assert!(warnings.is_empty(), "{uri}: {warnings:#?}");
    }
}

const MISSING: &str = r#"{"errcode":41001,"errmsg":"access_token missing rid: 66f0-1a2b-3c4d"}"#;

/// A service for an official account, that answers everything so.
fn answering(
    answer: &'static str,
) -> impl tower::Service<
    Request<Full<Bytes>>,
    Response = Response<impl http_body::Body<Data = Bytes, Error = Infallible> + Unpin>,
    Error = tower_wechat::Error,
> + Clone {
    let (tokens, _) = numbered_tokens();
    let layer = WechatAuthLayer::select(move |parts| {
        (parts.uri.path() != "/cgi-bin/nobodys").then(|| tokens.clone())
    });
    layer.layer(service_fn(move |_: Request<Full<Bytes>>| {
        ready(Ok::<_, Infallible>(reply(answer)))
    }))
}
