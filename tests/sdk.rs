//! A published SDK as it is, `wechat-mp-sdk` 0.3, alone and in the layer, over real sockets.

mod support;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, header::REFERER};
use axum::response::Redirect;
use futures_util::future::join_all;
use hyper_util::rt::TokioExecutor;
use reqwest_0_12::Client;
use support::{calm, hyper, nobody, serve, tokens_of};
use tokio::sync::mpsc;
use tower::Layer;
use tower::layer::layer_fn;
use tower_wechat::mock::{Failure, MockWechat};
use tower_wechat::reqwest_0_12::{ReqwestAuth, ReqwestAuthLayer, client_builder};
use tower_wechat::server::Gateway;
use tower_wechat::{ClientCredential, TokenManager, WechatAuthLayer};
use wechat_mp_sdk::api::{MediaType, Message, TextMessage};
use wechat_mp_sdk::types::{AppId, AppSecret};
use wechat_mp_sdk::{WechatError, WechatMp, WechatMpBuilder};

async fn wechat() -> MockWechat {
    MockWechat::builder().grace(Duration::ZERO).start().await
}

/// As its own documentation builds it.
fn sdk(wechat: &MockWechat) -> WechatMpBuilder {
    WechatMp::builder()
        .appid(AppId::new(wechat.appid()).unwrap())
        .secret(AppSecret::new(wechat.secret()).unwrap())
        .base_url(wechat.url())
}

fn alone(wechat: &MockWechat) -> WechatMp {
    sdk(wechat).build().unwrap()
}

fn in_the_layer(wechat: &MockWechat) -> WechatMp {
    with_tokens_from(wechat, &wechat.url())
}

fn with_tokens_from(wechat: &MockWechat, base_url: &str) -> WechatMp {
    let client = client_builder().build().unwrap();
    let layer = layer(wechat, client.clone(), base_url);
    in_place_of_its_client(sdk(wechat), layer.layer(client))
}

/// The layer, whose tokens come by `client` from `base_url`.
fn layer(wechat: &MockWechat, client: Client, base_url: &str) -> ReqwestAuthLayer {
    let source = ClientCredential::new(client, wechat.appid(), wechat.secret());
    // A dead token endpoint is asked again and again for so long.
    let tokens = TokenManager::builder(source.base_url(base_url))
        .issue_timeout(Duration::from_secs(1))
        .build();
    let layer = WechatAuthLayer::new(tokens).api_origin(wechat.url());
    ReqwestAuthLayer::new(layer.answer_token_requests([wechat.appid()]))
}

/// The SDK with a client of ours: it wraps its own into whatever it is given, and that wraps
/// nothing.
fn in_place_of_its_client(sdk: WechatMpBuilder, ours: ReqwestAuth) -> WechatMp {
    sdk.with_middleware(layer_fn(move |_| ours.clone()))
        .build()
        .unwrap()
}

async fn send(sdk: &WechatMp, to: &str) -> Result<(), WechatError> {
    let text = TextMessage::new("你好");
    sdk.send_customer_service_message(to, Message::Text { text })
        .await
}

/// Sends 200 messages at once with a token that has been revoked, and says what came of them.
async fn storm(sdk: WechatMp, wechat: &MockWechat) -> Vec<Result<(), WechatError>> {
    let _calm = calm().await;
    send(&sdk, "o").await.unwrap();
    wechat.revoke();
    wechat.clear();
    wechat.set_token_delay(Duration::from_millis(200));
    let messages = (0..200).map(|number| {
        let sdk = sdk.clone();
        tokio::spawn(async move { send(&sdk, &format!("o{number}")).await })
    });
    let sent = join_all(messages).await;
    sent.into_iter().map(Result::unwrap).collect()
}

#[track_caller]
fn errcode(failed: Result<(), WechatError>) -> i32 {
    match failed {
        Err(WechatError::Api { code, .. }) => code,
        other => panic!("not an errcode of WeChat's: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_the_sdk_loses_every_message_after_a_revocation() {
    let wechat = wechat().await;
    let sent = storm(alone(&wechat), &wechat).await;
    assert_eq!(sent.len(), 200);
    for failed in sent {
        assert_eq!(errcode(failed), 40001);
    }
    assert_eq!(wechat.messages().len(), 0);
    // It goes on with the dead one until that would have expired.
    assert_eq!(wechat.token_requests().started, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_layer_the_sdk_sends_every_message_after_a_revocation_with_one_token_request() {
    let wechat = wechat().await;
    let sent = storm(in_the_layer(&wechat), &wechat).await;
    assert_eq!(sent.len(), 200);
    for sent in sent {
        sent.unwrap();
    }
    assert_eq!(wechat.messages().len(), 200, "none twice");
    assert_eq!(wechat.token_requests().started, 1);
}

#[tokio::test]
async fn the_sdk_is_given_the_layers_token_and_asks_for_none() {
    let wechat = wechat().await;
    let sdk = in_the_layer(&wechat);
    let token = sdk.get_access_token().await.unwrap();
    assert_eq!(Some(token), wechat.current_token());
    send(&sdk, "o").await.unwrap();
    assert_eq!(wechat.token_requests().started, 1, "the layer's");

    // What it asks for anew by itself is the layer's again.
    wechat.revoke();
    sdk.invalidate_token().await;
    send(&sdk, "o").await.unwrap();
    assert_eq!(wechat.token_requests().started, 2);
}

#[tokio::test]
async fn uploads_survive_a_revocation() {
    let wechat = wechat().await;
    let picture: Vec<u8> = (0..1_000_000).map(|at: u32| (at % 251) as u8).collect();
    for (sdk, survives) in [(alone(&wechat), false), (in_the_layer(&wechat), true)] {
        send(&sdk, "o").await.unwrap();
        wechat.revoke();
        wechat.clear();
        let upload = sdk.upload_temp_media(MediaType::Image, "a.jpg", &picture);
        let uploaded = upload.await;
        if !survives {
            assert_eq!(errcode(uploaded.map(drop)), 40001);
            continue;
        }
        let requests = wechat.requests();
        let [first, token, second] = &requests[..] else {
            panic!("{requests:?}")
        };
        assert!(token.is_token_request());
        assert!(first.body_len() > 1_000_000);
        assert_eq!(second.body_len(), first.body_len());
        let sha256 = first.body_sha256().unwrap();
        assert_eq!(second.body_sha256(), Some(sha256));
        assert_eq!(uploaded.unwrap().media_id, format!("media-{sha256}"));
    }
}

#[tokio::test]
async fn the_sdks_own_client_does_as_well() {
    let wechat = wechat().await;
    let layer = layer(&wechat, client_builder().build().unwrap(), &wechat.url());
    let sdk = sdk(&wechat).with_middleware(layer);
    let sdk = sdk.build().unwrap();
    send(&sdk, "o").await.unwrap();
    wechat.revoke();
    send(&sdk, "o").await.unwrap();
    assert_eq!(wechat.token_requests().started, 2);
}

#[tokio::test]
async fn a_redirect_takes_no_referer_along_from_a_client_of_ours() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let landed = async move |headers: HeaderMap| {
        tell.send(headers).unwrap();
        r#"{"errcode":0,"errmsg":"ok"}"#
    };
    let elsewhere = serve(Router::new().fallback(landed)).await;
    let away = async move || Redirect::temporary(&elsewhere);
    let origin = serve(Router::new().fallback(away)).await;

    let wechat = wechat().await;
    let layer = WechatAuthLayer::new(tokens_of(&wechat)).api_origin(&origin);
    let layer = ReqwestAuthLayer::new(layer.answer_token_requests([wechat.appid()]));
    let client = client_builder().build().unwrap();
    let sdk = sdk(&wechat).base_url(origin);
    let sdk = in_place_of_its_client(sdk, layer.layer(client));
    send(&sdk, "o").await.unwrap();
    assert_eq!(told.recv().await.unwrap().get(REFERER), None);
}

#[tokio::test]
async fn without_a_token_the_sdk_reports_wechats_own_errcode() {
    let wechat = wechat().await;
    wechat.deny_address(true);
    let sdk = in_the_layer(&wechat);
    assert_eq!(errcode(send(&sdk, "o").await), 40164);
    // Nor does it ask anew for each call.
    assert_eq!(errcode(send(&sdk, "o").await), 40164);
    assert_eq!(wechat.requests().len(), 1);
}

#[tokio::test]
async fn with_no_token_server_the_sdk_reports_that_wechat_is_busy() {
    let wechat = wechat().await;
    let sdk = with_tokens_from(&wechat, &nobody());
    assert_eq!(errcode(send(&sdk, "o").await), -1);
    assert_eq!(wechat.requests().len(), 0);
}

#[tokio::test]
async fn without_another_token_the_sdk_reports_the_rejection() {
    let wechat = wechat().await;
    let sdk = in_the_layer(&wechat);
    send(&sdk, "o").await.unwrap();
    wechat.revoke();
    wechat.deny_address(true);
    assert_eq!(errcode(send(&sdk, "o").await), 40001);
}

#[tokio::test]
async fn what_is_none_of_the_layers_business_the_sdk_reports_as_ever() {
    for sdk in [alone, in_the_layer] {
        let wechat = wechat().await;
        let sdk = sdk(&wechat);
        send(&sdk, "o").await.unwrap();

        wechat.fail_next(Failure::Api(45015));
        assert_eq!(errcode(send(&sdk, "o").await), 45015);

        wechat.fail_next(Failure::ApiStatus(502));
        let Err(WechatError::Http(error)) = send(&sdk, "o").await else {
            panic!("a status is an error of the client's")
        };
        assert!(error.is_transient());
        assert!(error.to_string().contains("502"), "{error}");

        wechat.fail_next(Failure::ApiDisconnect);
        let Err(WechatError::Http(error)) = send(&sdk, "o").await else {
            panic!("no reply is an error of the client's")
        };
        assert!(error.is_transient());
        send(&sdk, "o").await.unwrap();
    }
}

/// The SDK at a gateway that asks `wechat` for tokens with `secret`.
async fn at_a_gateway(wechat: &MockWechat, secret: &str) -> WechatMpBuilder {
    const CLIENT_SECRET: &str = "0123456789abcdef0123456789abcdef";

    let source = ClientCredential::new(hyper(), wechat.appid(), secret).base_url(wechat.url());
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    let gateway = Gateway::builder(http.build_http::<Body>())
        .upstream(wechat.url())
        .account(wechat.appid(), TokenManager::new(source))
        .client("crm", CLIENT_SECRET);
    WechatMp::builder()
        .appid(AppId::new(wechat.appid()).unwrap())
        .secret(AppSecret::new(CLIENT_SECRET).unwrap())
        .base_url(serve(gateway.build().unwrap()).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_what_is_the_gateways_to_say_it_neither_repeats_nor_takes_for_the_death_of_its_token() {
    let wechat = wechat().await;
    let messages = |wechat: &MockWechat| {
        let requests = wechat.requests();
        let sent = requests
            .iter()
            .filter(|request| request.path() == "/cgi-bin/message/custom/send");
        sent.count()
    };
    let sdk = at_a_gateway(&wechat, wechat.secret())
        .await
        .build()
        .unwrap();

    // A second rejection with a new token: the call and its replay, and no more.
    wechat.reject_every_token(Some(40001));
    assert_eq!(errcode(send(&sdk, "o").await), 59_900_502);
    assert_eq!(messages(&wechat), 2);
    wechat.reject_every_token(None);

    // A connection that ends before the reply: it may have been a message.
    wechat.clear();
    wechat.fail_next(Failure::ApiDisconnect);
    assert_eq!(errcode(send(&sdk, "o").await), 59_900_502);
    assert_eq!(messages(&wechat), 1);

    // The account's own wrong secret. The SDK asks once for its token, which is the gateway's.
    wechat.clear();
    let sdk = at_a_gateway(&wechat, "not the AppSecret")
        .await
        .build()
        .unwrap();
    assert_eq!(errcode(send(&sdk, "o").await), 59_900_502);
    assert_eq!(messages(&wechat), 0);
    // One for the token that is kept fresh; the refusal is remembered.
    assert_eq!(wechat.token_requests().started, 1);
}
