//! The layer's rules (R1 to R10), on services that are polled by hand.

mod support;

use std::convert::Infallible;
use std::future::{pending, ready};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body_util::Full;
use support::*;
use tokio::sync::mpsc;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_test::mock::{self, Handle, Mock};
use tower_wechat::{
    AccessToken, AccountId, AuthOutcome, ErrorKind, NotReplayed, PassedThrough, Platform,
    RequestBody, SkipAuth, TokenError, TokenManager, WechatAuth, WechatAuthLayer, source_fn,
};

type MockService = Mock<Request<Full<Bytes>>, Response<Full<Bytes>>>;
type MockHandle = Handle<Request<Full<Bytes>>, Response<Full<Bytes>>>;

/// A service with a token in the cache; the mock panics when it is called without being ready.
async fn with_token(layer: impl FnOnce(WechatAuthLayer) -> WechatAuthLayer) -> Scene {
    let (tokens, issued) = numbered_tokens();
    tokens.token().await.unwrap();
    let (inner, handle) = mock::pair();
    Scene {
        service: layer(WechatAuthLayer::new(tokens.clone())).layer(inner),
        handle,
        tokens,
        issued,
    }
}

struct Scene {
    service: WechatAuth<MockService>,
    handle: MockHandle,
    tokens: TokenManager,
    issued: Arc<AtomicUsize>,
}

impl Scene {
    /// Answers the next request, and says which token it had.
    async fn answer(&mut self, body: &'static str) -> Option<String> {
        let (request, respond) = self.handle.next_request().await.expect("a request");
        respond.send_response(reply(body));
        token_in(&request)
    }

    fn issued(&self) -> usize {
        self.issued.load(Ordering::SeqCst)
    }
}

fn outcome<B>(reply: &Response<B>) -> AuthOutcome {
    let outcome = reply.extensions().get::<AuthOutcome>();
    outcome.expect("an outcome in every reply").clone()
}

// R1, R2: what gets the token.

#[tokio::test(start_paused = true)]
async fn r1_the_token_is_in_the_query_and_the_rest_is_as_it_was() {
    let mut scene = with_token(|layer| layer).await;
    let request = Request::get(format!("{API}?next_openid=%E4%B8%AD"))
        .version(Version::HTTP_11)
        .body(Full::default())
        .unwrap();
    let call = tokio::spawn(scene.service.clone().oneshot(request));
    let (request, respond) = scene.handle.next_request().await.unwrap();
    let sent = format!("{API}?next_openid=%E4%B8%AD&access_token=token-1");
    assert_eq!(request.uri().to_string(), sent);
    respond.send_response(reply(OK));
    let reply = call.await.unwrap().unwrap();
    assert!(!outcome(&reply).replayed());
    assert_eq!(outcome(&reply).errcode(), None);
    assert_eq!(text(reply).await, OK);
}

#[tokio::test(start_paused = true)]
async fn r2_what_is_out_of_scope_passes_untouched_and_wakes_no_source() {
    let (tokens, issued) = numbered_tokens();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let service = WechatAuthLayer::new(tokens).layer(service_fn(move |request| {
        record.lock().unwrap().push(request);
        ready(Ok::<_, Infallible>(reply(REJECTED)))
    }));
    let skipped = Request::get(API)
        .extension(SkipAuth)
        .body(Full::default())
        .unwrap();
    for request in [
        get("https://example.com/cgi-bin/menu/get"),
        get("http://api.weixin.qq.com/cgi-bin/menu/get"),
        get("https://api.weixin.qq.com/sns/userinfo?access_token=users"),
        get("https://api.weixin.qq.com/cgi-bin/token?appid=a&secret=s"),
        skipped,
    ] {
        let uri = request.uri().clone();
        let reply = service.clone().oneshot(request).await.unwrap();
        // A rejection there is none of ours.
        assert_eq!(outcome(&reply).errcode(), None);
        assert_eq!(text(reply).await, REJECTED);
        let sent: Request<Full<Bytes>> = seen.lock().unwrap().pop().unwrap();
        assert_eq!(sent.uri(), &uri);
    }
    assert_eq!(issued.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn r2_another_credentials_death_is_not_blamed_on_ours() {
    // trap 30: easywechat#2482
    let expired = r#"{"errcode":42001,"errmsg":"access_token expired"}"#;
    for (platform, uri, why) in [
        (
            Platform::OfficialAccount,
            "https://api.weixin.qq.com/product/register/register_shop?component_access_token=C",
            PassedThrough::OtherPath,
        ),
        (
            Platform::OfficialAccount,
            "https://api.weixin.qq.com/wxa/security/apply?component_access_token=C",
            PassedThrough::OtherCredential,
        ),
        (
            Platform::OfficialAccount,
            "https://api.weixin.qq.com/wxa/x?a=1&%63omponent%5faccess_token=C",
            PassedThrough::OtherCredential,
        ),
        (
            Platform::OfficialAccount,
            "https://api.weixin.qq.com/tcb/x?cloudbase_access_token=B",
            PassedThrough::OtherCredential,
        ),
        (
            Platform::OfficialAccount,
            "/cgi-bin/token?component_access_token=C",
            PassedThrough::OtherCredential,
        ),
        (
            Platform::WeCom,
            "https://qyapi.weixin.qq.com/cgi-bin/user/get?suite_access_token=S",
            PassedThrough::OtherCredential,
        ),
        (
            Platform::WeCom,
            "https://qyapi.weixin.qq.com/cgi-bin/paytool/x?provider_access_token=P",
            PassedThrough::OtherCredential,
        ),
        (
            Platform::OfficialAccount,
            "https://api.weixin.qq.com/wxa/gettemplatelist?access_token=COMPONENTS",
            PassedThrough::OtherPath,
        ),
        (
            Platform::WeCom,
            "https://qyapi.weixin.qq.com/cgi-bin/service/get_login_info?access_token=PROVIDERS",
            PassedThrough::OtherPath,
        ),
    ] {
        let mut scene = with_token(|layer| layer.platform(platform)).await;
        let call = tokio::spawn(scene.service.clone().oneshot(get(uri)));
        let (request, respond) = scene.handle.next_request().await.unwrap();
        assert_eq!(request.uri(), uri);
        respond.send_response(reply(expired));
        let reply = call.await.unwrap().unwrap();
        assert_eq!(outcome(&reply).passed_through(), Some(why), "{uri}");
        assert_eq!(outcome(&reply).errcode(), None);
        assert_eq!(text(reply).await, expired);
        assert_eq!(scene.issued(), 1, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_a_query_that_names_the_accounts_token_as_well_gets_it() {
    let mut scene = with_token(|layer| layer).await;
    let uri = format!("{API}?component_access_token=C&access_token=stale");
    let call = tokio::spawn(scene.service.clone().oneshot(get(uri)));
    assert_eq!(scene.answer(REJECTED).await.as_deref(), Some("token-1"));
    assert_eq!(scene.answer(OK).await.as_deref(), Some("token-2"));
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn r2_below_a_prefix_a_user_keeps_the_own_token() {
    for base in ["http://proxy/wx", "http://proxy/wx/"] {
        let mut scene = with_token(|layer| layer.api_origin(base)).await;
        for (uri, token) in [
            ("http://proxy/wx/cgi-bin/user/get", Some("token-1")),
            (
                "http://proxy/wx/sns/userinfo?access_token=USERS",
                Some("USERS"),
            ),
            ("/wx/sns/userinfo?access_token=USERS", Some("USERS")),
            ("http://proxy/wx/cgi-bin/token?appid=a", None),
            ("http://proxy/cgi-bin/user/get", None),
            ("http://proxy/wxa/getwxacode", None),
        ] {
            let call = tokio::spawn(scene.service.clone().oneshot(get(uri)));
            assert_eq!(scene.answer(OK).await.as_deref(), token, "{uri}");
            call.await.unwrap().unwrap();
        }
    }
}

#[test]
#[should_panic(expected = "a base URL is http:// or https://, a host")]
fn r2_what_is_no_base_url_is_refused_where_it_is_set() {
    let _ = WechatAuthLayer::new(numbered_tokens().0).api_origin("proxy.corp/wx");
}

#[tokio::test(start_paused = true)]
async fn easywechat_201_a_token_that_an_sdks_retry_appended_a_second_time_is_folded() {
    // trap 32
    let mut scene = with_token(|layer| layer).await;
    let uri = format!("{API}?access_token=dead&a=1&access_token=stale&access%5Ftoken=x");
    let call = tokio::spawn(scene.service.clone().oneshot(get(uri)));
    for (token, answer) in [("token-1", REJECTED), ("token-2", OK)] {
        let (request, respond) = scene.handle.next_request().await.unwrap();
        let sent = format!("{API}?access_token={token}&a=1");
        assert_eq!(request.uri().to_string(), sent);
        respond.send_response(reply(answer));
    }
    call.await.unwrap().unwrap();
}

// R4: the replay.

#[tokio::test(start_paused = true)]
async fn r4_the_replay_is_the_same_request_with_the_new_token() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u32);

    let mut scene = with_token(|layer| layer).await;
    let mut secret = HeaderValue::from_static("s");
    secret.set_sensitive(true);
    let request = Request::builder()
        .method(Method::PUT)
        .uri(format!("{API}?access_token=stale&a=1"))
        .version(Version::HTTP_10)
        .header("x-many", "1")
        .header("x-other", "o")
        .header("x-many", "2")
        .header("x-secret", secret)
        .extension(Mark(7))
        .body(Full::new(Bytes::from_static(b"\x00body")))
        .unwrap();
    let call = tokio::spawn(scene.service.clone().oneshot(request));

    let (first, respond) = scene.handle.next_request().await.unwrap();
    respond.send_response(reply(REJECTED));
    let (second, respond) = scene.handle.next_request().await.unwrap();
    respond.send_response(reply(OK));

    // trap 14: built with the old token, as four published crates do
    let with = |token| format!("{API}?access_token={token}&a=1");
    assert_eq!(first.uri().to_string(), with("token-1"));
    assert_eq!(second.uri().to_string(), with("token-2"));
    assert_eq!(second.method(), first.method());
    assert_eq!(second.version(), first.version());
    assert_eq!(second.headers(), first.headers());
    let many: Vec<_> = second.headers().get_all("x-many").iter().collect();
    assert_eq!(many, ["1", "2"]);
    assert!(second.headers()["x-secret"].is_sensitive());
    assert_eq!(second.extensions().get(), Some(&Mark(7)));
    let bodies = [first, second].map(|r| text(Response::new(r.into_body())));
    let [first, second] = bodies;
    assert_eq!(first.await, "\0body");
    assert_eq!(second.await, "\0body");

    let reply = call.await.unwrap().unwrap();
    let outcome = outcome(&reply);
    assert!(outcome.refreshed() && outcome.replayed() && !outcome.rejected_again());
    assert_eq!(outcome.errcode(), Some(40001));
    assert_eq!(outcome.rid(), Some("66f0-1a2b-3c4d"));
    assert_eq!(text(reply).await, OK);
}

#[tokio::test(start_paused = true)]
async fn r4_at_most_one_refresh_and_one_replay_a_call() {
    let mut scene = with_token(|layer| layer).await;
    let call = tokio::spawn(scene.service.clone().oneshot(get(API)));
    assert_eq!(scene.answer(REJECTED).await.as_deref(), Some("token-1"));
    let again = r#"{"errcode":40001,"errmsg":"again"}"#;
    assert_eq!(scene.answer(again).await.as_deref(), Some("token-2"));
    let reply = call.await.unwrap().unwrap();
    assert!(outcome(&reply).replayed() && outcome(&reply).rejected_again());
    assert_eq!(text(reply).await, again);
    assert_eq!(scene.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn r4_each_refresh_code_of_the_platform_is_survived() {
    for code in [40001, 42001, 40014] {
        let (tokens, _) = numbered_tokens();
        let service =
            WechatAuthLayer::new(tokens).layer(service_fn(move |request: Request<Full<Bytes>>| {
                let good = token_in(&request).as_deref() == Some("token-2");
                let rejected = format!(r#"{{"errmsg":"x","errcode":"{code}"}}"#);
                let body = if good { OK.to_owned() } else { rejected };
                ready(Ok::<_, Infallible>(reply(body)))
            }));
        let reply = service.oneshot(get(API)).await.unwrap();
        assert_eq!(outcome(&reply).errcode(), Some(code));
        assert_eq!(text(reply).await, OK);
    }
}

#[tokio::test(start_paused = true)]
async fn r4_wecom_takes_40001_for_a_wrong_secret_and_does_not_refresh() {
    let mut scene = with_token(|layer| layer.platform(Platform::WeCom)).await;
    let uri = "https://qyapi.weixin.qq.com/cgi-bin/user/get";
    let call = tokio::spawn(scene.service.clone().oneshot(get(uri)));
    scene.answer(REJECTED).await;
    assert_eq!(text(call.await.unwrap().unwrap()).await, REJECTED);

    let call = tokio::spawn(scene.service.clone().oneshot(get(uri)));
    scene.answer(r#"{"errcode":40014,"errmsg":"x"}"#).await;
    assert_eq!(scene.answer(OK).await.as_deref(), Some("token-2"));
    assert_eq!(text(call.await.unwrap().unwrap()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn refresh_on_replaces_the_platforms_codes() {
    let mut scene = with_token(|layer| layer.refresh_on([12345])).await;
    let call = tokio::spawn(scene.service.clone().oneshot(get(API)));
    scene.answer(r#"{"errcode":12345}"#).await;
    scene.answer(REJECTED).await;
    let reply = call.await.unwrap().unwrap();
    assert_eq!(outcome(&reply).errcode(), Some(12345));
    assert!(!outcome(&reply).rejected_again());
    assert_eq!(scene.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn r3_http_status_and_content_type_decide_nothing() {
    let mut scene = with_token(|layer| layer).await;
    let call = tokio::spawn(scene.service.clone().oneshot(get(API)));
    let (_, respond) = scene.handle.next_request().await.unwrap();
    let picture = Response::builder()
        .status(500)
        .header("content-type", "image/jpeg")
        .body(Full::from(REJECTED))
        .unwrap();
    // trap 19: WxJava#3196, an error saved as a picture
    respond.send_response(picture);
    assert_eq!(scene.answer(OK).await.as_deref(), Some("token-2"));
    assert_eq!(text(call.await.unwrap().unwrap()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn r4_a_code_that_means_authorize_again_refreshes_nothing() {
    for code in [42007, 61023, 42009, 40082] {
        for platform in [Platform::OfficialAccount, Platform::WeCom] {
            let mut scene = with_token(|layer| layer.platform(platform)).await;
            let call = tokio::spawn(scene.service.clone().oneshot(get("/cgi-bin/user/get")));
            let body = format!(r#"{{"errcode":{code},"errmsg":"x"}}"#).leak();
            scene.answer(body).await;
            assert_eq!(text(call.await.unwrap().unwrap()).await, *body);
            assert_eq!(scene.issued(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r3_somebodys_content_is_never_read_as_wechats_word() {
    type With = fn(http::response::Builder) -> http::response::Builder;
    let with: [(Method, With); 9] = [
        (Method::GET, |r| {
            r.header("content-disposition", "attachment; filename=\"a.json\"")
        }),
        (Method::POST, |r| r.header("Content-Disposition", "inline")),
        (Method::GET, |r| r.header("content-disposition", "")),
        (Method::GET, |r| r.status(206)),
        (Method::GET, |r| {
            r.status(206).header("content-range", "bytes 0-9/100")
        }),
        (Method::GET, |r| {
            r.header("content-type", "Multipart/byteranges; boundary=x")
        }),
        (Method::GET, |r| r.status(204)),
        (Method::GET, |r| r.status(304)),
        (Method::HEAD, |r| r),
    ];
    for (method, with) in with {
        let mut scene = with_token(|layer| layer).await;
        let uri = "https://api.weixin.qq.com/cgi-bin/media/get?media_id=m";
        let request = Request::builder().method(method).uri(uri);
        let request = request.body(Full::default()).unwrap();
        let call = tokio::spawn(scene.service.clone().oneshot(request));
        let (_, respond) = scene.handle.next_request().await.unwrap();
        respond.send_response(
            with(Response::builder())
                .body(Full::from(REJECTED))
                .unwrap(),
        );
        let reply = call.await.unwrap().unwrap();
        assert_eq!(outcome(&reply).errcode(), None, "{:?}", reply.headers());
        assert_eq!(text(reply).await, REJECTED);
        assert_eq!(scene.issued(), 1);
    }
}

// R5: no replay is possible.

#[tokio::test(start_paused = true)]
async fn r5_a_refresh_that_fails_gives_the_caller_wechats_own_reply() {
    let source = source_fn(|rejected: Option<AccessToken>| async move {
        match rejected {
            None => Ok(AccessToken::new("token-1", TWO_HOURS)),
            Some(_) => Err(TokenError::api(40164, "invalid ip")),
        }
    });
    let (inner, mut handle) = mock::pair::<Request<Full<Bytes>>, Response<Full<Bytes>>>();
    let service = WechatAuthLayer::new(TokenManager::new(source)).layer(inner);
    let call = tokio::spawn(service.oneshot(get(API)));
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(reply(REJECTED));
    let reply = call.await.unwrap().unwrap();
    let outcome = outcome(&reply);
    assert!(!outcome.refreshed() && !outcome.replayed());
    let Some(NotReplayed::NoToken(error)) = outcome.not_replayed() else {
        panic!("{outcome:?}")
    };
    assert_eq!(error.errcode(), Some(40164));
    assert_eq!(text(reply).await, REJECTED);
}

#[tokio::test(start_paused = true)]
async fn r5_the_rejected_token_again_is_not_sent_again() {
    // trap 7: node-webot/wechat-api#81; WxJava in stable mode
    let source = source_fn(|_| async { Ok(AccessToken::new("always", TWO_HOURS)) });
    let (inner, mut handle) = mock::pair::<Request<Full<Bytes>>, Response<Full<Bytes>>>();
    let service = WechatAuthLayer::new(TokenManager::new(source)).layer(inner);
    let call = tokio::spawn(service.oneshot(get(API)));
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(reply(REJECTED));
    let reply = call.await.unwrap().unwrap();
    assert!(matches!(
        outcome(&reply).not_replayed(),
        Some(NotReplayed::SameToken)
    ));
    assert_eq!(text(reply).await, REJECTED);
}

/// A body that says it can be sent only once.
struct Once;

impl RequestBody for Once {
    fn capture(self, _: &tower_wechat::Keep) -> tower_wechat::Captured<Self> {
        tower_wechat::Captured::now(Once, tower_wechat::Replay::unavailable())
    }
}

#[tokio::test(start_paused = true)]
async fn r5_a_body_that_cannot_be_replayed_is_sent_once_and_still_causes_the_refresh() {
    // trap 11: reqwest-middleware#44, #214, where the whole request fails
    let (tokens, issued) = numbered_tokens();
    let (inner, mut handle) = mock::pair::<Request<Once>, Response<Full<Bytes>>>();
    let service = WechatAuthLayer::new(tokens.clone()).layer(inner);
    let request = Request::post(API).body(Once).unwrap();
    let call = tokio::spawn(service.oneshot(request));
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(reply(REJECTED));
    let reply = call.await.unwrap().unwrap();
    assert!(outcome(&reply).refreshed() && !outcome(&reply).replayed());
    assert!(matches!(
        outcome(&reply).not_replayed(),
        Some(NotReplayed::BodyNotKept)
    ));
    assert_eq!(text(reply).await, REJECTED);
    assert_eq!(issued.load(Ordering::SeqCst), 2);
    assert_eq!(tokens.cached().unwrap().secret(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn r5_past_the_budget_the_caller_gets_wechats_own_reply() {
    let (tokens, issued) = numbered_tokens();
    let service = WechatAuthLayer::new(tokens).layer(service_fn(|_: Request<Full<Bytes>>| {
        ready(Ok::<_, Infallible>(reply(REJECTED)))
    }));
    for call in 0..300 {
        // Each of another path: those of one path cause one refresh a minute.
        let reply = service
            .clone()
            .oneshot(get(format!("{API}/{call}")))
            .await
            .unwrap();
        if call >= 5 {
            let Some(NotReplayed::NoToken(error)) = outcome(&reply).not_replayed().cloned() else {
                panic!("call {call} was replayed")
            };
            assert!(matches!(error, TokenError::OverBudget));
        }
        assert_eq!(text(reply).await, REJECTED);
    }
    // The first token and a burst of five.
    assert_eq!(issued.load(Ordering::SeqCst), 6);
}

// R6, R7: errors.

#[tokio::test(start_paused = true)]
async fn r6_without_any_token_the_request_is_not_sent() {
    let source = source_fn(|_| async { Err(TokenError::api(40125, "invalid appsecret")) });
    let (inner, mut handle) = mock::pair::<Request<Full<Bytes>>, Response<Full<Bytes>>>();
    let service = WechatAuthLayer::new(TokenManager::new(source)).layer(inner);
    let error = service.oneshot(get(API)).await.unwrap_err();
    assert!(error.is_token());
    assert_eq!(error.kind(), ErrorKind::Token);
    assert_eq!(error.token_error().unwrap().errcode(), Some(40125));
    assert!(error.into_source().is::<TokenError>());
    // The service is dropped, and nothing was asked of it.
    assert!(handle.next_request().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn r7_busy_and_quota_are_handed_on_and_not_retried() {
    // trap 20: WxJava#2098, messages sent twice
    for body in [
        r#"{"errcode":-1,"errmsg":"system error"}"#,
        r#"{"errcode":45009,"errmsg":"reach max api daily quota limit"}"#,
        r#"{"errcode":48001,"errmsg":"api unauthorized"}"#,
    ] {
        let mut scene = with_token(|layer| layer).await;
        let call = tokio::spawn(scene.service.clone().oneshot(get(API)));
        scene.answer(body).await;
        let reply = call.await.unwrap().unwrap();
        assert_eq!(outcome(&reply).errcode(), None);
        assert_eq!(text(reply).await, body);
        assert_eq!(scene.issued(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn r7_a_transport_error_is_handed_on_whole_and_not_retried() {
    let mut scene = with_token(|layer| layer).await;
    let call = tokio::spawn(scene.service.clone().oneshot(get(API)));
    let (_, respond) = scene.handle.next_request().await.unwrap();
    respond.send_error(io::Error::from(io::ErrorKind::ConnectionReset));
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Service);
    assert_eq!(error.to_string(), "the call failed: connection reset");
    assert!(error.get_ref().is::<io::Error>());
    let source = error.into_source().downcast::<io::Error>().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
}

// R8: what the layer says it did.

#[tokio::test(start_paused = true)]
async fn r8_a_layer_with_nothing_to_do_leaves_the_outcome_of_one_inside() {
    // One client for an official account and a WeCom application: one layer acts, the other passes
    // on.
    let mut scene = with_token(|layer| layer).await;
    let wecom = WechatAuthLayer::new(numbered_tokens().0).platform(Platform::WeCom);
    for outside in [wecom.clone(), wecom.api_origin("https://api.weixin.qq.com")] {
        let call = tokio::spawn(outside.layer(scene.service.clone()).oneshot(get(API)));
        scene.answer(REJECTED).await;
        scene.answer(OK).await;
        let reply = call.await.unwrap().unwrap();
        assert_eq!(outcome(&reply).errcode(), Some(40001));
        assert!(outcome(&reply).replayed());
    }
}

#[tokio::test(start_paused = true)]
async fn r8_the_outcome_says_that_a_call_passed_and_why() {
    let (tokens, _) = numbered_tokens();
    let service = WechatAuthLayer::select(move |parts| {
        (parts.uri.path() != "/cgi-bin/nobodys").then(|| tokens.clone())
    })
    .layer(service_fn(|_: Request<Full<Bytes>>| {
        ready(Ok::<_, Infallible>(reply(OK)))
    }));
    for (uri, why) in [
        (API, None),
        ("https://example.com/", Some(PassedThrough::Elsewhere)),
        (
            "https://qyapi.weixin.qq.com/cgi-bin/user/get",
            Some(PassedThrough::OtherPlatform),
        ),
        (
            "http://api.weixin.qq.com/cgi-bin/user/get",
            Some(PassedThrough::WithoutTls),
        ),
        ("/sns/userinfo", Some(PassedThrough::OtherPath)),
        ("/cgi-bin/token", Some(PassedThrough::TokenRequest)),
        ("/cgi-bin/nobodys", Some(PassedThrough::NoAccount)),
    ] {
        let reply = service.clone().oneshot(get(uri)).await.unwrap();
        let outcome = outcome(&reply);
        assert_eq!(outcome.passed_through(), why, "{uri}");
        assert!(!outcome.replayed() && !outcome.answered() && outcome.errcode().is_none());
    }
    let request = Request::get(API).extension(SkipAuth);
    let request = request.body(Full::default()).unwrap();
    let reply = service.oneshot(request).await.unwrap();
    let why = outcome(&reply).passed_through();
    assert_eq!(why, Some(PassedThrough::Skipped));
}

#[tokio::test(start_paused = true)]
async fn r8_of_two_layers_the_one_that_acts_has_the_say() {
    let official = WechatAuthLayer::new(numbered_tokens().0);
    let wecom = WechatAuthLayer::new(numbered_tokens().0).platform(Platform::WeCom);
    let wechat = service_fn(|_: Request<Full<Bytes>>| ready(Ok::<_, Infallible>(reply(OK))));
    let service = official.layer(wecom.layer(wechat));
    for (uri, why) in [
        (API, None),
        ("https://qyapi.weixin.qq.com/cgi-bin/user/get", None),
        ("https://example.com/", Some(PassedThrough::Elsewhere)),
    ] {
        let reply = service.clone().oneshot(get(uri)).await.unwrap();
        assert_eq!(outcome(&reply).passed_through(), why, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn r8_a_reply_that_is_watched_is_not_read_ahead() {
    use http_body_util::BodyExt;
    use http_body_util::channel::Channel;

    let (mut sender, body) = Channel::<Bytes>::new(4);
    let body = Arc::new(Mutex::new(Some(body)));
    let (tokens, _) = numbered_tokens();
    let service = WechatAuthLayer::new(tokens).layer(service_fn(move |_: Request<Full<Bytes>>| {
        let body = body.lock().unwrap().take().unwrap();
        ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    // Nothing of the body is there yet, and it is handed on all the same.
    let reply = service.oneshot(get("http://unknown/cgi-bin/user/get"));
    let mut body = assert_ready!(task::spawn(reply).poll())
        .unwrap()
        .into_body();
    for frame in [r#"{"errcode":"#, "41001", "}", "more", ""] {
        sender.send_data(Bytes::from(frame)).await.unwrap();
        let got = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(got, frame);
    }
    drop(sender);
    assert!(body.frame().await.is_none());
}

// R9: an SDK's own token request.

const APPID: &str = "wx0123456789abcdef";
const STABLE_TOKEN: &str = "https://api.weixin.qq.com/cgi-bin/stable_token";

fn stable_token_of(appid: &str) -> String {
    format!(
        r#"{{"grant_type":"client_credential","appid":"{appid}","secret":"s","force_refresh":false}}"#
    )
}

#[tokio::test(start_paused = true)]
async fn r9_token_requests_are_answered_from_the_manager() {
    let mut scene = with_token(|layer| layer.answer_token_requests([APPID])).await;
    for request in [
        get(format!(
            "https://api.weixin.qq.com/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret=s"
        )),
        post(STABLE_TOKEN, stable_token_of(APPID)),
        post("//cgi-bin//stable_token", stable_token_of(APPID)),
    ] {
        let reply = scene.service.clone().oneshot(request).await.unwrap();
        assert!(outcome(&reply).answered());
        let fields: serde_json::Value = serde_json::from_str(&text(reply).await).unwrap();
        assert_eq!(fields["access_token"], "token-1");
        assert_eq!(fields["expires_in"], 7200);
    }
    // The next request that the service sees is an ordinary one.
    let call = tokio::spawn(scene.service.clone().oneshot(get(API)));
    assert_eq!(scene.answer(OK).await.as_deref(), Some("token-1"));
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn r9_a_refusal_is_answered_as_wechat_gave_it() {
    let source = source_fn(|_| async { Err(TokenError::api(40164, "invalid ip")) });
    let (inner, _handle) = mock::pair::<Request<Full<Bytes>>, Response<Full<Bytes>>>();
    let service = WechatAuthLayer::new(TokenManager::new(source))
        .answer_token_requests([APPID])
        .layer(inner);
    let request = get(format!(
        "https://api.weixin.qq.com/cgi-bin/token?appid={APPID}"
    ));
    let reply = service.oneshot(request).await.unwrap();
    let fields: serde_json::Value = serde_json::from_str(&text(reply).await).unwrap();
    assert_eq!(fields["errcode"], 40164);
}

#[tokio::test(start_paused = true)]
async fn r9_a_token_request_for_an_account_that_is_not_named_is_passed_on() {
    let mut scene = with_token(|layer| layer.answer_token_requests([APPID, "wx1"])).await;
    let token = "https://api.weixin.qq.com/cgi-bin/token";
    let large = format!(r#"{{"appid":"{APPID}","x":"{}"}}"#, "x".repeat(65 * 1024));
    for request in [
        get(format!(
            "{token}?grant_type=client_credential&appid=wxOTHER&secret=s"
        )),
        get(token),
        get(format!("{token}?appid={APPID}&appid=wxOTHER")),
        // It is named in the body there, and in the query here.
        get(format!("{STABLE_TOKEN}?appid={APPID}")),
        post(token, stable_token_of(APPID)),
        post(STABLE_TOKEN, stable_token_of("wxOTHER")),
        post(STABLE_TOKEN, ""),
        post(STABLE_TOKEN, "{}"),
        post(STABLE_TOKEN, &b"\xff\x00{"[..]),
        post(STABLE_TOKEN, stable_token_of(APPID)[..50].to_owned()),
        post(STABLE_TOKEN, large),
    ] {
        let (uri, body) = (request.uri().clone(), request.body().clone());
        let call = tokio::spawn(scene.service.clone().oneshot(request));
        let (request, respond) = scene.handle.next_request().await.unwrap();
        assert_eq!(request.uri(), &uri);
        let sent = text(Response::new(request.into_body())).await;
        assert_eq!(sent, text(Response::new(body)).await);
        respond.send_response(reply("{}"));
        let reply = call.await.unwrap().unwrap();
        let why = outcome(&reply).passed_through();
        assert_eq!(why, Some(PassedThrough::TokenRequest), "{uri}");
    }
    assert_eq!(scene.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn r9_of_a_companys_applications_the_secret_tells_which() {
    let account = AccountId::wecom("ww0", "secret");
    let layer = |layer: WechatAuthLayer| {
        let layer = layer.platform(Platform::WeCom);
        layer.answer_token_requests([account])
    };
    let mut scene = with_token(layer).await;
    let uri = |secret| {
        format!("https://qyapi.weixin.qq.com/cgi-bin/gettoken?corpid=ww0&corpsecret={secret}")
    };
    let reply = scene.service.clone().oneshot(get(uri("secret")));
    assert!(text(reply.await.unwrap()).await.contains("token-1"));
    let call = tokio::spawn(scene.service.clone().oneshot(get(uri("another"))));
    assert_eq!(scene.answer("theirs").await, None);
    assert_eq!(text(call.await.unwrap().unwrap()).await, "theirs");
}

#[tokio::test(start_paused = true)]
async fn r9_with_many_accounts_the_selector_says_whose_token() {
    let manager = |name: &'static str| {
        TokenManager::new(source_fn(move |_| async move {
            Ok(AccessToken::new(name, TWO_HOURS))
        }))
    };
    #[derive(Clone)]
    struct Account(&'static str);

    let (shop, news) = (manager("of-shop"), manager("of-news"));
    let service =
        WechatAuthLayer::select(move |parts| match parts.extensions.get::<Account>()?.0 {
            "wxshop" => Some(shop.clone()),
            "wxnews" => Some(news.clone()),
            _ => None,
        })
        .answer_token_requests(["wxshop", "wxnews", "wxgone"])
        .layer(service_fn(|_: Request<Full<Bytes>>| {
            ready(Ok::<_, Infallible>(reply("passed")))
        }));
    for (appid, expected) in [
        ("wxshop", "of-shop"),
        ("wxnews", "of-news"),
        ("wxgone", "passed"),
        ("wxother", "passed"),
    ] {
        let mut request = post(STABLE_TOKEN, stable_token_of(appid));
        request
            .extensions_mut()
            .insert(Account(appid.to_owned().leak()));
        let reply = service.clone().oneshot(request).await.unwrap();
        let told = text(reply).await;
        assert!(told.contains(expected), "{appid}: {told}");
    }
}

type Boxed = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;

/// A body whose frames come one by one, and who sends them.
fn streamed() -> (mpsc::UnboundedSender<io::Result<Bytes>>, Boxed) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let frames = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let frames = futures_util::StreamExt::map(frames, |data: io::Result<Bytes>| {
        data.map(http_body::Frame::data)
    });
    (sender, Boxed::new(http_body_util::StreamBody::new(frames)))
}

async fn with_boxed_bodies() -> (
    WechatAuth<Mock<Request<Boxed>, Response<Full<Bytes>>>>,
    Handle<Request<Boxed>, Response<Full<Bytes>>>,
) {
    let (tokens, _) = numbered_tokens();
    let (inner, handle) = mock::pair();
    let layer = WechatAuthLayer::new(tokens).answer_token_requests([APPID]);
    (layer.layer(inner), handle)
}

#[tokio::test(start_paused = true)]
async fn r9_a_streamed_body_is_read_till_it_names_the_account() {
    let (service, mut handle) = with_boxed_bodies().await;
    let (sender, body) = streamed();
    let request = Request::post(STABLE_TOKEN).body(body).unwrap();
    let mut call = task::spawn(service.oneshot(request));
    for byte in stable_token_of(APPID).bytes() {
        assert_pending!(call.poll());
        sender.send(Ok(Bytes::copy_from_slice(&[byte]))).unwrap();
    }
    // Its end need not come, and nothing was sent.
    let reply = call.await.unwrap();
    assert!(text(reply).await.contains("token-1"));
    drop(sender);
    assert!(handle.next_request().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn r9_a_streamed_body_of_another_account_is_sent_on_as_it_was() {
    use http_body::Body;
    use http_body_util::BodyExt;

    let whole = stable_token_of("wxOTHER");
    let garbled = &whole[..whole.len() - 1];
    for (whole, cut) in [
        (&*whole, 0),
        (&*whole, 1),
        (&*whole, whole.len() / 2),
        (&*whole, whole.len()),
        (garbled, 7),
        ("", 0),
    ] {
        let (service, mut handle) = with_boxed_bodies().await;
        let (sender, body) = streamed();
        let request = Request::post(STABLE_TOKEN).body(body).unwrap();
        let call = tokio::spawn(service.oneshot(request));
        let (one, two) = whole.split_at(cut);
        for part in [one, two] {
            let part = Bytes::copy_from_slice(part.as_bytes());
            sender.send(Ok(part)).unwrap();
            tokio::task::yield_now().await;
        }
        drop(sender);
        let (request, respond) = handle.next_request().await.unwrap();
        // Nobody knew its length before, and nobody does now.
        assert_eq!(request.body().size_hint().exact(), None, "{cut}");
        assert!(!request.body().is_end_stream(), "{cut}");
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(sent, whole, "{cut}");
        respond.send_response(reply("{}"));
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn r9_a_body_that_fails_while_it_is_read_fails_in_the_client() {
    use http_body_util::BodyExt;

    let (service, mut handle) = with_boxed_bodies().await;
    let (sender, body) = streamed();
    sender.send(Ok(Bytes::from(r#"{"appid":"#))).unwrap();
    sender.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
    let request = Request::post(STABLE_TOKEN).body(body).unwrap();
    let call = tokio::spawn(service.oneshot(request));
    let (request, respond) = handle.next_request().await.unwrap();
    let mut body = request.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, r#"{"appid":"#);
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    respond.send_error(io::Error::other("the body failed"));
    assert!(call.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn r9_of_an_endless_body_so_much_is_read_and_no_more() {
    use http_body_util::BodyExt;

    let (service, mut handle) = with_boxed_bodies().await;
    let (sender, body) = streamed();
    let request = Request::post(STABLE_TOKEN).body(body).unwrap();
    let call = tokio::spawn(service.oneshot(request));
    let mut sent = vec![b' '; 100];
    sender.send(Ok(Bytes::from(sent.clone()))).unwrap();
    for _ in 0..70 {
        let more = vec![b'\n'; 1024];
        sent.extend_from_slice(&more);
        sender.send(Ok(Bytes::from(more))).unwrap();
    }
    let (request, respond) = handle.next_request().await.unwrap();
    drop(sender);
    let got = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(got, sent);
    respond.send_response(reply("{}"));
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn r10_readiness_is_given_back_while_a_token_requests_body_is_read() {
    let (tokens, _) = numbered_tokens();
    let wechat = service_fn(|_: Request<Boxed>| ready(Ok::<_, Infallible>(reply("passed"))));
    let service = ServiceBuilder::new()
        .layer(WechatAuthLayer::new(tokens).answer_token_requests([APPID]))
        .concurrency_limit(1)
        .service(wechat);
    let (sender, body) = streamed();
    let request = Request::post(STABLE_TOKEN).body(body).unwrap();
    let mut asking = task::spawn(service.clone().oneshot(request));
    assert_pending!(asking.poll());
    // The one place is free.
    let request = Request::get(API).body(streamed().1).unwrap();
    let other = service.clone().oneshot(request);
    assert_eq!(text(other.await.unwrap()).await, "passed");
    // It waits for its place again.
    sender.send(Ok(Bytes::from("{}"))).unwrap();
    drop(sender);
    assert_eq!(text(asking.await.unwrap()).await, "passed");
}

#[tokio::test]
async fn r9_on_the_wire_a_passed_token_request_has_the_framing_that_it_had() {
    use axum::Router;
    use axum::http::HeaderMap;

    let (tell, mut told) = mpsc::unbounded_channel();
    let theirs = async move |headers: HeaderMap, body: Bytes| {
        tell.send((headers, body)).unwrap();
        "theirs"
    };
    let origin = serve(Router::new().fallback(theirs)).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<Boxed>();
    let layer = WechatAuthLayer::new(numbered_tokens().0).api_origin(&origin);
    let service = layer.answer_token_requests([APPID]).layer(client);
    let json = stable_token_of("wxOTHER");
    for streams in [false, true] {
        let body = match streams {
            true => {
                let (sender, body) = streamed();
                sender.send(Ok(json.clone().into())).unwrap();
                body
            }
            false => {
                use http_body_util::BodyExt;
                Boxed::new(Full::<Bytes>::from(json.clone()).map_err(|never| match never {}))
            }
        };
        let request = Request::post(format!("{origin}/cgi-bin/stable_token"));
        let reply = service.clone().oneshot(request.body(body).unwrap());
        assert_eq!(text(reply.await.unwrap()).await, "theirs");
        let (headers, body) = told.recv().await.unwrap();
        assert_eq!(body, json);
        assert_eq!(headers.contains_key("transfer-encoding"), streams);
        assert_eq!(headers.contains_key("content-length"), !streams);
    }
}

#[tokio::test(start_paused = true)]
async fn r9_is_off_by_default() {
    let mut scene = with_token(|layer| layer).await;
    let uri = "https://api.weixin.qq.com/cgi-bin/token?appid=a";
    let call = tokio::spawn(scene.service.clone().oneshot(get(uri)));
    assert_eq!(scene.answer("{}").await, None);
    call.await.unwrap().unwrap();
}

// R10: tower's rules.

#[tokio::test(start_paused = true)]
async fn r10_poll_ready_is_the_inner_ones() {
    let mut scene = with_token(|layer| layer).await;
    scene.handle.allow(0);
    let mut service = task::spawn(scene.service);
    let ready = |cx: &mut Context<'_>, service: &mut WechatAuth<MockService>| {
        Service::<Request<Full<Bytes>>>::poll_ready(service, cx)
    };
    assert_pending!(service.enter(|cx, mut service| ready(cx, &mut service)));
    scene.handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.enter(|cx, mut service| ready(cx, &mut service)));
}

#[tokio::test(start_paused = true)]
async fn r10_a_token_failure_does_not_come_out_of_poll_ready() {
    // trap 3: fatal to a Buffer, for every user
    let fail = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fail);
    let source = source_fn(move |_| {
        let fail = failing.load(Ordering::SeqCst);
        async move {
            match fail {
                true => Err(TokenError::other("not now")),
                false => Ok(AccessToken::new("token", TWO_HOURS)),
            }
        }
    });
    let service = ServiceBuilder::new()
        .buffer(4)
        .layer(WechatAuthLayer::new(TokenManager::new(source)))
        .service(service_fn(|_: Request<Full<Bytes>>| {
            ready(Ok::<_, Infallible>(reply(OK)))
        }));
    assert!(service.clone().oneshot(get(API)).await.is_err());
    fail.store(false, Ordering::SeqCst);
    assert_eq!(text(service.oneshot(get(API)).await.unwrap()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn r10_call_uses_the_service_that_was_made_ready_and_a_replay_waits_for_ready_again() {
    // trap 1: tower#547, tower-http#561; tower-resilience#362 before every replay. The mock panics
    // when it is called without being ready.
    let mut scene = with_token(|layer| layer).await;
    scene.handle.allow(1);
    let mut service = task::spawn(scene.service.clone());
    assert_ready_ok!(service.enter(|cx, mut service| {
        Service::<Request<Full<Bytes>>>::poll_ready(&mut *service, cx)
    }));
    let mut call = task::spawn(service.enter(|_, mut service| service.call(get(API))));
    assert_pending!(call.poll());
    scene.answer(REJECTED).await;
    // There is no place for the replay yet.
    for _ in 0..10 {
        assert_pending!(call.poll());
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.issued(), 2);
    scene.handle.allow(1);
    assert_pending!(call.poll());
    assert_eq!(scene.answer(OK).await.as_deref(), Some("token-2"));
    let reply = assert_ready!(call.poll()).unwrap();
    assert!(outcome(&reply).replayed());
}

#[tokio::test(start_paused = true)]
async fn r10_readiness_is_given_back_while_a_token_is_fetched_through_the_same_limited_service() {
    // trap 2: tower's AsyncFilter deadlocks with concurrency_limit(1)
    let (inner, mut handle) = mock::pair::<Request<Full<Bytes>>, Response<Full<Bytes>>>();
    let limited = ServiceBuilder::new().concurrency_limit(1).service(inner);
    let for_tokens = limited.clone();
    let source = source_fn(move |_| {
        let http = for_tokens.clone();
        async move {
            let request = get("https://api.weixin.qq.com/cgi-bin/token");
            let reply = http.oneshot(request).await.map_err(TokenError::transport)?;
            Ok(AccessToken::new(text(reply).await, TWO_HOURS))
        }
    });
    let service = WechatAuthLayer::new(TokenManager::new(source)).layer(limited);
    let call = tokio::spawn(service.oneshot(get(API)));
    for (answer, path, token) in [
        ("first", "/cgi-bin/token", None),
        (REJECTED, "/cgi-bin/user/get", Some("first")),
        ("second", "/cgi-bin/token", None),
        (OK, "/cgi-bin/user/get", Some("second")),
    ] {
        let (request, respond) = handle.next_request().await.expect("no deadlock");
        assert_eq!(request.uri().path(), path);
        assert_eq!(token_in(&request).as_deref(), token);
        respond.send_response(reply(answer));
    }
    assert_eq!(text(call.await.unwrap().unwrap()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn r10_it_works_inside_and_outside_a_buffer_and_a_concurrency_limit() {
    let (tokens, _) = numbered_tokens();
    let wechat = service_fn(|request: Request<Full<Bytes>>| {
        let good = token_in(&request).as_deref() == Some("token-2");
        ready(Ok::<_, Infallible>(reply(if good { OK } else { REJECTED })))
    });
    let service = ServiceBuilder::new()
        .buffer(2)
        .concurrency_limit(2)
        .layer(WechatAuthLayer::new(tokens))
        .buffer(1)
        .concurrency_limit(1)
        .service(wechat);
    let calls = (0..50).map(|_| tokio::spawn(service.clone().oneshot(get(API))));
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(text(call.await.unwrap().unwrap()).await, OK);
    }
}

#[tokio::test(start_paused = true)]
async fn r10_a_call_dropped_at_any_point_leaves_nothing_locked() {
    // The points: before the first poll, waiting for a token, for the reply, for another token,
    // for the replay's readiness, for its reply.
    for polls in 0..12 {
        let issued = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&issued);
        let source = source_fn(move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(AccessToken::new(format!("token-{number}"), TWO_HOURS))
            }
        });
        let wechat = service_fn(|request: Request<Full<Bytes>>| async move {
            let good = token_in(&request).as_deref() == Some("token-2");
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<_, Infallible>(reply(if good { OK } else { REJECTED }))
        });
        let service = ServiceBuilder::new()
            .layer(WechatAuthLayer::new(TokenManager::new(source)))
            .concurrency_limit(1)
            .service(wechat);
        let mut dropped = task::spawn(service.clone().oneshot(get(API)));
        for _ in 0..polls {
            if dropped.poll().is_ready() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(dropped);
        let reply = service.oneshot(get(API)).await.unwrap();
        assert_eq!(text(reply).await, OK, "after {polls} polls");
        assert_eq!(issued.load(Ordering::SeqCst), 2, "after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_never_ends_is_handed_on_at_its_first_frame() {
    use http_body_util::channel::Channel;

    let (mut sender, body) = Channel::<Bytes>::new(4);
    sender
        .send_data(Bytes::from_static(b"\xff\xd8"))
        .await
        .unwrap();
    let body = Arc::new(Mutex::new(Some(body)));
    let (tokens, _) = numbered_tokens();
    let service = WechatAuthLayer::new(tokens).layer(service_fn(move |_: Request<Full<Bytes>>| {
        let body = body.lock().unwrap().take().unwrap();
        ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    // `sender` lives: the reply has no end, and the future is ready all the same.
    let reply = service.oneshot(get(API)).await;
    assert!(reply.is_ok());
    drop(sender);
}

#[tokio::test(start_paused = true)]
async fn r3_a_reply_that_stalls_with_bytes_after_its_object_is_handed_on() {
    use http_body_util::channel::Channel;

    let (mut sender, body) = Channel::<Bytes>::new(4);
    for frame in [r#"{"type":"hello","x":[1,2,3,4,5"#, "]}\n{"] {
        sender.send_data(Bytes::from(frame)).await.unwrap();
    }
    let body = Arc::new(Mutex::new(Some(body)));
    let (tokens, _) = numbered_tokens();
    let service = WechatAuthLayer::new(tokens).layer(service_fn(move |_: Request<Full<Bytes>>| {
        let body = body.lock().unwrap().take().unwrap();
        ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    let reply = tokio::time::timeout(TWO_HOURS, service.oneshot(get(API))).await;
    assert!(reply.expect("handed on").is_ok());
    drop(sender);
}

#[tokio::test(start_paused = true)]
async fn r1_a_uri_too_long_for_a_token_is_refused_and_not_sent_with_anothers() {
    let long = source_fn(|_| async { Ok(AccessToken::new("x".repeat(512), TWO_HOURS)) });
    let tokens = TokenManager::new(long);
    let (inner, mut handle) = mock::pair::<Request<Full<Bytes>>, Response<Full<Bytes>>>();
    let service = WechatAuthLayer::new(tokens.clone()).layer(inner);
    let stale = format!("{API}?access_token=stale&q={}", "x".repeat(65_400));
    // Once the token has to be waited for, once it is there.
    for cached in [false, true] {
        assert_eq!(tokens.cached().is_some(), cached);
        let error = service.clone().oneshot(get(&stale)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UriTooLong);
        assert!(!error.is_token() && error.token_error().is_none());
        let told = told(&error) + &error.get_ref().to_string();
        assert!(
            told.contains("not sent") && told.contains("put less"),
            "{told}"
        );
        assert!(!told.contains("stale") && !told.contains("xxx"));
    }
    drop(service);
    assert!(handle.next_request().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn r5_a_new_token_that_does_not_fit_gives_the_caller_wechats_own_reply() {
    let source = source_fn(|rejected: Option<AccessToken>| async move {
        let length = if rejected.is_some() { 512 } else { 16 };
        Ok(AccessToken::new("x".repeat(length), TWO_HOURS))
    });
    let (inner, mut handle) = mock::pair::<Request<Full<Bytes>>, Response<Full<Bytes>>>();
    let service = WechatAuthLayer::new(TokenManager::new(source)).layer(inner);
    let uri = format!("{API}?q={}", "x".repeat(65_400));
    let call = tokio::spawn(service.oneshot(get(uri)));
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(reply(REJECTED));
    let reply = call.await.unwrap().unwrap();
    let outcome = outcome(&reply);
    assert!(outcome.refreshed() && !outcome.replayed());
    let why = outcome.not_replayed();
    assert!(matches!(why, Some(NotReplayed::UriTooLong)), "{why:?}");
    assert_eq!(text(reply).await, REJECTED);
    assert!(handle.next_request().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn select_gives_each_request_its_accounts_token() {
    #[derive(Clone)]
    struct Account(&'static str);

    let manager = |name: &'static str| {
        TokenManager::new(source_fn(move |_| async move {
            Ok(AccessToken::new(name, TWO_HOURS))
        }))
    };
    let (shop, news) = (manager("of-shop"), manager("of-news"));
    let service =
        WechatAuthLayer::select(move |parts| match parts.extensions.get::<Account>()?.0 {
            "shop" => Some(shop.clone()),
            "news" => Some(news.clone()),
            _ => None,
        })
        .layer(service_fn(|request: Request<Full<Bytes>>| {
            let token = token_in(&request).unwrap_or_default();
            ready(Ok::<_, Infallible>(reply(token)))
        }));
    for (account, token) in [("shop", "of-shop"), ("news", "of-news"), ("none", "")] {
        let request = Request::get(API)
            .extension(Account(account))
            .body(Full::default())
            .unwrap();
        let reply = service.clone().oneshot(request).await.unwrap();
        assert_eq!(text(reply).await, token);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unsupported_coding_passes_whatever_it_holds() {
    let mut scene = with_token(|layer| layer).await;
    let call = tokio::spawn(scene.service.clone().oneshot(get(API)));
    let (_, respond) = scene.handle.next_request().await.unwrap();
    let zstd = Response::builder()
        .header("content-encoding", "zstd")
        .body(Full::from(REJECTED))
        .unwrap();
    respond.send_response(zstd);
    let reply = call.await.unwrap().unwrap();
    assert_eq!(text(reply).await, REJECTED);
    assert_eq!(scene.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_gzipped_rejection_is_survived_and_the_caller_gets_gzip_as_it_came() {
    use std::io::Write;

    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        let body = Bytes::from(encoder.finish().unwrap());
        (body.clone(), move || {
            Response::builder()
                .header("content-encoding", "gzip")
                .body(Full::new(body.clone()))
                .unwrap()
        })
    };
    let (_, rejected) = gzip(REJECTED);
    let (bytes, well) = gzip(OK);
    let mut scene = with_token(|layer| layer).await;
    let call = tokio::spawn(scene.service.clone().oneshot(get(API)));
    let (_, respond) = scene.handle.next_request().await.unwrap();
    respond.send_response(rejected());
    let (request, respond) = scene.handle.next_request().await.unwrap();
    assert_eq!(token_in(&request).as_deref(), Some("token-2"));
    respond.send_response(well());
    let reply = call.await.unwrap().unwrap();
    use http_body_util::BodyExt;
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), bytes);
}

#[tokio::test(start_paused = true)]
async fn r10_a_drained_rejection_gives_its_place_in_the_client_back_before_the_refresh() {
    use tokio::sync::{OwnedSemaphorePermit, Semaphore};

    /// A reply that holds a place until its body is dropped.
    struct Placed(Full<Bytes>, #[expect(dead_code)] OwnedSemaphorePermit);

    impl http_body::Body for Placed {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            std::pin::Pin::new(&mut self.0).poll_frame(cx)
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_end_stream()
        }
    }

    let places = Arc::new(Semaphore::new(1));
    let tokens_places = Arc::clone(&places);
    let source = source_fn(move |rejected: Option<AccessToken>| {
        let places = Arc::clone(&tokens_places);
        async move {
            let _place = places.acquire().await.unwrap();
            let token = if rejected.is_some() { "new" } else { "old" };
            Ok(AccessToken::new(token, TWO_HOURS))
        }
    });
    let wechat = service_fn(move |request: Request<Full<Bytes>>| {
        let places = Arc::clone(&places);
        async move {
            let place = places.acquire_owned().await.unwrap();
            let good = token_in(&request).as_deref() == Some("new");
            let body = Full::from(if good { OK } else { REJECTED });
            Ok::<_, Infallible>(Response::new(Placed(body, place)))
        }
    });
    let service = WechatAuthLayer::new(TokenManager::new(source)).layer(wechat);
    let reply = service.oneshot(get(API)).await.unwrap();
    assert!(outcome(&reply).replayed());
}

#[tokio::test(start_paused = true)]
async fn r4_a_header_with_many_values_is_replayed() {
    let (tokens, _) = numbered_tokens();
    let service =
        WechatAuthLayer::new(tokens).layer(service_fn(|request: Request<Full<Bytes>>| {
            let values = request.headers().get_all("x-many").iter().count();
            let good = token_in(&request).as_deref() == Some("token-2");
            let body = if good {
                values.to_string()
            } else {
                REJECTED.to_owned()
            };
            ready(Ok::<_, Infallible>(reply(body)))
        }));
    let mut request = get(API);
    for _ in 0..30_000 {
        let value = HeaderValue::from_static("v");
        request.headers_mut().append("x-many", value);
    }
    assert_eq!(text(service.oneshot(request).await.unwrap()).await, "30000");
}

#[tokio::test(start_paused = true)]
async fn a_client_with_a_replay_body_serves_the_source_too() {
    // trap 16: two `Service` impls on one type would break this inference (reqwest#2395)
    type Body = tower_wechat::ReplayBody<Full<Bytes>>;

    let http = service_fn(|request: Request<Body>| {
        let asks = request.uri().path() == "/cgi-bin/token";
        let token = r#"{"access_token":"t","expires_in":7200}"#;
        ready(Ok::<_, Infallible>(reply(if asks { token } else { OK })))
    });
    let tokens = TokenManager::new(tower_wechat::ClientCredential::new(http, "a", "s"));
    let service = WechatAuthLayer::new(tokens).layer(http);
    let request = Request::get(API).body(Body::from(Bytes::new())).unwrap();
    assert_eq!(text(service.oneshot(request).await.unwrap()).await, OK);
}

#[test]
fn the_future_is_send_and_the_service_is_clone_send_and_sync() {
    fn is_send<T: Send>(_: &T) {}
    fn is_service<T: Clone + Send + Sync>(_: &T) {}
    let (tokens, _) = numbered_tokens();
    let mut service = WechatAuthLayer::new(tokens).layer(hyper());
    is_service(&service);
    is_send(&service.call(get("http://127.0.0.1:1/")));
}

#[tokio::test(start_paused = true)]
async fn a_manager_in_use_elsewhere_is_the_same_one() {
    let mut scene = with_token(|layer| layer).await;
    let token = scene.tokens.token().await.unwrap();
    scene.tokens.refresh(&token).await.unwrap();
    let call = tokio::spawn(scene.service.clone().oneshot(get(API)));
    assert_eq!(scene.answer(OK).await.as_deref(), Some("token-2"));
    call.await.unwrap().unwrap();
}

/// A service that is never ready keeps nobody's token request waiting.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_never_ready_holds_up_its_own_calls_only() {
    #[derive(Clone)]
    struct Never;

    impl Service<Request<Full<Bytes>>> for Never {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Pending<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            pending()
        }
    }

    let (tokens, _) = numbered_tokens();
    let service = WechatAuthLayer::new(tokens.clone()).layer(Never);
    let call = tokio::time::timeout(Duration::from_secs(1), service.oneshot(get(API)));
    assert!(call.await.is_err());
    assert_eq!(tokens.token().await.unwrap().secret(), "token-1");
}
