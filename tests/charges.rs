//! A client that has tokens replaced for nothing, against the others (S6): simulated days at the
//! gateway and at the token server, with a WeChat in the process and the time paused.

mod support;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{Request, header};
use serde_json::{Value, json};
use support::world::World;
use support::*;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;
use tower_wechat::server::{Gateway, ServerBuilder, TokenServer};
use tower_wechat::{ClientCredential, StableToken, TokenManager, TokenSource};

const APPID: &str = "wx0123456789abcdef";
const CRM: &str = "the-secret-of-crm-which-is-long";
const SHOP: &str = "the-secret-of-shop-which-is-long";
const SPENT: &str = "as often as its refresh_limit allows";
const DAY: u64 = 24 * 60 * 60;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn stable(world: &World) -> StableToken<World, Request<Body>> {
    StableToken::new(world.clone(), APPID, "secret")
}

fn classic(world: &World) -> ClientCredential<World, Request<Body>> {
    ClientCredential::new(world.clone(), APPID, "secret")
}

/// `first` is the name of the client whose secret is `CRM`.
fn with_clients<K>(
    builder: ServerBuilder<K>,
    source: impl TokenSource,
    first: &str,
) -> ServerBuilder<K> {
    builder
        .account(APPID, TokenManager::new(source))
        .client(first, CRM)
        .client("shop", SHOP)
}

fn builder(world: &World, source: impl TokenSource, first: &str) -> ServerBuilder<Gateway> {
    let builder = Gateway::builder(world.clone()).signing_key("a signing key of 32 bytes or more");
    // The day is longer than the life of a token.
    with_clients(builder, source, first).token_life(secs(2 * DAY))
}

async fn gateway(world: &World, source: impl TokenSource) -> Router {
    started(builder(world, source, "crm")).await
}

/// With WeChat's token there.
async fn started(builder: ServerBuilder<Gateway>) -> Router {
    let gateway = builder.build().unwrap();
    sleep(secs(1)).await;
    gateway
}

async fn send(server: &Router, request: Request<Body>) -> Response {
    server.clone().oneshot(request).await.unwrap()
}

async fn json(reply: Response) -> Value {
    serde_json::from_str(&text(reply).await).unwrap_or(Value::Null)
}

async fn ask(server: &Router, secret: &str, more: Value) -> String {
    let mut fields = json!({"grant_type": "client_credential", "appid": APPID, "secret": secret});
    for (name, value) in more.as_object().unwrap() {
        fields[name] = value.clone();
    }
    let request = Request::post("/cgi-bin/stable_token").body(Body::from(fields.to_string()));
    let given = json(send(server, request.unwrap()).await).await;
    given["access_token"].as_str().expect("a token").to_owned()
}

async fn token(server: &Router, secret: &str) -> String {
    ask(server, secret, json!({})).await
}

fn post(path: &str, token: &str, body: Body) -> Request<Body> {
    Request::post(format!("{path}?access_token={token}"))
        .body(body)
        .unwrap()
}

async fn is_well(gateway: &Router, token: &str) -> bool {
    let request = post("/cgi-bin/good", token, Body::from("{}"));
    text(send(gateway, request).await).await == OK
}

/// A call that is rejected whatever its token; its client is gone before the replay is answered.
async fn hang_up(gateway: &Router, token: &str, number: usize) {
    let path = format!("/cgi-bin/bad/{number}");
    let request = post(&path, token, Body::from("access_token=junk"));
    let _ = timeout(Duration::from_millis(150), send(gateway, request)).await;
}

/// The warnings that name a client of one test only: tests run side by side.
fn warnings_of(client: &str) -> usize {
    let log = record().text();
    let name = format!("client=\"{client}\"");
    let lines = log.lines().filter(|line| line.contains("WARN"));
    lines
        .filter(|line| line.contains(SPENT) && line.contains(&name))
        .count()
}

/// Attacks as `attack` says, every `pause` for 20 hours, while a healthy client calls; then the
/// token dies each hour.
async fn day<F>(world: &World, gateway: &Router, pause: Duration, attack: F)
where
    F: AsyncFn(usize),
{
    let of_shop = token(gateway, SHOP).await;
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < secs(20 * 60 * 60) {
        attack(number).await;
        assert!(is_well(gateway, &of_shop).await);
        sleep(pause).await;
        number += 1;
    }
    for hour in 20..24 {
        world.revoke();
        let healed = is_well(gateway, &of_shop).await;
        assert!(healed, "at {hour} o'clock, {} forced", world.forced());
        for _ in 0..60 {
            attack(number).await;
            sleep(secs(60)).await;
            number += 1;
        }
    }
    assert_eq!(world.refused(), 0);
}

#[tokio::test(start_paused = true)]
async fn s6_a_client_that_hangs_up_pays_and_leaves_the_others_their_refreshes() {
    record();
    let world = World::default();
    let gateway = started(builder(&world, stable(&world), "hangs-up")).await;
    let of_crm = token(&gateway, CRM).await;
    day(&world, &gateway, secs(55), async |number| {
        hang_up(&gateway, &of_crm, number).await;
    })
    .await;
    assert!(world.forced() <= 18, "{}", world.forced());
    assert!(warnings_of("hangs-up") > 0);
}

#[tokio::test(start_paused = true)]
async fn s6_with_classic_tokens_as_well() {
    let world = World::default();
    let gateway = gateway(&world, classic(&world)).await;
    let of_crm = token(&gateway, CRM).await;
    day(&world, &gateway, secs(20), async |number| {
        hang_up(&gateway, &of_crm, number).await;
    })
    .await;
    assert!(world.classic() < 1000, "{}", world.classic());
}

// A forced refresh voids the token for calls that are on their way: theirs are accepted when they
// are sent again, and prove nothing.
#[tokio::test(start_paused = true)]
async fn s6_good_calls_beside_a_bad_one_do_not_pay_for_it() {
    let world = World::default();
    let gateway = gateway(&world, stable(&world)).await;
    let of_crm = token(&gateway, CRM).await;
    day(&world, &gateway, secs(300), async |number| {
        let beside = async {
            for _ in 0..40 {
                let (gateway, of_crm) = (gateway.clone(), of_crm.clone());
                tokio::spawn(async move { is_well(&gateway, &of_crm).await });
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::join!(hang_up(&gateway, &of_crm, number), beside);
    })
    .await;
    assert!(world.forced() <= 18, "{}", world.forced());
}

// Larger than the replay limit: nobody waits for a replay.
#[tokio::test(start_paused = true)]
async fn s6_a_call_whose_body_is_not_kept_pays() {
    let world = World::default();
    let gateway = started(builder(&world, stable(&world), "crm").replay_limit(8)).await;
    let of_crm = token(&gateway, CRM).await;
    day(&world, &gateway, secs(300), async |number| {
        let pieces = stream::iter(["access_token=", "junk-and-more"]).then(async |piece| {
            sleep(Duration::from_millis(1)).await;
            Ok::<_, std::io::Error>(Bytes::from(piece))
        });
        let path = format!("/cgi-bin/bad/{number}");
        let mut request = post(&path, &of_crm, Body::from_stream(pieces));
        let length = header::HeaderValue::from_static("26");
        request.headers_mut().insert(header::CONTENT_LENGTH, length);
        let reply = json(send(&gateway, request).await).await;
        assert_ne!(reply["errcode"], 0);
    })
    .await;
    assert!(world.forced() <= 18, "{}", world.forced());
}

#[tokio::test(start_paused = true)]
async fn s6_reports_of_rejected_tokens_at_the_token_server_are_paid_for() {
    let world = World::default();
    let server = with_clients(TokenServer::builder(), stable(&world), "crm");
    let server = server.build().unwrap();
    let start = Instant::now();
    let mut current = token(&server, CRM).await;
    while start.elapsed() < secs(20 * 60 * 60) {
        let report = json!({"force_refresh": true, "rejected_token": current});
        current = ask(&server, CRM, report).await;
        sleep(secs(60)).await;
    }
    assert!(world.forced() <= 9, "{}", world.forced());
    // WeChat's forces are few, so a client of a token server has few deaths reported in a day.
    for hour in [20, 22] {
        world.revoke();
        let dead = token(&server, SHOP).await;
        let report = json!({"force_refresh": true, "rejected_token": dead});
        let new = ask(&server, SHOP, report).await;
        assert_ne!(new, dead, "at {hour} o'clock");
        assert_eq!(Some(new), world.current());
        sleep(secs(2 * 60 * 60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn s6_a_client_whose_calls_are_healed_pays_nothing_however_often_the_token_dies() {
    record();
    let world = World::default();
    let gateway = started(builder(&world, classic(&world), "is-healed")).await;
    let of_crm = token(&gateway, CRM).await;
    for death in 0..60 {
        world.revoke();
        assert!(is_well(&gateway, &of_crm).await, "death {death}");
        sleep(secs(61)).await;
    }
    assert_eq!(warnings_of("is-healed"), 0);
}

#[tokio::test(start_paused = true)]
async fn s6_a_client_past_its_share_still_gets_what_others_had_replaced() {
    let world = World::default();
    let gateway = gateway(&world, classic(&world)).await;
    let (of_crm, of_shop) = (token(&gateway, CRM).await, token(&gateway, SHOP).await);
    for number in 0..10 {
        hang_up(&gateway, &of_crm, number).await;
        sleep(secs(1)).await;
    }
    world.revoke();
    assert!(!is_well(&gateway, &of_crm).await);
    assert!(is_well(&gateway, &of_shop).await);
    assert!(is_well(&gateway, &of_crm).await);
}

// The other client has no refreshes left either, but its calls were rejected with the same token.
#[tokio::test(start_paused = true)]
async fn s6_a_refresh_that_another_clients_rejection_confirms_costs_nothing() {
    let world = World::default();
    let builder = builder(&world, classic(&world), "crm");
    let gateway = started(builder.refresh_limit(1, secs(DAY))).await;
    let (of_crm, of_shop) = (token(&gateway, CRM).await, token(&gateway, SHOP).await);
    hang_up(&gateway, &of_crm, 0).await;
    sleep(secs(1)).await;
    hang_up(&gateway, &of_shop, 0).await;
    sleep(secs(1)).await;
    world.revoke();
    assert!(!is_well(&gateway, &of_crm).await);
    assert!(is_well(&gateway, &of_shop).await);
}

#[tokio::test(start_paused = true)]
async fn m9_bad_paths_are_kept_for_each_client() {
    let world = World::default();
    let gateway = gateway(&world, classic(&world)).await;
    let (of_crm, of_shop) = (token(&gateway, CRM).await, token(&gateway, SHOP).await);
    let bad = post("/cgi-bin/good", &of_crm, Body::from("access_token=junk"));
    assert_ne!(json(send(&gateway, bad).await).await["errcode"], 0);
    world.revoke();
    // The path is marked for the one and not for the other.
    assert!(!is_well(&gateway, &of_crm).await);
    assert!(is_well(&gateway, &of_shop).await);
}

// One has used up its share, and the other has had one bad call in the morning, at the path it
// calls all day.
#[tokio::test(start_paused = true)]
async fn s6_a_share_used_up_leaves_the_others_their_refreshes_also_after_a_bad_call_of_theirs() {
    for classic_tokens in [false, true] {
        let world = World::default();
        let gateway = match classic_tokens {
            true => gateway(&world, classic(&world)).await,
            false => gateway(&world, stable(&world)).await,
        };
        let (of_crm, of_shop) = (token(&gateway, CRM).await, token(&gateway, SHOP).await);
        let bad = post("/cgi-bin/good", &of_shop, Body::from("access_token=junk"));
        assert_ne!(json(send(&gateway, bad).await).await["errcode"], 0);
        sleep(secs(12 * 60 * 60)).await;
        for number in 0..10 {
            hang_up(&gateway, &of_crm, number).await;
            sleep(secs(31)).await;
            if classic_tokens && number == 4 {
                break;
            }
        }
        world.revoke();
        assert!(is_well(&gateway, &of_shop).await, "{classic_tokens}");
    }
}

// Each of two clients has half of what the account has, but the last one is for who has had none.
#[tokio::test(start_paused = true)]
async fn s6_two_clients_that_hang_up_leave_a_third_its_refreshes() {
    const THIRD: &str = "the-secret-of-the-third-client-";
    let world = World::default();
    let builder = builder(&world, stable(&world), "crm").client("third", THIRD);
    let gateway = started(builder).await;
    let bad = [token(&gateway, CRM).await, token(&gateway, SHOP).await];
    let of_third = token(&gateway, THIRD).await;
    for number in 0..20 {
        hang_up(&gateway, &bad[number % 2], number).await;
        sleep(secs(31)).await;
    }
    world.revoke();
    assert!(
        is_well(&gateway, &of_third).await,
        "{} forced",
        world.forced()
    );
}

// What bounds the token server is its own source: here 2000 classic tokens a day.
#[tokio::test(start_paused = true)]
async fn m6_a_process_behind_a_token_server_is_healed_as_often_as_the_servers_source_allows() {
    let world = World::default();
    let server =
        with_clients(TokenServer::builder(), classic(&world), "crm").refresh_limit(20, secs(60));
    let server: Router = server.build().unwrap();
    let source = StableToken::<_, Request<Body>>::new(server, APPID, CRM);
    let source = source.base_url("http://token-server");
    let service = tower_wechat::WechatAuthLayer::new(TokenManager::new(source));
    let service = tower::Layer::layer(&service, world.clone());
    for death in 0..10 {
        let request =
            Request::post("https://api.weixin.qq.com/cgi-bin/good").body(Body::from("{}"));
        let reply = service.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(text(reply).await, OK, "death {death}");
        world.revoke();
        sleep(secs(61)).await;
    }
}

// The only one: there are no others whom it could leave something.
#[tokio::test(start_paused = true)]
async fn s6_the_only_client_of_a_token_server_has_all_that_the_account_has() {
    let world = World::default();
    let server = TokenServer::builder()
        .account(APPID, TokenManager::new(stable(&world)))
        .client("crm", CRM)
        .build()
        .unwrap();
    for death in 0..6 {
        let dead = token(&server, CRM).await;
        world.revoke();
        let report = json!({"force_refresh": true, "rejected_token": dead});
        assert_ne!(ask(&server, CRM, report).await, dead, "death {death}");
        sleep(secs(61)).await;
    }
}
