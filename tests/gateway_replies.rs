//! What a gateway says, in process and with the time paused: redirects, errcodes, and what stands
//! in the log.

mod support;

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::Value;
use support::*;
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn};
use tower_wechat::server::{Gateway, ServerBuilder};
use tower_wechat::{AccessToken, TokenError, TokenManager, source_fn};

const APPID: &str = "wx0123456789abcdef";
const SECRET: &str = "the-secret-of-crm-which-is-long";
/// What the gateway itself has to say.
const OF_THE_GATEWAY: i64 = 59_900_502;

/// A gateway in front of a WeChat that gives `answer` to everything.
fn answering(
    answer: impl Fn() -> Response + Clone + Send + Sync + 'static,
) -> ServerBuilder<Gateway> {
    let (tokens, _) = numbered_tokens();
    with_tokens(tokens, answer)
}

fn with_tokens(
    tokens: TokenManager,
    answer: impl Fn() -> Response + Clone + Send + Sync + 'static,
) -> ServerBuilder<Gateway> {
    let http = service_fn(move |call: Request| {
        let reply = answer();
        async move {
            call.into_body().collect().await?;
            Ok::<_, axum::Error>(reply)
        }
    });
    Gateway::builder(http)
        .account(APPID, tokens)
        .client("crm", SECRET)
        .signing_key([7; 32])
}

fn well() -> Response {
    Response::new(Body::from(OK))
}

async fn send(gateway: &Router, request: Request) -> Response {
    gateway.clone().oneshot(request).await.unwrap()
}

async fn ask(gateway: &Router, uri: &str) -> Response {
    send(gateway, Request::get(uri).body(Body::empty()).unwrap()).await
}

async fn read(reply: Response) -> Value {
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap_or(Value::Null)
}

async fn token(gateway: &Router) -> String {
    let uri = format!("/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret={SECRET}");
    let given = read(ask(gateway, &uri).await).await;
    given["access_token"].as_str().expect("a token").to_owned()
}

async fn call(gateway: &Router) -> Response {
    let token = token(gateway).await;
    ask(gateway, &format!("/cgi-bin/user/get?access_token={token}")).await
}

/// What a client is told of a redirect to `location`, its own token as `MINE`.
async fn led(location: &[u8]) -> Option<String> {
    let location = HeaderValue::from_bytes(location).unwrap();
    let redirect = move || {
        let reply = Response::builder().status(302);
        let reply = reply.header(header::LOCATION, location.clone());
        reply.body(Body::from("<a href=…>here</a>")).unwrap()
    };
    let gateway = answering(redirect).build().unwrap();
    let token = token(&gateway).await;
    let reply = ask(&gateway, &format!("/cgi-bin/user/get?access_token={token}")).await;
    assert_eq!(reply.status(), StatusCode::FOUND);
    let led = reply.headers().get(header::LOCATION);
    let led = led.map(|led| led.to_str().unwrap().replace(&token, "MINE"));
    assert_eq!(text(reply).await, "");
    led
}

#[tokio::test(start_paused = true)]
async fn s5_node_http_proxy_836_only_the_upstreams_own_origin_is_led_back() {
    for (location, expected) in [
        (
            "https://api.weixin.qq.com/cgi-bin/a?b",
            Some("/cgi-bin/a?b"),
        ),
        ("//api.weixin.qq.com/cgi-bin/a?b", Some("/cgi-bin/a?b")),
        // Led back, these would redirect again and again.
        (
            "https://mp.weixin.qq.com/mp/redirect?url=x",
            Some("https://mp.weixin.qq.com/mp/redirect?url=x"),
        ),
        (
            "https://api2.weixin.qq.com/cgi-bin/a",
            Some("https://api2.weixin.qq.com/cgi-bin/a"),
        ),
        ("//mp.weixin.qq.com/a", Some("https://mp.weixin.qq.com/a")),
        ("https://mp.weixin.qq.com/?t=token-1", None),
        // Others with its name in them.
        ("https://api.weixin.qq.com:444/a?t=token-1", None),
        ("http://api.weixin.qq.com/a?t=token-1", None),
        ("https://api.weixin.qq.com@evil.example/a?t=token-1", None),
        ("https://token-1@api.weixin.qq.com/a", None),
        ("https://api.weixin.qq.com.evil.example/a?t=token-1", None),
        // With two slashes the path names a host.
        (
            "https://api.weixin.qq.com//evil.example/a",
            Some("/evil.example/a"),
        ),
    ] {
        assert_eq!(
            led(location.as_bytes()).await.as_deref(),
            expected,
            "{location}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn s5_isahc_315_a_location_is_bytes() {
    for (location, expected) in [
        (
            "/cgi-bin/微信?t=token-1",
            Some("/cgi-bin/%E5%BE%AE%E4%BF%A1?t=MINE"),
        ),
        (
            "https://api.weixin.qq.com/微?t=token-1",
            Some("/%E5%BE%AE?t=MINE"),
        ),
        ("https://h/微", Some("https://h/%E5%BE%AE")),
        ("https://h/微?t=token-1", None),
        ("https://微信.example/?t=token-1", None),
        ("https://h/?t=%74oken-1", None),
        ("https://h/?t=%2574oken-1", None),
        ("/a?t=%74oken-1", Some("/a?t=MINE")),
    ] {
        assert_eq!(
            led(location.as_bytes()).await.as_deref(),
            expected,
            "{location}"
        );
    }
    assert_eq!(
        led(b"/a\xff?t=token-1").await.as_deref(),
        Some("/a%FF?t=MINE")
    );
}

#[tokio::test(start_paused = true)]
async fn s5_a_location_that_clients_read_in_different_ways_is_dropped() {
    for location in [
        "https:/evil.example/a",
        "https:evil.example/a",
        "https:///evil.example/a",
        "HTTPS:\\\\evil.example",
        "/\\evil.example/a",
        "\\\\evil.example/a",
        "///evil.example/a",
        "/\t/evil.example/a",
        "https://api.weixin.qq.com\\@evil.example/a",
        "https://api.weixin.qq.com/\\evil.example",
    ] {
        assert_eq!(led(location.as_bytes()).await, None, "{location}");
    }
    for (location, expected) in [
        ("weixin://dl/business", Some("weixin://dl/business")),
        ("weixin://dl/business?t=token-1", None),
        ("javascript:token-1", None),
    ] {
        assert_eq!(
            led(location.as_bytes()).await.as_deref(),
            expected,
            "{location}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn s5_no_redirect_takes_a_token_elsewhere(
        location in r"(https?:|HTTP:|//|/|\\|)(/|//|\\|)(api\.weixin\.qq\.com|evil\.example|)[@:/\\?#a-z\t %]{0,4}(evil\.example|)(/|\?t=|)(token-1|%74oken-1)?[a-z/ ]{0,3}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let led = runtime.block_on(led(location.trim().as_bytes()));
        if let Some(led) = led {
            prop_assert!(!led.contains("oken-1"), "{location} {led}");
            // Read as browsers do, it stays here or has no token in it.
            let base = reqwest::Url::parse("http://gateway.example/cgi-bin/user/get").unwrap();
            let to = base.join(&led);
            let stays = to.is_ok_and(|to| to.host_str() == Some("gateway.example"));
            prop_assert!(stays || !led.contains("MINE"), "{location} {led}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_locations_none_passes_unread() {
    let redirect = || {
        let reply = Response::builder().status(302);
        let reply = reply
            .header("location", "/a")
            .header("location", "https://h/?t=token-1");
        reply.body(Body::empty()).unwrap()
    };
    let reply = call(&answering(redirect).build().unwrap()).await;
    let all: Vec<_> = reply.headers().get_all(header::LOCATION).iter().collect();
    assert_eq!(all, ["/a"]);
}

#[tokio::test(start_paused = true)]
async fn s5_the_body_of_a_redirect_is_replaced_by_none() {
    let redirect = || {
        let reply = Response::builder().status(302).header("location", "/a");
        let reply = reply
            .header("content-type", "text/html")
            .header("content-length", "9");
        reply.body(Body::from("<a href=…>")).unwrap()
    };
    let reply = call(&answering(redirect).build().unwrap()).await;
    let names: Vec<_> = reply.headers().keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["location"]);
    assert_eq!(http_body::Body::size_hint(reply.body()).exact(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn s1_what_a_person_has_to_cure_keeps_wechats_errcode_and_errmsg() {
    for errcode in [
        40164, 45009, 89501, 89503, 89506, 89507, 50007, 61004, 45035, 40243, 60020,
    ] {
        let errmsg =
            "invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist rid: 66f0-1a2b";
        let source = source_fn(move |_| async move { Err(TokenError::api(errcode, errmsg)) });
        let gateway = with_tokens(TokenManager::new(source), well)
            .build()
            .unwrap();
        let reply = call(&gateway).await;
        assert_eq!(reply.status(), StatusCode::OK);
        let told = read(reply).await;
        assert_eq!(
            told,
            serde_json::json!({"errcode": errcode, "errmsg": errmsg})
        );
    }
}

#[tokio::test(start_paused = true)]
async fn s1_the_same_holds_after_a_rejection() {
    for (errcode, expected) in [(40164, 40164), (40125, OF_THE_GATEWAY), (-1, -1)] {
        let source = source_fn(move |rejected: Option<AccessToken>| async move {
            match rejected {
                None => Ok(AccessToken::new("token-1", TWO_HOURS)),
                Some(_) => Err(TokenError::api(errcode, "WeChat's word")),
            }
        });
        let rejects = || Response::new(Body::from(REJECTED));
        let gateway = with_tokens(TokenManager::new(source), rejects)
            .build()
            .unwrap();
        let told = read(call(&gateway).await).await;
        assert_eq!(told["errcode"], expected, "{told}");
        let errmsg = told["errmsg"].as_str().unwrap();
        assert!(expected == -1 || errmsg.contains("WeChat's word"), "{told}");
        assert!(!errmsg.contains("may have acted"), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn easywechat_201_a_token_that_is_there_twice_is_one() {
    let gateway = answering(well).build().unwrap();
    let token = token(&gateway).await;
    let uri = format!("/cgi-bin/user/get?access_token={token}&a=b&access_token={token}");
    assert_eq!(read(ask(&gateway, &uri).await).await["errcode"], 0);
    let other = format!("{uri}&access_token=x");
    assert_eq!(read(ask(&gateway, &other).await).await["errcode"], 40001);
}

#[tokio::test(start_paused = true)]
async fn a_base_url_that_ends_in_a_slash_serves_as_well() {
    let gateway = answering(well).build().unwrap();
    // As an application has it that makes the gateway its fallback.
    let app = Router::new().fallback_service(gateway);
    let query = format!("grant_type=client_credential&appid={APPID}&secret={SECRET}");
    for path in ["//cgi-bin/token", "/cgi-bin/token/", "//cgi-bin//token"] {
        let given = read(ask(&app, &format!("{path}?{query}")).await).await;
        assert!(given["access_token"].is_string(), "{path}: {given}");
    }
    for path in [
        "//cgi-bin/stable_token",
        "//cgi-bin//stable_token",
        "/cgi-bin/stable_token/",
    ] {
        let body = format!(
            r#"{{"grant_type":"client_credential","appid":"{APPID}","secret":"{SECRET}"}}"#
        );
        let request = Request::post(path).body(Body::from(body)).unwrap();
        let given = read(send(&app, request).await).await;
        assert!(given["access_token"].is_string(), "{path}: {given}");
    }
    let token = token(&app).await;
    let called = ask(&app, &format!("//cgi-bin/user/get?access_token={token}")).await;
    assert_eq!(read(called).await["errcode"], 0);
}

/// What is logged at `level` and above while it lives.
fn recording(level: tracing::Level) -> (Recorded, tracing::subscriber::DefaultGuard) {
    let recorded = Recorded::default();
    let writer = recorded.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(level)
        .with_writer(move || writer.clone())
        .finish();
    (recorded, tracing::subscriber::set_default(subscriber))
}

#[tokio::test(start_paused = true)]
async fn a_path_of_wechats_that_is_not_served_is_told_in_json_and_in_the_log() {
    let (recorded, _recording) = recording(tracing::Level::INFO);
    let gateway = answering(well).build().unwrap();
    let token = token(&gateway).await;
    let login = format!("/sns/jscode2session?appid={APPID}&secret={SECRET}&js_code=x");
    for (number, (uri, by)) in [
        (login, Some("crm")),
        (
            format!("/sns/userinfo?access_token={token}&openid=o"),
            Some("crm"),
        ),
        ("/sns/oauth2/access_token?appid=x&secret=y".into(), None),
        ("/cgi-bin/clear_quota/v2".into(), None),
        ("/cgi-bin/component/api_component_token".into(), None),
        ("/cgi-bin/openapi/rid/get".into(), None),
        ("///cgi-bin/token".into(), None),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = ask(&gateway, &uri).await;
        assert_eq!(reply.status(), StatusCode::OK, "{uri}");
        let told = read(reply).await;
        assert_eq!(told["errcode"], 48001, "{uri}");
        assert!(
            told["errmsg"].as_str().unwrap().contains("not sent"),
            "{told}"
        );
        // Once a minute.
        ask(&gateway, &uri).await;
        sleep(Duration::from_secs(60)).await;
        let log = recorded.take();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("48001")).collect();
        assert!(
            lines.len() == 1 && lines[0].contains("INFO"),
            "{number}: {log}"
        );
        assert_eq!(lines[0].contains(r#"client="crm""#), by.is_some(), "{log}");
        assert!(!log.contains(SECRET) && !log.contains(&token), "{log}");
    }
    for uri in ["/", "/favicon.ico", "/.env", "/api/v1/users"] {
        assert_eq!(
            ask(&gateway, uri).await.status(),
            StatusCode::NOT_FOUND,
            "{uri}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_went_wrong_with_a_reply_stands_in_the_log_with_client_account_and_path() {
    let broken = || {
        let pieces = [
            Ok(Bytes::from("{\"a\"")),
            Err(std::io::Error::other("reset")),
        ];
        Response::new(Body::from_stream(stream::iter(pieces)))
    };
    let stalled = || {
        let begun = stream::iter([Ok::<_, Infallible>(Bytes::from("{\"a\""))]);
        Response::new(Body::from_stream(begun.chain(stream::pending())))
    };
    let telling = || Response::new(Body::from("token-1"));
    for (answer, what) in [
        (broken as fn() -> Response, "broke off"),
        (stalled, "stopped coming"),
        (telling, "the account's own token"),
    ] {
        let (recorded, _recording) = recording(tracing::Level::WARN);
        let gateway = answering(answer)
            .body_pause(Duration::from_secs(1))
            .build()
            .unwrap();
        for _ in 0..3 {
            let told = read(call(&gateway).await).await;
            assert_eq!(told["errcode"], OF_THE_GATEWAY, "{told}");
            assert!(told["errmsg"].as_str().unwrap().contains(what), "{told}");
        }
        let log = recorded.text();
        assert_one_line(&log, what);
    }
}

#[track_caller]
fn assert_one_line(log: &str, what: &str) {
    let lines: Vec<_> = log.lines().filter(|line| line.contains(what)).collect();
    let [line] = lines[..] else { panic!("{log}") };
    for part in [
        "WARN",
        r#"client="crm""#,
        &format!("account=\"{APPID}\""),
        "/cgi-bin/user/get",
    ] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!log.contains("token-1"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_stalls_stands_in_the_log() {
    let (recorded, _recording) = recording(tracing::Level::WARN);
    let (tokens, _) = numbered_tokens();
    let http = service_fn(|_: Request| pending::<Result<Response, Infallible>>());
    let gateway = Gateway::builder(http)
        .account(APPID, tokens)
        .client("crm", SECRET);
    let gateway = gateway.signing_key([7; 32]).build().unwrap();
    call(&gateway).await;
    assert_one_line(&recorded.text(), "did not answer in time");
}

#[tokio::test(start_paused = true)]
async fn s5_a_text_that_trickles_is_held_no_longer_than_a_call_may_take() {
    let trickling = || {
        let pieces = stream::unfold((), |()| async {
            sleep(Duration::from_secs(10)).await;
            Some((Ok::<_, Infallible>(Bytes::from("x")), ()))
        });
        Response::new(Body::from_stream(pieces))
    };
    let gateway = answering(trickling)
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    let begun = Instant::now();
    let told = read(call(&gateway).await).await;
    assert_eq!(told["errcode"], OF_THE_GATEWAY);
    assert_eq!(begun.elapsed().as_secs(), 60);
}
