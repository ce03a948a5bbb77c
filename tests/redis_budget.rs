//! How often all processes together may have a rejected token replaced (M6).

#[macro_use]
mod support;

use std::convert::Infallible;
use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use support::redis_server::{RedisServer, Wire};
use support::*;
use tokio::time::{Instant, advance, sleep, timeout};
use tower::service_fn;
use tower::util::BoxCloneSyncService;
use tower_wechat::redis::{Layout, Outage, RedisTokens};
use tower_wechat::{
    AccessToken, RateLimit, StableToken, TokenError, TokenManager, TokenSource, source_fn,
};

const KEY: &str = "tokens:{wx1}";
const REFRESHES: &str = "tokens:{wx1}:refreshes";
const TWO_HOURS_MS: i64 = 7_200_000;

type Http = BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;

/// WeChat's `stable_token`, with the clock of the test.
#[derive(Clone, Default)]
struct Stable(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    number: u64,
    ends_at: Option<Instant>,
    /// Each forced request, whatever it brought.
    forced: Vec<Instant>,
    /// The last of them that brought another token.
    refreshed_at: Option<Instant>,
}

impl State {
    fn token(&mut self, force: bool) -> Value {
        let now = Instant::now();
        let apart = |at: Instant| now >= at + Duration::from_secs(30);
        let over = self
            .ends_at
            .is_none_or(|at| now + Duration::from_secs(300) >= at);
        let refreshes = force && self.refreshed_at.is_none_or(apart);
        if force {
            self.forced.push(now);
        }
        if refreshes {
            self.refreshed_at = Some(now);
        }
        if over || refreshes {
            self.number += 1;
            self.ends_at = Some(now + TWO_HOURS);
        }
        let left = self.ends_at.unwrap() - now;
        json!({ "access_token": format!("S3CRET-{}", self.number), "expires_in": left.as_secs() })
    }
}

impl Stable {
    /// What one process has.
    fn source(&self) -> StableToken<Http, Request<Full<Bytes>>> {
        let Stable(state) = self.clone();
        let http = service_fn(move |request: Request<Full<Bytes>>| {
            let state = Arc::clone(&state);
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let body: Value = serde_json::from_slice(&body).unwrap();
                let force = body["force_refresh"] == true;
                let token = state.lock().unwrap().token(force);
                Ok(Response::new(Full::from(token.to_string())))
            }
        });
        StableToken::new(BoxCloneSyncService::new(http), "wx1", "S3CRET")
    }

    fn process(&self, redis: &RedisServer) -> RedisTokens<impl TokenSource + use<>> {
        RedisTokens::new(redis.client(), self.source())
            .layout(Layout::new(KEY))
            .outage(Outage::Fail)
    }

    fn forced(&self) -> Vec<Instant> {
        self.0.lock().unwrap().forced.clone()
    }
}

/// How full the budget is, in milliseconds; less than none if nothing was counted.
async fn level(redis: &RedisServer) -> i64 {
    redis.raw(&["PTTL", REFRESHES]).await
}

#[tokio::test]
async fn m6_the_budget_is_what_the_source_says_and_what_was_set_goes_before() {
    let client = redis::Client::open("redis://127.0.0.1:1/").unwrap();
    let stable = || RedisTokens::new(client.clone(), Stable::default().source());
    let said = RateLimit::new(6, TWO_HOURS);
    assert_eq!(stable().refresh_limit(), Some(said));
    let set = stable().refresh_budget(2, Duration::from_secs(9));
    assert_eq!(
        set.refresh_limit(),
        Some(RateLimit::new(2, Duration::from_secs(9)))
    );
    let closure = source_fn(|_| ready(Ok(AccessToken::new("S3CRET-1", TWO_HOURS))));
    assert_eq!(RedisTokens::new(client, closure).refresh_limit(), None);
}

#[tokio::test]
async fn m6_a_forced_refresh_costs_as_much_as_the_source_says() {
    let redis = redis!();
    let tokens = Stable::default().process(&redis);
    let first = tokens.issue(None).await.unwrap();
    assert_eq!(level(&redis).await, -2);
    tokens.issue(Some(&first)).await.unwrap();
    let level = level(&redis).await;
    assert!((TWO_HOURS_MS - 60_000..=TWO_HOURS_MS).contains(&level));
}

/// Somebody outside has replaced it.
#[tokio::test]
async fn m6_a_refresh_that_came_without_force_costs_nothing() {
    let redis = redis!();
    let wechat = Stable::default();
    let tokens = wechat.process(&redis);
    let first = tokens.issue(None).await.unwrap();
    wechat.0.lock().unwrap().token(true);
    let second = tokens.issue(Some(&first)).await.unwrap();
    assert_ne!(second, first);
    assert_eq!(wechat.forced().len(), 1, "by others");
    assert_eq!(level(&redis).await, -2);
}

#[tokio::test]
async fn m6_a_token_that_may_not_be_forced_yet_costs_nothing() {
    let redis = redis!();
    let wechat = Stable::default();
    let tokens = wechat.process(&redis);
    let first = tokens.issue(None).await.unwrap();
    let second = tokens.issue(Some(&first)).await.unwrap();
    let before = level(&redis).await;
    // Within 30 s.
    assert_eq!(tokens.issue(Some(&second)).await.unwrap(), second);
    assert!(level(&redis).await <= before);
    assert_eq!(wechat.forced().len(), 1);
}

/// By another process, within 30 s of the first one's: WeChat may have counted it.
#[tokio::test]
async fn m6_a_forced_request_that_brings_the_rejected_token_again_is_counted() {
    let redis = redis!();
    let wechat = Stable::default();
    let (one, other) = (wechat.process(&redis), wechat.process(&redis));
    let first = one.issue(None).await.unwrap();
    let second = one.issue(Some(&first)).await.unwrap();
    assert_eq!(other.issue(Some(&second)).await.unwrap(), second);
    assert_eq!(wechat.forced().len(), 2);
    assert!(level(&redis).await > TWO_HOURS_MS);
}

#[tokio::test]
async fn m6_a_source_without_a_limit_that_gives_the_rejected_token_again_costs_nothing() {
    let redis = redis!();
    let same = source_fn(|_| ready(Ok(AccessToken::new("S3CRET-1", TWO_HOURS))));
    let tokens = RedisTokens::new(redis.client(), same).layout(Layout::new(KEY));
    let first = tokens.issue(None).await.unwrap();
    for _ in 0..10 {
        assert_eq!(tokens.issue(Some(&first)).await.unwrap(), first);
    }
    assert_eq!(level(&redis).await, -2);
}

#[tokio::test]
async fn m6_a_refusal_costs_nothing() {
    let redis = redis!();
    let refusing = source_fn(|_| ready(Err(TokenError::api(40164, "not in whitelist"))));
    let tokens = RedisTokens::new(redis.client(), refusing).layout(Layout::new(KEY));
    let rejected = AccessToken::new("S3CRET-1", TWO_HOURS);
    tokens.issue(Some(&rejected)).await.unwrap_err();
    assert_eq!(level(&redis).await, -2);
}

#[tokio::test]
async fn m6_a_token_that_another_process_has_got_costs_the_managers_budget_nothing() {
    let redis = redis!();
    let issued = Arc::new(AtomicUsize::new(0));
    let process = |burst| {
        let issued = Arc::clone(&issued);
        let source = source_fn(move |_| {
            let number = issued.fetch_add(1, Ordering::SeqCst);
            ready(Ok(AccessToken::new(format!("S3CRET-{number}"), TWO_HOURS)))
        });
        let tokens = RedisTokens::new(redis.client(), source).layout(Layout::new(KEY));
        TokenManager::builder(tokens)
            .refresh_budget(burst, Duration::from_secs(3600))
            .build()
    };
    let (busy, idle) = (process(5), process(1));
    let mut token = busy.token().await.unwrap();
    for _ in 0..4 {
        let next = busy.refresh(&token).await.unwrap();
        assert_eq!(idle.refresh(&token).await.unwrap(), next);
        token = next;
    }
    assert_eq!(issued.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn m6_a_token_that_came_too_late_is_paid_for_once() {
    let redis = redis!();
    let wire = Wire::to(redis.address()).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let source = source_fn(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            sleep(Duration::from_millis(50)).await;
            Ok(AccessToken::new(format!("S3CRET-{number}"), TWO_HOURS))
        }
    });
    let tokens = RedisTokens::new(wire.client(), source)
        .layout(Layout::new(KEY))
        .lease(Duration::from_millis(200))
        .refresh_budget(5, TWO_HOURS);
    let first = tokens.issue(None).await.unwrap();
    {
        let mut refreshing = std::pin::pin!(tokens.issue(Some(&first)));
        while asked.load(Ordering::SeqCst) == 1 {
            let _ = timeout(Duration::from_millis(1), &mut refreshing).await;
        }
        wire.cut(true);
        // Its manager loses patience while the token is being written.
        let _ = timeout(Duration::from_millis(500), refreshing).await;
    }
    wire.cut(false);
    let second = tokens.issue(Some(&first)).await.unwrap();
    assert_eq!(second.secret(), "S3CRET-1");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert!(level(&redis).await <= TWO_HOURS_MS);
}

/// Keeps the clock where it is, whatever is waited for: Redis answers in the time of the machine.
fn hold_time() -> std::sync::mpsc::Sender<()> {
    let (release, held) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || held.recv());
    release
}

/// Both clocks go on.
async fn pass(redis: &RedisServer, time: Duration) {
    advance(time).await;
    for key in redis.raw::<Vec<String>>(&["KEYS", "*"]).await {
        let left: i64 = redis.raw(&["PTTL", &key]).await;
        let left = (left - time.as_millis() as i64).to_string();
        let _: () = redis.raw(&["PEXPIRE", &key, &left]).await;
    }
}

#[tokio::test]
async fn m6_two_days_of_endless_rejections_in_many_processes_force_fewer_than_twenty_tokens_a_day()
{
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const STEP: Duration = Duration::from_secs(20 * 60);
    let redis = redis!();
    tokio::time::pause();
    let held = hold_time();
    let wechat = Stable::default();
    let mut processes = Vec::new();
    for _ in 0..6 {
        let tokens = wechat.process(&redis);
        let token = tokens.issue(None).await.unwrap();
        processes.push((tokens, token));
    }
    let (mut refreshed, mut over_budget) = (0, 0);
    let started_at = Instant::now();
    while started_at.elapsed() < 2 * DAY {
        for (tokens, current) in &mut processes {
            for _ in 0..2 {
                match tokens.issue(Some(current)).await {
                    Ok(next) => {
                        refreshed += 1;
                        *current = next;
                    }
                    Err(TokenError::OverBudget) => over_budget += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        pass(&redis, STEP).await;
    }
    let forced = wechat.forced();
    let within_a_day = forced.iter().map(|from| {
        let day = forced
            .iter()
            .filter(|at| **at >= *from && **at < *from + DAY);
        day.count()
    });
    let most = within_a_day.max().unwrap();
    assert!(
        (12..20).contains(&most),
        "{most} a day, {} in all",
        forced.len()
    );
    assert!(
        over_budget > 500 && refreshed > 100,
        "{over_budget} {refreshed}"
    );
    drop(held);
}
