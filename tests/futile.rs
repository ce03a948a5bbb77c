//! Rejections that no refresh cures (M9), and what a day of them costs (M6): by the layer, with a
//! WeChat in the process and the time paused.

mod support;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use http::Request;
use support::world::World;
use support::*;
use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_wechat::{
    AuthOutcome, ClientCredential, NotReplayed, StableToken, TokenError, TokenManager, WechatAuth,
    WechatAuthLayer,
};

const BAD: &str = "access_token=x";
const HOST: &str = "https://api.weixin.qq.com";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One call, and what the layer did about it.
async fn call(
    service: &WechatAuth<World>,
    path: &str,
    body: &'static str,
) -> (String, AuthOutcome) {
    let request = Request::post(format!("{HOST}{path}"))
        .body(Body::from(body))
        .unwrap();
    let reply = service.clone().oneshot(request).await.unwrap();
    let outcome = reply.extensions().get::<AuthOutcome>().cloned().unwrap();
    (text(reply).await, outcome)
}

async fn is_well(service: &WechatAuth<World>, path: &str) -> bool {
    call(service, path, "{}").await.0 == OK
}

/// Whether a bad call had the token replaced.
async fn bad_call_refreshes(service: &WechatAuth<World>, path: &str) -> bool {
    let (reply, outcome) = call(service, path, BAD).await;
    assert_eq!(reply, REJECTED);
    if let Some(NotReplayed::NoToken(error)) = outcome.not_replayed() {
        assert!(matches!(error, TokenError::Futile | TokenError::OverBudget));
    }
    outcome.refreshed()
}

fn stable(world: &World) -> WechatAuth<World> {
    let source = StableToken::new(world.clone(), "wx0123456789abcdef", "secret");
    WechatAuthLayer::new(TokenManager::new(source)).layer(world.clone())
}

fn classic(world: &World) -> WechatAuth<World> {
    let source = ClientCredential::new(world.clone(), "wx0123456789abcdef", "secret");
    WechatAuthLayer::new(TokenManager::new(source)).layer(world.clone())
}

#[tokio::test(start_paused = true)]
async fn m9_after_six_bad_calls_a_real_death_is_healed_for_healthy_calls() {
    for service in [stable, classic] {
        let world = World::default();
        let service = service(&world);
        for _ in 0..6 {
            bad_call_refreshes(&service, "/cgi-bin/bad").await;
        }
        world.revoke();
        sleep(secs(31)).await;
        assert!(is_well(&service, "/cgi-bin/good").await);
    }
}

#[tokio::test(start_paused = true)]
async fn m9_a_futile_refresh_marks_the_path_for_a_minute_doubling_to_an_hour() {
    let service = classic(&World::default());
    let start = Instant::now();
    let mut refreshed_at = Vec::new();
    while start.elapsed() < secs(6 * 60 * 60) {
        if bad_call_refreshes(&service, "/cgi-bin/bad").await {
            refreshed_at.push(start.elapsed().as_secs());
        }
        sleep(secs(1)).await;
    }
    let pauses = refreshed_at.windows(2).map(|pair| pair[1] - pair[0]);
    let minutes: Vec<_> = pauses.map(|pause| pause / 60).collect();
    assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
}

#[tokio::test(start_paused = true)]
async fn m9_a_marked_path_leaves_every_other_path_and_method_as_it_was() {
    let world = World::default();
    let service = classic(&world);
    assert!(bad_call_refreshes(&service, "/cgi-bin/bad").await);
    assert!(!bad_call_refreshes(&service, "/cgi-bin/bad").await);
    // WeChat reads several slashes as one.
    assert!(!bad_call_refreshes(&service, "//cgi-bin//bad").await);
    assert!(bad_call_refreshes(&service, "/cgi-bin/other").await);
    world.revoke();
    let get = Request::get(format!("{HOST}/cgi-bin/bad")).body(Body::empty());
    let reply = service.clone().oneshot(get.unwrap()).await.unwrap();
    assert_eq!(text(reply).await, OK);
    // And the marked one gets the new token.
    assert!(is_well(&service, "/cgi-bin/bad").await);
}

#[tokio::test(start_paused = true)]
async fn m9_a_replay_that_is_accepted_clears_the_path() {
    let world = World::default();
    let service = classic(&world);
    for _ in 0..3 {
        assert!(bad_call_refreshes(&service, "/cgi-bin/send").await);
        sleep(secs(300)).await;
    }
    world.revoke();
    assert!(is_well(&service, "/cgi-bin/send").await);
    // As if it had never been: the mark is one of a minute again.
    assert!(bad_call_refreshes(&service, "/cgi-bin/send").await);
    assert!(!bad_call_refreshes(&service, "/cgi-bin/send").await);
    sleep(secs(61)).await;
    assert!(bad_call_refreshes(&service, "/cgi-bin/send").await);
}

type Odd = BoxCloneSyncService<
    Request<Body>,
    http::Response<http_body_util::Full<bytes::Bytes>>,
    Infallible,
>;

async fn send(service: &WechatAuth<Odd>, path: &str) -> AuthOutcome {
    let request = Request::get(format!("{HOST}{path}"));
    let reply = service
        .clone()
        .oneshot(request.body(Body::empty()).unwrap());
    let reply = reply.await.unwrap();
    reply.extensions().get::<AuthOutcome>().cloned().unwrap()
}

/// A manager whose refresh takes as long as the calls here.
fn slow_refresh(
    world: impl Fn(&str, &str) -> (&'static str, u64) + Clone + Send + Sync + 'static,
) -> WechatAuth<Odd> {
    let number = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let source = tower_wechat::source_fn(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            sleep(secs(1)).await;
            let name = format!("token-{number}");
            Ok(tower_wechat::AccessToken::new(name, TWO_HOURS))
        }
    });
    let http = service_fn(move |request: Request<Body>| {
        let token = token_in(&request).unwrap();
        let (answer, milliseconds) = world(request.uri().path(), &token);
        async move {
            sleep(Duration::from_millis(milliseconds)).await;
            Ok::<_, Infallible>(reply(answer))
        }
    });
    WechatAuthLayer::new(TokenManager::new(source)).layer(BoxCloneSyncService::new(http))
}

/// `/cgi-bin/bad` is rejected once with each token; every other path is answered with `well`.
fn rejected_once(well: &'static str) -> WechatAuth<Odd> {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    slow_refresh(move |path, token| {
        let mut seen = seen.lock().unwrap();
        match path {
            "/cgi-bin/bad" if !seen.iter().any(|seen| seen == token) => {
                seen.push(token.to_owned());
                (REJECTED, 10)
            }
            "/cgi-bin/bad" => (OK, 10),
            _ => (well, 10),
        }
    })
}

/// Whether the path is marked after a rejection during whose refresh another call went with the
/// same token and was answered with `well`.
async fn is_marked_after(well: &'static str) -> bool {
    let service = rejected_once(well);
    // The first token.
    send(&service, "/cgi-bin/good").await;
    let bad = {
        let service = service.clone();
        tokio::spawn(async move { send(&service, "/cgi-bin/bad").await })
    };
    // Rejected by now, and the refresh under way.
    sleep(Duration::from_millis(100)).await;
    send(&service, "/cgi-bin/good").await;
    // Gone before its replay, which would say that the refresh was right.
    bad.abort();
    sleep(secs(2)).await;
    // The new token is rejected as well, at first.
    let outcome = send(&service, "/cgi-bin/bad").await;
    matches!(
        outcome.not_replayed(),
        Some(NotReplayed::NoToken(TokenError::Futile))
    )
}

#[tokio::test(start_paused = true)]
async fn m9_a_rejected_token_that_is_accepted_for_a_later_call_marks_the_path() {
    assert!(is_marked_after(OK).await);
}

#[tokio::test(start_paused = true)]
async fn m9_a_reply_without_errcode_says_nothing_about_a_token() {
    assert!(!is_marked_after(r#"{"total":2}"#).await);
    assert!(!is_marked_after("\u{89}PNG").await);
    assert!(!is_marked_after(r#"{"errcode":45009,"errmsg":"reach max"}"#).await);
}

// A long upload is rejected after later calls were accepted: the token may have died in between.
#[tokio::test(start_paused = true)]
async fn m9_a_call_that_was_sent_before_the_rejection_came_is_no_evidence() {
    let dead = Arc::new(AtomicBool::new(false));
    let is_dead = Arc::clone(&dead);
    let service = slow_refresh(move |path, token| match path {
        // On its way for ten seconds, and accepted at its beginning.
        "/cgi-bin/long" => (OK, 10_000),
        _ if is_dead.load(Ordering::SeqCst) && token == "token-1" => (REJECTED, 10),
        _ => (OK, 10),
    });
    send(&service, "/cgi-bin/good").await;
    let long = {
        let service = service.clone();
        tokio::spawn(async move { send(&service, "/cgi-bin/long").await })
    };
    sleep(secs(1)).await;
    dead.store(true, Ordering::SeqCst);
    let healed = {
        let service = service.clone();
        tokio::spawn(async move { send(&service, "/cgi-bin/good").await })
    };
    // Gone before the replay clears anything.
    sleep(Duration::from_millis(100)).await;
    healed.abort();
    long.await.unwrap();
    // That path still causes a refresh.
    let outcome = send(&service, "/cgi-bin/good").await;
    assert!(outcome.not_replayed().is_none(), "{outcome:?}");
}

/// A day of a plain application: a bad form body and a healthy call every ten seconds, and a real
/// death in the evening.
async fn day_of(world: &World, service: &WechatAuth<World>, bad_paths: usize) {
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < secs(20 * 60 * 60) {
        let path = format!("/cgi-bin/bad/{}", number % bad_paths);
        call(service, &path, BAD).await;
        assert!(is_well(service, "/cgi-bin/good").await);
        sleep(secs(10)).await;
        number += 1;
    }
    for hour in 20..24 {
        world.revoke();
        assert!(
            is_well(service, "/cgi-bin/good").await,
            "at {hour} o'clock; {} forced, {} refused",
            world.forced(),
            world.refused(),
        );
        sleep(secs(60 * 60)).await;
    }
    assert_eq!(world.refused(), 0);
}

#[tokio::test(start_paused = true)]
async fn m6_a_day_of_bad_bodies_leaves_stable_tokens_for_real_deaths_in_the_evening() {
    let world = World::default();
    day_of(&world, &stable(&world), 1).await;
    assert!(world.forced() <= 18, "{}", world.forced());
}

#[tokio::test(start_paused = true)]
async fn m6_a_day_of_bad_bodies_leaves_classic_tokens_for_real_deaths_in_the_evening() {
    let world = World::default();
    day_of(&world, &classic(&world), 1).await;
    assert!(world.classic() < 200, "{}", world.classic());
}

// More paths than the source has forced refreshes in a day, and than it has at once.
#[tokio::test(start_paused = true)]
async fn m6_a_day_of_bad_bodies_at_many_paths_leaves_tokens_for_real_deaths_in_the_evening() {
    let world = World::default();
    day_of(&world, &stable(&world), 30).await;
    assert!(world.forced() <= 18, "{}", world.forced());
    let world = World::default();
    day_of(&world, &classic(&world), 30).await;
    assert!(world.classic() < 1500, "{}", world.classic());
}

// Whatever is rejected, and however often: WeChat's quota is not used up.
#[tokio::test(start_paused = true)]
async fn m6_any_24_hours_of_endless_rejections_leave_a_reserve() {
    let world = World::default();
    let service = stable(&world);
    let start = Instant::now();
    let mut number = 0;
    let mut most = 0;
    while start.elapsed() < secs(3 * 24 * 60 * 60) {
        bad_call_refreshes(&service, &format!("/cgi-bin/bad/{number}")).await;
        number += 1;
        most = most.max(world.forced());
        sleep(secs(20)).await;
    }
    assert!((12..=18).contains(&most), "{most}");
    assert_eq!(world.refused(), 0);
}

/// A day on which each bad call is over before its replay is answered, as `bad` makes them; in the
/// evening the token dies, and healthy calls want another.
async fn day_without_verdicts<F: AsyncFn(&WechatAuth<World>)>(bad: F) {
    for service in [stable, classic] {
        let world = World::default();
        let service = service(&world);
        let start = Instant::now();
        while start.elapsed() < secs(20 * 60 * 60) {
            bad(&service).await;
            sleep(secs(20)).await;
        }
        for hour in 20..24 {
            world.revoke();
            let healed = is_well(&service, "/cgi-bin/good").await;
            assert!(healed, "at {hour} o'clock; {} forced", world.forced());
            for _ in 0..60 {
                bad(&service).await;
                sleep(secs(60)).await;
            }
        }
        assert_eq!(world.refused(), 0);
    }
}

// Its caller has a short timeout, and nobody waits for what would say that the refresh was futile.
#[tokio::test(start_paused = true)]
async fn m6_a_day_of_bad_calls_that_are_given_up_leaves_tokens_for_real_deaths() {
    for milliseconds in [150, 250] {
        day_without_verdicts(async |service| {
            let call = call(service, "/cgi-bin/bad", BAD);
            let _ = tokio::time::timeout(Duration::from_millis(milliseconds), call).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn m6_a_day_of_bad_calls_whose_bodies_are_not_kept_leaves_tokens_for_real_deaths() {
    day_without_verdicts(async |service| {
        let pieces = futures_util::stream::iter(["access_token=", "x"]);
        let pieces = futures_util::StreamExt::then(pieces, async |piece| {
            sleep(Duration::from_millis(1)).await;
            Ok::<_, std::io::Error>(bytes::Bytes::from(piece))
        });
        let request = Request::post(format!("{HOST}/cgi-bin/bad"))
            .header("content-length", "14")
            .extension(tower_wechat::ReplayBudget::new(0))
            .body(Body::from_stream(pieces));
        let reply = service.clone().oneshot(request.unwrap()).await.unwrap();
        let outcome = reply.extensions().get::<AuthOutcome>().cloned().unwrap();
        assert!(!outcome.replayed());
    })
    .await;
}

// Machines of WeChat's do not all learn at the same moment that a token is dead.
#[tokio::test(start_paused = true)]
async fn m9_a_path_whose_replay_was_accepted_is_not_marked_by_what_comes_later() {
    let second_death = Arc::new(AtomicBool::new(false));
    let is_dead = Arc::clone(&second_death);
    let service = slow_refresh(move |path, token| match (path, token) {
        ("/cgi-bin/late", _) => (OK, 5_000),
        (_, "token-1") => (REJECTED, 10),
        (_, "token-2") if is_dead.load(Ordering::SeqCst) => (REJECTED, 10),
        _ => (OK, 10),
    });
    let healed = {
        let service = service.clone();
        tokio::spawn(async move { send(&service, "/cgi-bin/good").await })
    };
    // The first token has come, it was rejected, and the refresh is under way.
    sleep(Duration::from_millis(1_500)).await;
    let late = {
        let service = service.clone();
        tokio::spawn(async move { send(&service, "/cgi-bin/late").await })
    };
    assert!(healed.await.unwrap().replayed());
    // Sent with the first token, after the rejection, and accepted.
    late.await.unwrap();
    second_death.store(true, Ordering::SeqCst);
    let outcome = send(&service, "/cgi-bin/good").await;
    assert!(outcome.replayed(), "{outcome:?}");
}

// A long upload comes back after its token was replaced, and after that one died, which nobody has
// seen yet.
#[tokio::test(start_paused = true)]
async fn m9_a_replay_with_a_token_that_was_there_already_says_nothing_about_a_refresh() {
    let second_death = Arc::new(AtomicBool::new(false));
    let is_dead = Arc::clone(&second_death);
    let service = slow_refresh(move |path, token| match (path, token) {
        ("/cgi-bin/send", "token-1") => (REJECTED, 10_000),
        (_, "token-1") => (REJECTED, 10),
        (_, "token-2") if is_dead.load(Ordering::SeqCst) => (REJECTED, 10),
        _ => (OK, 10),
    });
    let long = {
        let service = service.clone();
        tokio::spawn(async move { send(&service, "/cgi-bin/send").await })
    };
    sleep(secs(2)).await;
    assert!(send(&service, "/cgi-bin/other").await.replayed());
    second_death.store(true, Ordering::SeqCst);
    assert!(long.await.unwrap().rejected_again());
    // The first rejection of the current token that is reported.
    let outcome = send(&service, "/cgi-bin/send").await;
    assert!(
        outcome.replayed() && !outcome.rejected_again(),
        "{outcome:?}"
    );
}
