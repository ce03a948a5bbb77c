//! The token server, asked in process, with the time paused.

mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use support::*;
use tokio::time::{Instant, advance, sleep};
use tower::util::MapRequestLayer;
use tower::{Layer, ServiceExt};
use tower_wechat::server::{ServerBuilder, TokenServer};
use tower_wechat::{AccessToken, StableToken, TokenError, TokenManager, source_fn};

const APPID: &str = "wx0123456789abcdef";
const SECRET: &str = "the secret of crm, which is long";
const OTHER_SECRET: &str = "the secret of shop, long as well";

fn builder() -> (ServerBuilder<TokenServer>, Arc<AtomicUsize>) {
    let (tokens, issued) = numbered_tokens();
    let builder = TokenServer::builder()
        .account(APPID, tokens)
        .client("crm", SECRET);
    (builder, issued)
}

/// With its first token.
async fn server() -> (Router, Arc<AtomicUsize>) {
    let (builder, issued) = builder();
    let server = builder.build().unwrap();
    settle().await;
    (server, issued)
}

/// Lets the tasks of the managers run.
async fn settle() {
    sleep(Duration::from_millis(10)).await;
}

fn token_request(appid: &str, secret: &str) -> Request<Body> {
    let secret = secret.replace(' ', "%20");
    let uri = format!("/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={secret}");
    Request::get(uri).body(Body::empty()).unwrap()
}

fn stable_request(fields: &Value) -> Request<Body> {
    let mut all = json!({"grant_type": "client_credential", "appid": APPID, "secret": SECRET});
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    let body = Body::from(all.to_string());
    Request::post("/cgi-bin/stable_token").body(body).unwrap()
}

async fn ask(server: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let reply = server.clone().oneshot(request).await.unwrap();
    let status = reply.status();
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn plain(server: &Router) -> Value {
    ask(server, token_request(APPID, SECRET)).await.1
}

async fn stable(server: &Router, fields: Value) -> Value {
    ask(server, stable_request(&fields)).await.1
}

#[tokio::test(start_paused = true)]
async fn both_endpoints_give_the_current_token_and_what_is_left_of_its_life() {
    let (server, issued) = server().await;
    advance(Duration::from_secs(1000)).await;
    for _ in 0..100 {
        for given in [plain(&server).await, stable(&server, json!({})).await] {
            assert_eq!(
                given,
                json!({"access_token": "token-1", "expires_in": 6199})
            );
        }
    }
    assert_eq!(issued.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_renewed_ahead_of_time_with_nobody_asking() {
    let (server, issued) = server().await;
    for seconds in 0..7200 {
        sleep(Duration::from_secs(1)).await;
        if seconds % 100 == 0 {
            let left = plain(&server).await["expires_in"].as_u64().unwrap();
            assert!(left > 200, "{left}");
        }
    }
    assert_eq!(issued.load(Ordering::SeqCst), 2);
    assert_eq!(plain(&server).await["access_token"], "token-2");
}

#[tokio::test(start_paused = true)]
async fn the_last_second_of_a_token_is_not_told_as_none() {
    let source = source_fn(|_| async { Ok(AccessToken::new("short", Duration::from_millis(900))) });
    let server = TokenServer::builder()
        .account(APPID, TokenManager::new(source))
        .client("crm", SECRET);
    let server = server.build().unwrap();
    assert_eq!(plain(&server).await["expires_in"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_once_however_many_report_it() {
    let (server, issued) = server().await;
    let report = json!({"force_refresh": true, "rejected_token": "token-1"});
    let reports = (0..200).map(|_| stable(&server, report.clone()));
    for given in join_all(reports).await {
        assert_eq!(given["access_token"], "token-2");
    }
    // And one that comes late.
    advance(Duration::from_secs(300)).await;
    assert_eq!(stable(&server, report).await["access_token"], "token-2");
    assert_eq!(issued.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_without_force_is_no_reason_to_refresh() {
    let (server, _) = server().await;
    let given = stable(&server, json!({"rejected_token": "token-1"})).await;
    assert_eq!(given["access_token"], "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_force_that_does_not_say_what_was_rejected_counts_once_in_30_s() {
    let (server, issued) = server().await;
    let force = json!({"force_refresh": true});
    advance(Duration::from_secs(29)).await;
    assert_eq!(
        stable(&server, force.clone()).await["access_token"],
        "token-1"
    );
    advance(Duration::from_secs(1)).await;
    for given in join_all((0..50).map(|_| stable(&server, force.clone()))).await {
        assert_eq!(given["access_token"], "token-2");
    }
    assert_eq!(issued.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn past_the_budget_the_current_token_is_given_as_it_is() {
    let (builder, issued) = builder();
    let server = builder
        .refresh_limit(100, Duration::from_secs(1))
        .build()
        .unwrap();
    settle().await;
    for number in 1..=20 {
        let report = json!({"force_refresh": true, "rejected_token": format!("token-{number}")});
        let given = stable(&server, report).await;
        let expected = format!("token-{}", (number + 1).min(6));
        assert_eq!(given["access_token"], expected);
    }
    assert_eq!(issued.load(Ordering::SeqCst), 6);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_always_wrong_costs_few_refreshes_and_leaves_some_to_others() {
    let (builder, issued) = builder();
    let server = builder.client("shop", OTHER_SECRET).build().unwrap();
    settle().await;
    let report = async |secret: &str| {
        let current = plain(&server).await["access_token"].clone();
        let fields = json!({"secret": secret, "force_refresh": true, "rejected_token": current});
        stable(&server, fields).await["access_token"] != current
    };
    // Every minute for a day. Of itself a token is renewed twelve times.
    let mut replaced = 0;
    for _ in 0..24 * 60 {
        replaced += usize::from(report(SECRET).await);
        sleep(Duration::from_secs(60)).await;
    }
    assert!(issued.load(Ordering::SeqCst) < 1000, "{issued:?}");
    assert!(replaced <= 4 + 24 * 30, "{replaced}");
    assert!(report(OTHER_SECRET).await);
}

#[tokio::test(start_paused = true)]
async fn the_rust_client_says_what_was_rejected_and_gets_another_as_often_as_tokens_die() {
    let (server, issued) = server().await;
    let client = || {
        let http =
            MapRequestLayer::new(|request: Request<Full<Bytes>>| request).layer(server.clone());
        TokenManager::new(StableToken::new(http, APPID, SECRET).base_url("http://token-server"))
    };
    let (one, other) = (client(), client());
    for number in 1..=3 {
        let (old, others) = (one.token().await.unwrap(), other.token().await.unwrap());
        assert_eq!(old.secret(), format!("token-{number}"));
        assert_eq!(old, others);
        let new = one.refresh(&old).await.unwrap();
        assert_eq!(new.secret(), format!("token-{}", number + 1));
        assert_eq!(other.refresh(&others).await.unwrap(), new);
    }
    assert_eq!(issued.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn mistakes_are_told_as_wechat_tells_them() {
    let (server, _) = server().await;
    let get = |uri: &str| Request::get(uri).body(Body::empty()).unwrap();
    let post = |body: &'static str| {
        let request = Request::post("/cgi-bin/stable_token");
        request.body(Body::from(body)).unwrap()
    };
    let plain = "/cgi-bin/token?grant_type=client_credential";
    let cases = [
        (get("/cgi-bin/token"), 41002),
        (get(&format!("{plain}&secret=x")), 41002),
        (get(&format!("{plain}&appid={APPID}")), 41004),
        (get(&format!("{plain}&appid={APPID}&secret=")), 41004),
        (
            get(&format!("/cgi-bin/token?appid={APPID}&secret=x")),
            40002,
        ),
        (token_request("wx0000000000000000", SECRET), 40013),
        (token_request(APPID, "wrong"), 40125),
        (token_request(APPID, &SECRET[1..]), 40125),
        (stable_request(&json!({"appid": null})), 41002),
        (stable_request(&json!({"secret": 5})), 41004),
        (stable_request(&json!({"grant_type": "password"})), 40002),
        (stable_request(&json!({"secret": "wrong"})), 40125),
        (post(""), 47001),
        (post("[]"), 47001),
        (post("{"), 47001),
        (get("/cgi-bin/stable_token"), 43002),
    ];
    for (number, (request, errcode)) in cases.into_iter().enumerate() {
        let (status, told) = ask(&server, request).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(told["errcode"], errcode, "case {number}: {told}");
        assert!(
            told["errmsg"]
                .as_str()
                .is_some_and(|errmsg| !errmsg.is_empty())
        );
    }
    let mut request = token_request(APPID, SECRET);
    *request.method_mut() = Method::POST;
    assert_eq!(ask(&server, request).await.1["errcode"], 43001);
}

#[tokio::test(start_paused = true)]
async fn a_token_request_of_any_size_or_speed_is_answered() {
    let (server, _) = server().await;
    let large = json!({"rejected_token": "x".repeat(64 * 1024)});
    assert_eq!(stable(&server, large).await["errcode"], 47001);

    let endless = http_body_util::StreamBody::new(futures_util::stream::pending::<
        Result<http_body::Frame<bytes::Bytes>, std::io::Error>,
    >());
    let slow = Request::post("/cgi-bin/stable_token")
        .body(Body::new(endless))
        .unwrap();
    assert_eq!(ask(&server, slow).await.1["errcode"], 47001);
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_the_tokens_of_its_own_accounts_only() {
    let (tokens, _) = numbered_tokens();
    let (others, _) = numbered_tokens();
    others
        .refresh(&others.token().await.unwrap())
        .await
        .unwrap();
    let server = TokenServer::builder()
        .account("wx1", tokens)
        .account("wx2", others)
        .client("crm", SECRET)
        .client_for("shop", OTHER_SECRET, ["wx2"]);
    let server = server.build().unwrap();

    let ask = |appid, secret| ask(&server, token_request(appid, secret));
    assert_eq!(ask("wx1", SECRET).await.1["access_token"], "token-1");
    assert_eq!(ask("wx2", SECRET).await.1["access_token"], "token-2");
    assert_eq!(ask("wx2", OTHER_SECRET).await.1["access_token"], "token-2");
    assert_eq!(ask("wx1", OTHER_SECRET).await.1["errcode"], 40125);
}

#[tokio::test(start_paused = true)]
async fn s1_what_a_person_has_to_cure_is_told_as_wechat_tells_it() {
    let source = source_fn(|_| async {
        Err(TokenError::api(
            40164,
            "invalid ip 203.0.113.7, not in whitelist",
        ))
    });
    let server = TokenServer::builder()
        .account(APPID, TokenManager::new(source))
        .client("crm", SECRET);
    let server = server.build().unwrap();
    let expected = json!({
        "errcode": 40164,
        "errmsg": "invalid ip 203.0.113.7, not in whitelist",
    });
    assert_eq!(plain(&server).await, expected);
    assert_eq!(stable(&server, json!({})).await, expected);
}

/// A token server whose source says `errcode` to every request, and how often it was asked.
fn refusing(errcode: i64) -> (Router, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let source = source_fn(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { Err(TokenError::api(errcode, "WeChat's word rid: 66f0-1a2b")) }
    });
    let server = TokenServer::builder()
        .account(APPID, TokenManager::new(source))
        .client("crm", SECRET);
    (server.build().unwrap(), asked)
}

#[tokio::test(start_paused = true)]
async fn s1_the_rust_client_asks_a_server_that_is_refused_as_seldom_as_it_would_ask_wechat() {
    for errcode in [40164, 89503, 50007, 40125, 40013] {
        let (server, _) = refusing(errcode);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let http = MapRequestLayer::new(move |request: Request<Full<Bytes>>| {
            count.fetch_add(1, Ordering::SeqCst);
            request
        });
        let source = StableToken::new(http.layer(server), APPID, SECRET);
        let client = TokenManager::new(source.base_url("http://token-server"));
        for _ in 0..20 {
            let error = client.token().await.unwrap_err();
            let told = error.to_string();
            assert_eq!(told.matches("WeChat's word").count(), 1, "{told}");
            assert!(told.contains(&errcode.to_string()), "{told}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{errcode}");
    }
}

#[tokio::test(start_paused = true)]
async fn s1_the_accounts_own_wrong_secret_is_no_word_about_the_clients() {
    let (server, _) = refusing(40125);
    let told = plain(&server).await;
    assert_eq!(told["errcode"], 59_900_502);
    let errmsg = told["errmsg"].as_str().unwrap();
    for part in ["not sent", "40125", "WeChat's word rid: 66f0-1a2b"] {
        assert!(errmsg.contains(part), "{errmsg}");
    }
    assert!(!errmsg.contains("may have acted"), "{errmsg}");
}

#[tokio::test(start_paused = true)]
async fn token_requests_are_known_by_a_path_with_a_slash_too_many() {
    let (server, _) = server().await;
    for path in ["//cgi-bin/token", "/cgi-bin/token/", "//cgi-bin//token/"] {
        let uri = token_request(APPID, SECRET).uri().to_string();
        let uri = uri.replace("/cgi-bin/token", path);
        let request = Request::get(uri).body(Body::empty()).unwrap();
        assert_eq!(
            ask(&server, request).await.1["access_token"],
            "token-1",
            "{path}"
        );
    }
    for path in [
        "//cgi-bin/stable_token",
        "//cgi-bin//stable_token",
        "/cgi-bin/stable_token/",
    ] {
        let mut request = stable_request(&json!({}));
        *request.uri_mut() = path.parse().unwrap();
        assert_eq!(
            ask(&server, request).await.1["access_token"],
            "token-1",
            "{path}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_over_its_rate_is_told_so_and_no_other_is() {
    let (builder, issued) = builder();
    let server = builder
        .client("shop", OTHER_SECRET)
        .rate_limit(3, Duration::from_secs(10))
        .build()
        .unwrap();
    for _ in 0..3 {
        assert_eq!(plain(&server).await["access_token"], "token-1");
    }
    for _ in 0..100 {
        assert_eq!(plain(&server).await["errcode"], 45009);
    }
    let other = ask(&server, token_request(APPID, OTHER_SECRET)).await.1;
    assert_eq!(other["access_token"], "token-1");
    advance(Duration::from_secs(10)).await;
    assert_eq!(plain(&server).await["access_token"], "token-1");
    assert_eq!(issued.load(Ordering::SeqCst), 1);
}

fn from_address(mut request: Request<Body>, address: [u8; 4]) -> Request<Body> {
    let address = SocketAddr::new(IpAddr::from(address), 5000);
    request.extensions_mut().insert(ConnectInfo(address));
    request
}

#[tokio::test(start_paused = true)]
async fn whoever_guesses_waits_for_about_a_second_in_all_and_nobody_else_waits() {
    let (server, _) = server().await;
    let timed = async |request| {
        let begun = Instant::now();
        let told = ask(&server, request).await.1;
        (told["errcode"].as_i64(), begun.elapsed().as_millis())
    };
    // 50 callers with one mistyped secret, one after the other under a lock of their SDK's.
    let mut all = 0;
    for number in 0..50 {
        let guess = from_address(token_request(APPID, "guessed"), [10, 0, 0, 1]);
        let (errcode, waited) = timed(guess).await;
        assert_eq!(errcode, Some(40125));
        assert_eq!(waited > 0, number < 3, "{number}: {waited}");
        all += waited;
        let good = from_address(token_request(APPID, SECRET), [10, 0, 0, 1]);
        assert_eq!(timed(good).await, (None, 0));
    }
    assert!((1000..1010).contains(&all), "{all}");
    let elsewhere = from_address(token_request(APPID, "guessed"), [10, 0, 0, 2]);
    assert!((250..255).contains(&timed(elsewhere).await.1));
}

#[tokio::test(start_paused = true)]
async fn s7_attempts_from_however_many_addresses_write_few_lines_and_are_counted() {
    let recorded = Recorded::default();
    let writer = recorded.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _recording = tracing::subscriber::set_default(subscriber);
    let (server, _) = server().await;
    for number in 0..6000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        for _ in 0..2 {
            let guess = from_address(token_request(APPID, "guessed"), [10, 1, high, low]);
            tokio::spawn(server.clone().oneshot(guess));
        }
    }
    sleep(Duration::from_secs(90)).await;
    let told = recorded.take();
    assert_eq!(told.lines().count(), 13, "{told}");
    let last = told.lines().last().unwrap();
    assert!(last.contains("attempts=11988"), "{last}");

    // And it goes on with names.
    let guess = from_address(token_request(APPID, "guessed"), [10, 2, 0, 1]);
    ask(&server, guess).await;
    sleep(Duration::from_secs(90)).await;
    let told = recorded.take();
    assert!(
        told.lines().count() == 1 && told.contains("10.2.0.1"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_are_logged_by_client_and_address_and_never_with_a_secret() {
    let recorded = Recorded::default();
    let writer = recorded.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _recording = tracing::subscriber::set_default(subscriber);

    let (builder, _) = builder();
    let server = builder.client_for("shop", OTHER_SECRET, [APPID]);
    let (others, _) = numbered_tokens();
    let server = server.account("wx2", others).build().unwrap();
    settle().await;
    for _ in 0..5 {
        let guess = token_request(APPID, "guessed-s3cret");
        ask(&server, from_address(guess, [203, 0, 113, 7])).await;
    }
    let strange = token_request("wx2", OTHER_SECRET);
    ask(&server, from_address(strange, [203, 0, 113, 8])).await;
    ask(&server, token_request("a%0Ab\u{2028}", SECRET)).await;

    let told = recorded.text();
    let warned = |what: &str| {
        let lines = told
            .lines()
            .filter(|line| line.contains("WARN") && line.contains(what));
        lines.count()
    };
    // The first, the second and the fourth.
    assert_eq!(warned("203.0.113.7"), 3, "{told}");
    assert_eq!(warned("wrong secret"), 3, "{told}");
    assert_eq!(warned(r#"client="shop""#), 1, "{told}");
    assert_eq!(warned("unknown appid"), 1, "{told}");
    for secret in ["guessed-s3cret", SECRET, OTHER_SECRET, "token-1"] {
        assert!(!told.contains(secret), "{told}");
    }
}

async fn readyz(server: &Router) -> (StatusCode, Value) {
    let request = Request::get("/readyz").body(Body::empty()).unwrap();
    ask(server, request).await
}

#[tokio::test(start_paused = true)]
async fn s9_health_says_of_each_account_what_is_wrong_and_one_bad_one_takes_no_other_out_of_service()
 {
    let (tokens, _) = numbered_tokens();
    let allowed = Arc::new(AtomicUsize::new(0));
    let late = Arc::clone(&allowed);
    let source = source_fn(move |_| {
        let allowed = late.load(Ordering::SeqCst) > 0;
        async move {
            match allowed {
                true => Ok(AccessToken::new("late", TWO_HOURS)),
                false => Err(TokenError::api(40164, "invalid ip 203.0.113.7")),
            }
        }
    });
    let server = TokenServer::builder()
        .account("wx1", tokens)
        .account("wx2", TokenManager::new(source))
        .client("crm", SECRET);
    let server = server.build().unwrap();
    settle().await;

    let (status, told) = readyz(&server).await;
    assert_eq!(status, StatusCode::OK);
    let error = told["accounts"]["wx2"]["error"]
        .as_str()
        .unwrap_or_default();
    for part in ["40164", "203.0.113.7", "allow-list"] {
        assert!(error.contains(part), "{told}");
    }
    let expected = json!({"ready": true, "accounts": {
        "wx1": {"seconds_left": 7199, "error": null},
        "wx2": {"seconds_left": null, "error": error},
    }});
    assert_eq!(told, expected);
    let healthz = Request::get("/healthz").body(Body::empty()).unwrap();
    let up = server.clone().oneshot(healthz).await.unwrap();
    assert_eq!(up.status(), StatusCode::OK);

    allowed.store(1, Ordering::SeqCst);
    sleep(Duration::from_secs(120)).await;
    let (status, told) = readyz(&server).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(told["accounts"]["wx2"]["error"], Value::Null, "{told}");
}

#[tokio::test(start_paused = true)]
async fn s9_not_ready_is_only_who_has_no_verdict_yet() {
    let source = source_fn(|_| async {
        sleep(Duration::from_secs(5)).await;
        Err(TokenError::transport("connection refused"))
    });
    let server = TokenServer::builder()
        .account(APPID, TokenManager::new(source))
        .client("crm", SECRET);
    let server = server.build().unwrap();
    settle().await;
    let (status, told) = readyz(&server).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let expected =
        json!({"ready": false, "accounts": {APPID: {"seconds_left": null, "error": null}}});
    assert_eq!(told, expected);
    // With WeChat away its clients are better answered than refused.
    sleep(Duration::from_secs(60)).await;
    assert_eq!(readyz(&server).await.0, StatusCode::OK);
    assert_eq!(plain(&server).await["errcode"], -1);
}

#[tokio::test(start_paused = true)]
async fn its_routes_go_along_with_others() {
    let (server, _) = server().await;
    let app = Router::new()
        .route("/mine", axum::routing::get(async || "1"))
        .merge(server);
    let mine = Request::get("/mine").body(Body::empty()).unwrap();
    assert_eq!(ask(&app, mine).await.1, 1);
    assert_eq!(plain(&app).await["access_token"], "token-1");
    for path in ["/metrics", "/cgi-bin/menu/get"] {
        let missing = Request::get(path).body(Body::empty()).unwrap();
        let reply = app.clone().oneshot(missing).await.unwrap();
        assert_eq!(reply.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_are_kept_fresh_as_long_as_the_router_lives_and_no_longer() {
    let (server, issued) = server().await;
    drop(server);
    sleep(Duration::from_secs(20_000)).await;
    assert_eq!(issued.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_account_whose_source_does_not_know_its_name_is_called_by_its_appid() {
    let (tokens, _) = numbered_tokens();
    let (named, _) = numbered_tokens();
    let named = TokenManager::builder(source_fn(move |_| {
        let named = named.clone();
        async move { named.token().await }
    }));
    let named = named.account("the shop").build();
    let server = TokenServer::builder()
        .account(APPID, tokens.clone())
        .account("wx2", named.clone())
        .client("crm", SECRET);
    assert_eq!(tokens.account(), None);
    drop(server.build().unwrap());
    assert_eq!(tokens.account(), Some(APPID));
    assert_eq!(named.account(), Some("the shop"));
}

#[tokio::test]
async fn a_mistake_in_the_setup_is_one_sentence() {
    let (tokens, issued) = numbered_tokens();
    let new = || TokenServer::builder().account(APPID, tokens.clone());
    let mistakes = [
        (TokenServer::builder().client("crm", SECRET), "no account"),
        (new(), "no client"),
        (new().client("crm", "short"), "less than 16 bytes"),
        (new().client("", SECRET), "needs a name"),
        (new().client("a\nb", SECRET), "needs a name"),
        (
            new().client("a", SECRET).client("a", OTHER_SECRET),
            "two clients \"a\"",
        ),
        (
            new().client("a", SECRET).client("b", SECRET),
            "the same secret",
        ),
        (
            new().client_for("a", SECRET, ["wx2"]),
            "not one of this server's",
        ),
        (new().client_for("a", SECRET, [""; 0]), "may use no account"),
        (
            new().account(APPID, tokens.clone()).client("a", SECRET),
            "there twice",
        ),
        (
            new().account("", tokens.clone()).client("a", SECRET),
            "an appid of 1",
        ),
    ];
    for (builder, what) in mistakes {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert!(
            !error.contains(SECRET) && error.lines().count() == 1,
            "{error}"
        );
    }
    // None of them asked WeChat for anything.
    assert_eq!(issued.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn no_debug_of_a_builder_tells_a_secret() {
    let (builder, _) = builder();
    let told = format!("{builder:?} {builder:#?}");
    assert!(told.contains("crm") && !told.contains(SECRET), "{told}");
}
