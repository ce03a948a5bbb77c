//! What a service with a pager sees: many calls at once over real sockets, against `MockWechat`.

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use support::*;
use tower::{Layer, ServiceExt};
use tower_wechat::mock::MockWechat;
use tower_wechat::{AuthOutcome, TokenManager, WeComCredential, WechatAuthLayer};
use tower_wechat::{Platform, StableToken, WechatAuth};

async fn wechat() -> MockWechat {
    more_open_files();
    MockWechat::builder().grace(Duration::ZERO).start().await
}

/// Makes `calls` at once; every reply must be well. How many of them were replayed.
async fn storm(service: &WechatAuth<HyperClient>, wechat: &MockWechat, calls: usize) -> usize {
    let uri = format!("{}/cgi-bin/message/custom/send", wechat.url());
    let calls = (0..calls).map(|number| {
        let body = format!(r#"{{"touser":"o{number}","msgtype":"text","text":{{"content":"x"}}}}"#);
        let call = service.clone().oneshot(post(&uri, body));
        tokio::spawn(async move {
            let reply = call.await.expect("no error reaches a caller");
            let replayed = reply.extensions().get::<AuthOutcome>().unwrap().replayed();
            assert_eq!(text(reply).await, OK);
            replayed
        })
    });
    let replayed = join_all(calls).await;
    replayed
        .into_iter()
        .filter(|r| *r.as_ref().unwrap())
        .count()
}

/// All well, and one token request, however late the API answers.
async fn a_thousand_calls_at_a_revoked_token(latest: Duration) {
    let _calm = calm().await;
    let wechat = wechat().await;
    let service = layer_of(&wechat).layer(hyper());
    storm(&service, &wechat, 1).await;
    wechat.set_token_delay(Duration::from_millis(200));
    wechat.set_api_delay(Duration::ZERO..=latest);
    wechat.clear();
    wechat.revoke();

    let replayed = storm(&service, &wechat, 1000).await;
    assert!(replayed > 0);
    assert_eq!(wechat.token_requests().started, 1);
    assert_eq!(wechat.messages().len(), 1000, "each sent once, none twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_at_a_revoked_token_make_one_token_request_and_no_error() {
    a_thousand_calls_at_a_revoked_token(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejections_that_arrive_late_do_not_throw_the_new_token_away() {
    // trap 6: azure-sdk-for-cpp#6151; smithy-rs#4766
    a_thousand_calls_at_a_revoked_token(Duration::from_millis(600)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_leave_one_token_request_that_is_finished() {
    // trap 4: the refresh that dies with its caller
    let wechat = wechat().await;
    wechat.set_token_delay(Duration::from_millis(300));
    let tokens = tokens_of(&wechat);
    let layer = WechatAuthLayer::new(tokens.clone()).api_origin(wechat.url());
    let service = layer.layer(hyper());
    let uri = format!("{}/cgi-bin/user/get", wechat.url());
    let calls = (0..200).map(|_| {
        let call = service.clone().oneshot(get(&uri));
        tokio::spawn(tokio::time::timeout(Duration::from_millis(50), call))
    });
    for given_up in join_all(calls).await {
        assert!(given_up.unwrap().is_err());
    }
    let asked = wechat.token_requests();
    assert_eq!((asked.started, asked.finished), (1, 0));
    while tokens.cached().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    storm(&service, &wechat, 1).await;
    let asked = wechat.token_requests();
    assert_eq!((asked.started, asked.finished), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m9_an_api_that_rejects_every_token_costs_one_refresh_a_minute() {
    // trap 8: WxJava#1381, #1481; wechatpy#629. Trap 18 (a body with `&access_token=` in it,
    // WxJava#1087) looks the same from here.
    let wechat = wechat().await;
    let service = layer_of(&wechat).layer(hyper());
    storm(&service, &wechat, 1).await;
    wechat.clear();
    wechat.reject_every_token(Some(40001));
    let uri = format!("{}/cgi-bin/user/get", wechat.url());
    for _ in 0..300 {
        let reply = service.clone().oneshot(get(&uri)).await.unwrap();
        assert!(
            text(reply)
                .await
                .starts_with(r#"{"errcode":40001,"errmsg":"#)
        );
    }
    assert_eq!(wechat.token_requests().started, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_is_survived_like_a_revoked_one() {
    let wechat = wechat().await;
    let service = layer_of(&wechat).layer(hyper());
    storm(&service, &wechat, 1).await;
    wechat.clear();
    wechat.expire();
    storm(&service, &wechat, 50).await;
    assert_eq!(wechat.token_requests().started, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_stable_token_is_forced_once() {
    let wechat = wechat().await;
    let source = StableToken::new(hyper(), wechat.appid(), wechat.secret()).base_url(wechat.url());
    let layer = WechatAuthLayer::new(TokenManager::new(source)).api_origin(wechat.url());
    let service = layer.layer(hyper());
    storm(&service, &wechat, 1).await;
    wechat.clear();
    wechat.revoke();
    storm(&service, &wechat, 100).await;
    let asked = wechat.token_requests();
    // Asked for once without force, which gives the dead one, and once with.
    assert_eq!((asked.started, asked.issued), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wecoms_token_is_survived_as_well() {
    let wechat = wechat().await;
    let source =
        WeComCredential::new(hyper(), wechat.appid(), wechat.secret()).base_url(wechat.url());
    let service = WechatAuthLayer::new(TokenManager::new(source))
        .platform(Platform::WeCom)
        .api_origin(wechat.url())
        .layer(hyper());
    storm(&service, &wechat, 1).await;
    wechat.clear();
    wechat.revoke();
    storm(&service, &wechat, 100).await;
    assert_eq!(wechat.token_requests().started, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejections_connection_is_used_again() {
    // trap 13: hyper#1353, an undrained reply costs the connection
    let wechat = wechat().await;
    let service = layer_of(&wechat).layer(hyper());
    storm(&service, &wechat, 1).await;
    wechat.clear();
    wechat.revoke();
    storm(&service, &wechat, 1).await;
    let requests = wechat.requests();
    let calls: Vec<_> = requests.iter().filter(|r| !r.is_token_request()).collect();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].connection(), calls[1].connection());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_axums_body_is_wrapped_as_it_is() {
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    let wechat = wechat().await;
    take_any_upload(&wechat);
    let http = Client::builder(TokioExecutor::new()).build_http::<axum::body::Body>();
    let service = layer_of(&wechat).layer(http);
    for _ in 0..2 {
        let request =
            http::Request::post(format!("{}/cgi-bin/media/upload?type=image", wechat.url()))
                .body(axum::body::Body::from("a picture"))
                .unwrap();
        let reply = service.clone().oneshot(request).await.unwrap();
        assert!(text(reply).await.contains("media_id"));
        wechat.revoke();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_clients_send_a_body_in_memory_with_its_length() {
    use http_body_util::{BodyExt, combinators::BoxBody};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    let wechat = wechat().await;
    take_any_upload(&wechat);
    let http = Client::builder(TokioExecutor::new())
        .build_http::<BoxBody<Bytes, std::convert::Infallible>>();
    let service = layer_of(&wechat).layer(http);
    let request = http::Request::post(format!("{}/cgi-bin/media/upload?type=image", wechat.url()))
        .body(Full::new(Bytes::from("a picture")).boxed())
        .unwrap();
    service.oneshot(request).await.unwrap();
    let sent = wechat.requests().pop().unwrap();
    assert_eq!(sent.headers()["content-length"], "9");
}
