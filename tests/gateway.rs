//! The gateway, asked in process, with a WeChat made by hand and the time paused.

mod support;

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;
use support::*;
use tokio::time::{advance, sleep};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt, service_fn};
use tower_wechat::server::{Gateway, ServerBuilder};
use tower_wechat::{AuthOutcome, TokenError, TokenManager, source_fn};

const APPID: &str = "wx0123456789abcdef";
const SECRET: &str = "the-secret-of-crm-which-is-long";
const OTHER_SECRET: &str = "the-secret-of-shop-which-is-long";
/// What the gateway itself has to say.
const OF_THE_GATEWAY: i64 = 59_900_502;
const KEY: &str = "a key of the gateway's, of 32 bytes or more";

/// What WeChat got.
#[derive(Clone, Debug)]
struct Received {
    method: Method,
    uri: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Clone, Default)]
struct Wechat(Arc<Mutex<Vec<Received>>>);

impl Wechat {
    fn received(&self) -> Vec<Received> {
        self.0.lock().unwrap().clone()
    }

    /// Reads all of a call, and answers as `answer` says.
    fn answering(
        &self,
        answer: impl Fn(&Received) -> Response + Clone + Send + Sync + 'static,
    ) -> BoxCloneSyncService<Request, Response, axum::Error> {
        let wechat = self.clone();
        BoxCloneSyncService::new(service_fn(move |request: Request| {
            let (wechat, answer) = (wechat.clone(), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                let received = Received {
                    method: head.method,
                    uri: head.uri.to_string(),
                    headers: head.headers,
                    body: body.collect().await?.to_bytes(),
                };
                let reply = answer(&received);
                wechat.0.lock().unwrap().push(received);
                Ok(reply)
            }
        }))
    }
}

fn well(_: &Received) -> Response {
    Response::new(Body::from(OK))
}

/// Of `token-1`, and well with any other.
fn rejects_the_first(received: &Received) -> Response {
    let dead = received.uri.contains("access_token=token-1");
    Response::new(Body::from(if dead { REJECTED } else { OK }))
}

fn builder<S>(http: S) -> ServerBuilder<Gateway>
where
    S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
    S::Error: Into<tower::BoxError>,
    S::Future: Send + 'static,
{
    let (tokens, _) = numbered_tokens();
    Gateway::builder(http)
        .account(APPID, tokens)
        .client("crm", SECRET)
        .signing_key(KEY)
}

fn gateway() -> (Router, Wechat) {
    let wechat = Wechat::default();
    (builder(wechat.answering(well)).build().unwrap(), wechat)
}

async fn send(gateway: &Router, request: Request) -> Response {
    gateway.clone().oneshot(request).await.unwrap()
}

async fn read(reply: Response) -> Value {
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap_or(Value::Null)
}

async fn token_for(gateway: &Router, appid: &str, secret: &str) -> String {
    let uri = format!("/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={secret}");
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let given = read(send(gateway, request).await).await;
    given["access_token"]
        .as_str()
        .unwrap_or_else(|| panic!("{given}"))
        .to_owned()
}

async fn token(gateway: &Router) -> String {
    token_for(gateway, APPID, SECRET).await
}

fn call(token: &str) -> Request {
    let uri = format!("/cgi-bin/user/get?access_token={token}&next_openid=");
    Request::get(uri).body(Body::empty()).unwrap()
}

fn upload(token: &str, body: Body) -> Request {
    let uri = format!("/cgi-bin/media/upload?type=image&access_token={token}");
    Request::post(uri).body(body).unwrap()
}

async fn errcode(gateway: &Router, request: Request) -> i64 {
    read(send(gateway, request).await).await["errcode"]
        .as_i64()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_real_token_takes_the_place_of_the_clients_and_is_never_shown_to_it() {
    let (gateway, wechat) = gateway();
    let token = token(&gateway).await;
    assert!(!token.contains("token-1"));
    let reply = send(&gateway, call(&token)).await;
    assert_eq!(text(reply).await, OK);
    let uri = &wechat.received()[0].uri;
    let expected = "https://api.weixin.qq.com/cgi-bin/user/get?access_token=token-1&next_openid=";
    assert_eq!(uri, expected);
}

#[tokio::test(start_paused = true)]
async fn a_client_never_sees_a_token_die() {
    let wechat = Wechat::default();
    let gateway = builder(wechat.answering(rejects_the_first))
        .build()
        .unwrap();
    let token = token(&gateway).await;
    let body = Bytes::from_static(b"a picture");
    let reply = send(&gateway, upload(&token, Body::from(body.clone()))).await;
    assert!(reply.extensions().get::<AuthOutcome>().unwrap().replayed());
    assert_eq!(text(reply).await, OK);
    let received = wechat.received();
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|received| received.body == body));
    assert!(received[1].uri.contains("access_token=token-2"));
    // And the client's own token goes on.
    assert_eq!(text(send(&gateway, call(&token)).await).await, OK);
}

#[tokio::test(start_paused = true)]
async fn gateways_with_one_key_take_each_others_tokens_and_others_do_not() {
    let (one, _) = gateway();
    let (same, _) = gateway();
    let other = builder(Wechat::default().answering(well));
    let other = other.signing_key([7; 32]);
    let rotated = builder(Wechat::default().answering(well));
    let rotated = rotated.signing_key([7; 32]).former_signing_key(KEY);

    let token = token(&one).await;
    assert_eq!(errcode(&same, call(&token)).await, 0);
    assert_eq!(errcode(&other.build().unwrap(), call(&token)).await, 40001);
    assert_eq!(errcode(&rotated.build().unwrap(), call(&token)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_key_each_gateway_has_its_own() {
    let gateway = || {
        let (tokens, _) = numbered_tokens();
        let builder = Gateway::builder(Wechat::default().answering(well));
        builder
            .account(APPID, tokens)
            .client("crm", SECRET)
            .build()
            .unwrap()
    };
    let (one, other) = (gateway(), gateway());
    let token = token(&one).await;
    assert_eq!(errcode(&one, call(&token)).await, 0);
    assert_eq!(errcode(&other, call(&token)).await, 40001);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_bound_to_its_client_and_its_account() {
    let wechat = Wechat::default();
    let two_accounts = || {
        let (tokens, _) = numbered_tokens();
        builder(wechat.answering(well)).account("wx2", tokens)
    };
    let gateway = two_accounts().client("shop", OTHER_SECRET).build().unwrap();
    let of_shop = token_for(&gateway, "wx2", OTHER_SECRET).await;
    assert_eq!(errcode(&gateway, call(&of_shop)).await, 0);

    // The client is not there any more, has another secret, or may not use the account now.
    let gone = two_accounts().build().unwrap();
    let changed = two_accounts()
        .client("shop", "another-secret-of-the-shops")
        .build()
        .unwrap();
    let limited = two_accounts()
        .client_for("shop", OTHER_SECRET, [APPID])
        .build()
        .unwrap();
    let no_account = builder(wechat.answering(well))
        .client("shop", OTHER_SECRET)
        .build()
        .unwrap();
    for gateway in [gone, changed, limited, no_account] {
        assert_eq!(errcode(&gateway, call(&of_shop)).await, 40001);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_good_token_is_told_as_wechat_tells_it_and_not_passed_on() {
    let (gateway, wechat) = gateway();
    let token = token(&gateway).await;
    let get = |uri: &str| Request::get(uri).body(Body::empty()).unwrap();
    let forged = format!("{}{}", &token[..token.len() - 2], "AA");
    let twice = format!("/cgi-bin/user/get?access_token={token}&a%63cess_token={token}A");
    for (request, expected) in [
        (get("/cgi-bin/user/get"), 41001),
        (get("/cgi-bin/user/get?access_token="), 41001),
        (call("token-1"), 40001),
        (call(&forged), 40001),
        (call(&token.to_lowercase()), 40001),
        (call(&format!("{token}=")), 40001),
        (call("%00%ff"), 40001),
        (get(&twice), 40001),
    ] {
        let uri = request.uri().to_string();
        let reply = send(&gateway, request).await;
        assert_eq!(reply.status(), StatusCode::OK, "{uri}");
        assert_eq!(read(reply).await["errcode"], expected, "{uri}");
    }
    assert!(wechat.received().is_empty());
}

/// By the wall clock, on which gateways agree: it takes two seconds.
#[tokio::test]
async fn an_expired_token_is_told_as_expired() {
    let gateway = builder(Wechat::default().answering(well)).token_life(Duration::from_secs(1));
    let gateway = gateway.build().unwrap();
    let token = token(&gateway).await;
    let told = loop {
        match errcode(&gateway, call(&token)).await {
            0 => sleep(Duration::from_millis(50)).await,
            told => break told,
        }
    };
    assert_eq!(told, 42001);
}

#[tokio::test(start_paused = true)]
async fn only_listed_paths_of_one_host_can_be_reached() {
    let (gateway, wechat) = gateway();
    let token = token(&gateway).await;
    let cases = [
        ("/sns/userinfo", StatusCode::OK),
        ("/cgi-bin/component/api_query_auth", StatusCode::OK),
        ("/elsewhere", StatusCode::NOT_FOUND),
        ("/cgi-bin/%2e%2e/sns/userinfo", StatusCode::BAD_REQUEST),
        ("/cgi-bin/..%2fsns/userinfo", StatusCode::BAD_REQUEST),
        ("http://10.0.0.1/cgi-bin/user/get", StatusCode::BAD_REQUEST),
        (
            "https://api.weixin.qq.com/cgi-bin/user/get",
            StatusCode::BAD_REQUEST,
        ),
    ];
    for (uri, status) in cases {
        let request = Request::get(format!("{uri}?access_token={token}"));
        let reply = send(&gateway, request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.status(), status, "{uri}");
        assert_eq!(read(reply).await["errcode"], 48001, "{uri}");
    }
    let connect = Request::connect("10.0.0.1:80").body(Body::empty()).unwrap();
    assert_eq!(
        send(&gateway, connect).await.status(),
        StatusCode::BAD_REQUEST
    );
    assert!(wechat.received().is_empty());

    // What a client calls the host has no part in it.
    let mut request = call(&token);
    request
        .headers_mut()
        .insert(header::HOST, "10.0.0.1".parse().unwrap());
    assert_eq!(errcode(&gateway, request).await, 0);
    let over_http_2 = Request::get(format!(
        "http://10.0.0.1/cgi-bin/user/get?access_token={token}"
    ));
    let over_http_2 = over_http_2
        .version(Version::HTTP_2)
        .body(Body::empty())
        .unwrap();
    assert_eq!(errcode(&gateway, over_http_2).await, 0);
    for received in wechat.received() {
        assert!(
            received
                .uri
                .starts_with("https://api.weixin.qq.com/cgi-bin/user/get?")
        );
        assert!(!received.headers.contains_key(header::HOST));
    }
}

#[tokio::test(start_paused = true)]
async fn an_allow_list_of_ones_own_takes_the_place_of_the_usual_one() {
    let gateway = builder(Wechat::default().answering(well)).paths(["/cgi-bin/message/"]);
    let gateway = gateway.build().unwrap();
    let token = token(&gateway).await;
    let reply = send(&gateway, call(&token)).await;
    assert_eq!(reply.status(), StatusCode::OK);
    let told = read(reply).await;
    assert_eq!(told["errcode"], 48001);
    assert!(
        told["errmsg"]
            .as_str()
            .unwrap()
            .contains("does not list it"),
        "{told}"
    );
    let uri = format!("/cgi-bin/message/custom/send?access_token={token}");
    let listed = Request::post(uri).body(Body::from("{}")).unwrap();
    assert_eq!(errcode(&gateway, listed).await, 0);
}

#[tokio::test(start_paused = true)]
async fn headers_of_the_connection_and_of_the_client_stay_at_the_gateway() {
    let wechat = Wechat::default();
    let answer = |_: &Received| {
        let reply = Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header("connection", "x-once")
            .header("x-once", "1")
            .header("keep-alive", "timeout=5")
            .header("transfer-encoding", "chunked")
            .header("content-disposition", "attachment");
        reply.body(Body::from("x")).unwrap()
    };
    let gateway = builder(wechat.answering(answer)).build().unwrap();
    let mut request = upload(&token(&gateway).await, Body::from("1234"));
    for (name, value) in [
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "1"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("accept-encoding", "gzip"),
        ("x-forwarded-for", "10.0.0.1"),
        ("content-length", "4"),
        ("content-type", "image/png"),
        ("user-agent", "an SDK"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let reply = send(&gateway, request).await;
    assert_eq!(reply.status(), StatusCode::PARTIAL_CONTENT);
    let mut names: Vec<_> = reply.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-disposition"]);

    let received = &wechat.received()[0];
    assert_eq!(received.body, "1234");
    let mut names: Vec<_> = received.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "user-agent"]);
}

#[tokio::test(start_paused = true)]
async fn a_redirect_tells_no_real_token() {
    let redirects = [
        (
            "https://api.weixin.qq.com/cgi-bin/a?access_token=token-1&b",
            Some("/cgi-bin/a?access_token=MINE&b"),
        ),
        (
            "/cgi-bin/a?access_token=token-1",
            Some("/cgi-bin/a?access_token=MINE"),
        ),
        ("/cgi-bin/a", Some("/cgi-bin/a")),
        (
            "/cgi-bin/a?access_token=token-1&to=https://h/",
            Some("/cgi-bin/a?access_token=MINE&to=https://h/"),
        ),
        ("https://elsewhere.example/a?access_token=token-1", None),
        (
            "//api.weixin.qq.com/a?access_token=token-1",
            Some("/a?access_token=MINE"),
        ),
        (
            "https://API.weixin.qq.com:443/a?access_token=token-1",
            Some("/a?access_token=MINE"),
        ),
        // Another origin.
        ("http://api.weixin.qq.com/a?access_token=token-1", None),
        (
            "menu/get?access_token=token-1",
            Some("menu/get?access_token=MINE"),
        ),
        (
            "https://elsewhere.example/a?b=c",
            Some("https://elsewhere.example/a?b=c"),
        ),
        ("https://elsewhere.example/?back=token-1", None),
        ("a b token-1", Some("a%20b%20MINE")),
    ];
    for (location, expected) in redirects {
        let answer = move |_: &Received| {
            let reply = Response::builder()
                .status(302)
                .header(header::LOCATION, location);
            reply.body(Body::empty()).unwrap()
        };
        let gateway = builder(Wechat::default().answering(answer))
            .build()
            .unwrap();
        let token = token(&gateway).await;
        let reply = send(&gateway, call(&token)).await;
        assert_eq!(reply.status(), StatusCode::FOUND);
        let told = reply
            .headers()
            .get(header::LOCATION)
            .map(|value| value.to_str().unwrap());
        let expected = expected.map(|text| text.replace("MINE", &token));
        assert_eq!(told.map(str::to_owned), expected, "{location}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_header_tells_the_token_that_a_call_was_sent_with_also_when_it_is_not_the_current_one_any_more()
 {
    let (tokens, _) = numbered_tokens();
    let renewing = tokens.clone();
    let http = service_fn(move |_: Request| {
        let tokens = renewing.clone();
        async move {
            tokens
                .refresh(&tokens.token().await.unwrap())
                .await
                .unwrap();
            let reply = Response::builder()
                .header("content-location", "/cgi-bin/a?access_token=token-1")
                .header("link", "<https://h/?back=token-1>")
                .header("location", "https://elsewhere.example/?back=token-1")
                .header("set-cookie", "a=b")
                .header("x-other", "1");
            Ok::<_, Infallible>(reply.body(Body::from(OK)).unwrap())
        }
    });
    let gateway = Gateway::builder(http)
        .account(APPID, tokens)
        .client("crm", SECRET)
        .signing_key(KEY);
    let gateway = gateway.build().unwrap();
    let reply = send(&gateway, call(&token(&gateway).await)).await;
    let names: Vec<_> = reply.headers().keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["x-other"]);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_stands_is_no_word_about_the_clients_token() {
    let rejects = |_: &Received| Response::new(Body::from(REJECTED));
    let gateway = builder(Wechat::default().answering(rejects))
        .build()
        .unwrap();
    let token = token(&gateway).await;
    let told = read(send(&gateway, call(&token)).await).await;
    assert_eq!(told["errcode"], OF_THE_GATEWAY);
    let errmsg = told["errmsg"].as_str().unwrap();
    assert!(
        errmsg.contains("40001") && errmsg.contains("rid: 66f0-1a2b-3c4d"),
        "{errmsg}"
    );

    // Nor one to a call that cannot be sent again.
    let gateway = builder(Wechat::default().answering(rejects_the_first)).replay_limit(1024);
    let gateway = gateway.build().unwrap();
    let token = self::token(&gateway).await;
    let two_pieces = || {
        stream::unfold(0, |number| async move {
            sleep(Duration::from_millis(1)).await;
            let piece = Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1024]));
            (number < 2).then_some((piece, number + 1))
        })
    };
    for expected in [-1, 0] {
        let body = OfLength(2048, Body::from_stream(two_pieces()));
        let call = upload(&token, Body::new(body));
        assert_eq!(errcode(&gateway, call).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_calls_are_always_rejected_does_not_use_up_the_refreshes_of_others() {
    // WeChat takes an `access_token` in the body for the call's.
    let answer = |received: &Received| {
        let dead = received.body.starts_with(b"access_token=");
        let dead = dead || received.uri.contains("access_token=token-5");
        Response::new(Body::from(if dead { REJECTED } else { OK }))
    };
    let gateway = builder(Wechat::default().answering(answer)).client("shop", OTHER_SECRET);
    let gateway = gateway.build().unwrap();
    let of_crm = token(&gateway).await;
    for _ in 0..20 {
        let body = Body::from("access_token=x");
        assert_eq!(
            errcode(&gateway, upload(&of_crm, body)).await,
            OF_THE_GATEWAY
        );
    }
    // Four times a new one was fetched, and that one is dead now.
    let of_shop = token_for(&gateway, APPID, OTHER_SECRET).await;
    assert_eq!(errcode(&gateway, call(&of_shop)).await, 0);
    // And a client that is not believed has the new one all the same.
    assert_eq!(errcode(&gateway, call(&of_crm)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_tells_earlier_ones_is_never_passed_on() {
    let wechat = Wechat::default();
    let gateway = builder(wechat.answering(well)).paths(["/cgi-bin/openapi/rid/get", "/cgi-bin/"]);
    let gateway = gateway.build().unwrap();
    let token = token(&gateway).await;
    for path in [
        "/cgi-bin/openapi/rid/get",
        "/cgi-bin/openapi/rid/get/",
        "//cgi-bin/openapi/RID/get",
    ] {
        let request = Request::post(format!("{path}?access_token={token}"));
        let reply = send(&gateway, request.body(Body::from("{}")).unwrap()).await;
        assert_eq!(reply.status(), StatusCode::OK, "{path}");
        assert_eq!(read(reply).await["errcode"], 48001, "{path}");
    }
    assert!(wechat.received().is_empty());
}

#[tokio::test(start_paused = true)]
async fn s1_a_wrong_secret_of_the_accounts_is_no_word_about_the_clients_and_the_call_is_not_sent() {
    let source = source_fn(|_| async { Err(TokenError::api(40125, "invalid appsecret")) });
    let wechat = Wechat::default();
    let gateway = Gateway::builder(wechat.answering(well))
        .account(APPID, TokenManager::new(source))
        .client("crm", SECRET);
    let gateway = gateway.build().unwrap();
    let token = token(&gateway).await;
    let told = read(send(&gateway, call(&token)).await).await;
    assert_eq!(told["errcode"], OF_THE_GATEWAY);
    let errmsg = told["errmsg"].as_str().unwrap();
    assert!(
        errmsg.contains("40125") && errmsg.contains("not sent"),
        "{told}"
    );
    assert!(wechat.received().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wechat_out_of_reach_is_a_bad_gateway_and_any_other_failure_may_have_been_a_call() {
    for (kind, status, errcode, said) in [
        (std::io::ErrorKind::ConnectionRefused, 502, -1, "not sent"),
        (
            std::io::ErrorKind::ConnectionReset,
            200,
            OF_THE_GATEWAY,
            "may have acted",
        ),
        (
            std::io::ErrorKind::Other,
            200,
            OF_THE_GATEWAY,
            "may have acted",
        ),
    ] {
        let http = service_fn(move |request: Request| async move {
            let url = format!("cannot reach {}", request.uri());
            Err::<Response, _>(std::io::Error::new(kind, url))
        });
        let gateway = builder(http).build().unwrap();
        let token = token(&gateway).await;
        let reply = send(&gateway, call(&token)).await;
        assert_eq!(reply.status(), status);
        let told = text(reply).await;
        assert!(told.contains(&format!(r#""errcode":{errcode}"#)), "{told}");
        assert!(told.contains(said), "{told}");
        assert!(
            !told.contains("token-1") && !told.contains("weixin"),
            "{told}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_wechat_that_does_not_answer_is_given_up_after_the_timeout_and_may_have_acted() {
    let http = service_fn(|_: Request| pending::<Result<Response, Infallible>>());
    let gateway = builder(http)
        .timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let token = token(&gateway).await;
    let begun = tokio::time::Instant::now();
    let reply = send(&gateway, call(&token)).await;
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(reply.status(), StatusCode::OK);
    let told = read(reply).await;
    assert_eq!(told["errcode"], OF_THE_GATEWAY);
    assert!(
        told["errmsg"].as_str().unwrap().contains("may have acted"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_not_sent_for_want_of_a_token_may_be_sent_again() {
    let source = source_fn(|_| pending::<Result<tower_wechat::AccessToken, TokenError>>());
    let wechat = Wechat::default();
    let gateway = Gateway::builder(wechat.answering(well))
        .account(APPID, TokenManager::new(source))
        .client("crm", SECRET)
        .timeout(Duration::from_secs(5));
    let gateway = gateway.build().unwrap();
    let token = token(&gateway).await;
    let reply = send(&gateway, call(&token)).await;
    assert_eq!(reply.status(), StatusCode::GATEWAY_TIMEOUT);
    let told = read(reply).await;
    assert_eq!(told["errcode"], -1);
    assert!(
        told["errmsg"].as_str().unwrap().contains("not sent"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn too_many_calls_at_a_time_are_refused_at_once_and_token_requests_go_on() {
    let http = service_fn(|_: Request| async {
        sleep(Duration::from_secs(1)).await;
        Ok::<_, Infallible>(Response::new(Body::from(OK)))
    });
    let gateway = builder(http).concurrency_limit(2).build().unwrap();
    let held = token(&gateway).await;
    let under_way = [0, 1].map(|_| tokio::spawn(gateway.clone().oneshot(call(&held))));
    sleep(Duration::from_millis(100)).await;
    let reply = send(&gateway, call(&held)).await;
    assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(read(reply).await["errcode"], -1);
    token(&gateway).await;
    for reply in under_way {
        assert_eq!(reply.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(errcode(&gateway, call(&held)).await, 0);
}

/// A reply that begins, and stops there.
async fn never_ending(_: Request) -> Result<Response, Infallible> {
    let begun = stream::iter([Ok::<_, Infallible>(Bytes::from("a picture"))]);
    let body = Body::from_stream(futures_util::StreamExt::chain(begun, stream::pending()));
    let reply = Response::builder().header("content-type", "image/png");
    Ok(reply.body(body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn one_client_gets_no_more_than_half_of_the_places_and_a_reply_keeps_its_own() {
    let gateway = builder(service_fn(never_ending))
        .client("shop", OTHER_SECRET)
        .concurrency_limit(4);
    let gateway = gateway.build().unwrap();
    let (of_crm, of_shop) = (
        token(&gateway).await,
        token_for(&gateway, APPID, OTHER_SECRET).await,
    );
    let mut held = Vec::new();
    for token in [&of_crm, &of_shop] {
        for _ in 0..2 {
            let reply = send(&gateway, call(token)).await;
            assert_eq!(reply.status(), StatusCode::OK);
            held.push(reply);
        }
        assert_eq!(
            send(&gateway, call(token)).await.status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    drop(held);
    assert_eq!(send(&gateway, call(&of_crm)).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_stops_coming_ends() {
    let gateway = builder(service_fn(never_ending))
        .body_pause(Duration::from_secs(3))
        .build()
        .unwrap();
    let reply = send(&gateway, call(&token(&gateway).await)).await;
    let begun = tokio::time::Instant::now();
    assert!(reply.into_body().collect().await.is_err());
    assert_eq!(begun.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_waits_for_the_gateway_has_not_paused() {
    // The first token takes longer than a body may pause, and the body is there in time.
    let source = source_fn(|_| async {
        sleep(Duration::from_secs(8)).await;
        Ok(tower_wechat::AccessToken::new("token", TWO_HOURS))
    });
    let gateway = Gateway::builder(Wechat::default().answering(well))
        .account(APPID, TokenManager::new(source))
        .client("crm", SECRET)
        .body_pause(Duration::from_secs(3));
    let gateway = gateway.build().unwrap();
    let token = token(&gateway).await;
    let slow = stream::unfold(0, |number| async move {
        sleep(Duration::from_secs(1)).await;
        (number < 3).then(|| (Ok::<_, Infallible>(Bytes::from("x")), number + 1))
    });
    assert_eq!(
        errcode(&gateway, upload(&token, Body::from_stream(slow))).await,
        0
    );
}

/// A body that comes in pieces of 1 KiB.
fn pieces(number: usize) -> Body {
    let piece = || Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1024]));
    Body::from_stream(stream::iter((0..number).map(move |_| piece())))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let wechat = Wechat::default();
    let gateway = builder(wechat.answering(well))
        .body_limit(4096)
        .build()
        .unwrap();
    let token = token(&gateway).await;
    let mut told_before = upload(&token, pieces(5));
    told_before
        .headers_mut()
        .insert(header::CONTENT_LENGTH, 5120.into());
    let reply = send(&gateway, told_before).await;
    assert_eq!(reply.status(), StatusCode::PAYLOAD_TOO_LARGE);

    let reply = send(&gateway, upload(&token, pieces(5))).await;
    assert_eq!(reply.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(read(reply).await["errcode"], 45001);
    assert!(wechat.received().is_empty());

    assert_eq!(errcode(&gateway, upload(&token, pieces(4))).await, 0);
    assert_eq!(wechat.received()[0].body.len(), 4096);
}

/// Pieces of 1 KiB, and then nothing more for ever.
fn stopping(number: usize) -> Body {
    Body::new(StreamBody::new(
        stream::iter(0..number)
            .map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; 1024]))))
            .chain(stream::pending()),
    ))
}

#[tokio::test(start_paused = true)]
async fn s7_past_the_budget_chunks_are_refused_as_busy_and_a_body_of_known_length_passes() {
    let wechat = Wechat::default();
    let gateway = builder(wechat.answering(well))
        .client("shop", OTHER_SECRET)
        .replay_limit(1 << 20)
        .replay_budget(4 << 20);
    let gateway = gateway.build().unwrap();
    let (of_crm, of_shop) = (
        token(&gateway).await,
        token_for(&gateway, APPID, OTHER_SECRET).await,
    );
    // A client's share is 2 MiB, and 1.5 of it are for uploads: room for one in chunks at a time.
    let held = upload(&of_crm, stopping(500));
    let held = tokio::spawn(gateway.clone().oneshot(held));
    sleep(Duration::from_millis(1)).await;
    let asked = tokio::time::Instant::now();
    let reply = send(&gateway, upload(&of_crm, pieces(200))).await;
    assert_eq!(asked.elapsed().as_secs(), 10);
    assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(read(reply).await["errcode"], -1);
    assert!(wechat.received().is_empty(), "it was not sent");

    // A message in chunks, an upload of known length, and an upload of another client's.
    assert_eq!(errcode(&gateway, upload(&of_crm, pieces(10))).await, 0);
    let told = Body::new(OfLength(200 << 10, pieces(200)));
    assert_eq!(errcode(&gateway, upload(&of_crm, told)).await, 0);
    assert_eq!(errcode(&gateway, upload(&of_shop, pieces(200))).await, 0);

    held.abort();
    let _ = held.await;
    assert_eq!(errcode(&gateway, upload(&of_crm, pieces(200))).await, 0);
}

#[tokio::test(start_paused = true)]
async fn s7_past_the_budget_a_rejected_call_of_known_length_is_not_sent_again() {
    let wechat = Wechat::default();
    let gateway = builder(wechat.answering(rejects_the_first)).replay_budget(1 << 20);
    let gateway = gateway.build().unwrap();
    let token = token(&gateway).await;
    let late = stream::once(sleep(Duration::from_millis(1)))
        .map(|()| Ok::<_, Infallible>(Bytes::from(vec![0; 800 << 10])));
    let told = Body::new(OfLength(800 << 10, Body::from_stream(late)));
    let told = read(send(&gateway, upload(&token, told)).await).await;
    assert_eq!(told["errcode"], -1);
    assert!(
        told["errmsg"]
            .as_str()
            .unwrap()
            .contains("too large to be sent again"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_given_up() {
    let gateway = builder(Wechat::default().answering(well)).body_pause(Duration::from_secs(3));
    let gateway = gateway.build().unwrap();
    let token = token(&gateway).await;
    let started = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from("x")))]);
    let stopped = StreamBody::new(started.chain(stream::pending()));
    let reply = send(&gateway, upload(&token, Body::new(stopped))).await;
    assert_eq!(reply.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(read(reply).await["errcode"], 44002);
}

#[tokio::test(start_paused = true)]
async fn headers_that_are_too_large_are_refused() {
    let gateway = builder(Wechat::default().answering(well))
        .header_limit(1024)
        .build()
        .unwrap();
    let token = token(&gateway).await;
    let mut request = call(&token);
    request
        .headers_mut()
        .insert("x-large", "x".repeat(1024).parse().unwrap());
    let reply = send(&gateway, request).await;
    assert_eq!(reply.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

/// A body that says how long it is: a server's does if there was a Content-Length.
struct OfLength<B>(u64, B);

impl<B: http_body::Body + Unpin> http_body::Body for OfLength<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.1).poll_frame(cx)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_flow_in_both_directions_as_they_come() {
    // A WeChat that sends back each piece of a call at once.
    let http = service_fn(|request: Request| async move {
        let reply = Response::builder().header("content-type", "image/png");
        Ok::<_, Infallible>(reply.body(request.into_body()).unwrap())
    });
    let gateway = builder(http).build().unwrap();
    let token = token(&gateway).await;
    let (mut pieces, body) = http_body_util::channel::Channel::<Bytes, Infallible>::new(1);
    let body = OfLength(13, body);
    // The layer looks at the first piece of a reply before it hands it on.
    pieces.send_data(Bytes::from("picture")).await.unwrap();
    let reply = send(&gateway, upload(&token, Body::new(body))).await;
    let mut replied = reply.into_body();
    assert_eq!(
        replied.frame().await.unwrap().unwrap().into_data().unwrap(),
        "picture"
    );
    for piece in ["one", "two"] {
        pieces.send_data(Bytes::from(piece)).await.unwrap();
        let frame = replied.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(pieces);
    assert!(replied.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_get_has_no_body_and_head_is_passed_on() {
    let wechat = Wechat::default();
    let http = wechat.answering(well).map_request(|request: Request| {
        // What makes an HTTP/1 client send neither a length nor chunks.
        assert!(http_body::Body::is_end_stream(request.body()));
        request
    });
    let gateway = builder(http).build().unwrap();
    let token = token(&gateway).await;
    assert_eq!(errcode(&gateway, call(&token)).await, 0);
    let mut head = call(&token);
    *head.method_mut() = Method::HEAD;
    assert_eq!(send(&gateway, head).await.status(), StatusCode::OK);
    assert_eq!(wechat.received()[1].method, Method::HEAD);
}

#[tokio::test(start_paused = true)]
async fn a_force_gets_another_token_of_the_gateways_and_refreshes_nothing() {
    let (tokens, issued) = numbered_tokens();
    let gateway = Gateway::builder(Wechat::default().answering(well))
        .account(APPID, tokens)
        .client("crm", SECRET);
    let gateway = gateway.build().unwrap();
    sleep(Duration::from_millis(1)).await;
    advance(Duration::from_secs(100)).await;
    let body = format!(
        r#"{{"grant_type":"client_credential","appid":"{APPID}","secret":"{SECRET}","force_refresh":true,"rejected_token":"token-1"}}"#
    );
    let request = Request::post("/cgi-bin/stable_token")
        .body(Body::from(body))
        .unwrap();
    let given = read(send(&gateway, request).await).await;
    let token = given["access_token"].as_str().unwrap();
    assert_eq!(errcode(&gateway, call(token)).await, 0);
    assert_eq!(issued.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_mistake_in_the_setup_is_one_sentence() {
    let new = || builder(Wechat::default().answering(well));
    for (builder, what) in [
        (new().signing_key("short"), "32 bytes at least"),
        (new().former_signing_key("short"), "32 bytes at least"),
        (new().upstream("api.weixin.qq.com"), "the upstream is"),
        (
            new().upstream("https://api.weixin.qq.com/cgi-bin"),
            "the upstream is",
        ),
        (new().paths(["/cgi-bin/../"]), "the path"),
        (new().token_life(Duration::ZERO), "1 s to 30 days"),
        (new().token_life(Duration::MAX), "1 s to 30 days"),
        (new().concurrency_limit(0), "a concurrency limit of 0"),
    ] {
        let told = format!("{builder:?}");
        assert!(
            !told.contains(SECRET) && !told.contains(KEY) && !told.contains("short"),
            "{told}"
        );
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
