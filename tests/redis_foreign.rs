//! Redis is not trusted: what others have written, by mistake or on purpose.

#[macro_use]
mod support;

use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::redis_server::RedisServer;
use support::*;
use tokio::time::sleep;
use tower_wechat::redis::{Layout, RedisTokens, Seal};
use tower_wechat::{AccessToken, TokenError, TokenSource, source_fn};

const KEY: &str = "tokens:{wx1}";
const LEASE: &str = "tokens:{wx1}:lease";
const REFRESHES: &str = "tokens:{wx1}:refreshes";
const YEARS: &str = "978307200000";

/// The source of an account: gives out `S3CRET-1`, `S3CRET-2` and so on.
#[derive(Clone)]
struct Of(&'static str, Arc<AtomicUsize>);

impl TokenSource for Of {
    async fn issue(&self, _: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
        let number = self.1.fetch_add(1, Ordering::SeqCst) + 1;
        let life = life_of(number);
        Ok(AccessToken::new(format!("S3CRET-{number}"), life))
    }

    fn account(&self) -> Option<&str> {
        Some(self.0)
    }
}

fn of(account: &'static str) -> Of {
    Of(account, Arc::default())
}

fn shared(redis: &RedisServer) -> RedisTokens<Of> {
    RedisTokens::new(redis.client(), of("wx1")).layout(Layout::new(KEY))
}

async fn pttl(redis: &RedisServer, key: &str) -> i64 {
    redis.raw(&["PTTL", key]).await
}

#[tokio::test]
async fn s10_a_lease_for_years_is_waited_for_no_longer_than_any_lease() {
    let redis = redis!();
    for foreign in [
        &["SET", LEASE, "foreign", "PX", YEARS][..],
        &["SET", LEASE, "foreign"],
    ] {
        let _: () = redis.raw(foreign).await;
        let tokens = shared(&redis).lease(Duration::from_millis(150));
        tokens.issue(None).await.unwrap();
        assert_eq!(pttl(&redis, LEASE).await, -2, "{foreign:?}: given back");
        let _: () = redis.raw(&["DEL", KEY]).await;
    }
}

/// Waits at the lock, and says what life the lock has then.
async fn lock_waited_for(redis: &RedisServer, layout: Layout, lock: &[&str]) -> i64 {
    let key = layout.lease_key().to_owned();
    let _: () = redis.raw(lock).await;
    let tokens = RedisTokens::new(redis.client(), of("wx1")).layout(layout);
    let waiting = tokio::spawn(async move { tokens.issue(None).await });
    // Somebody listens for the token, so the lock has been looked at.
    while redis
        .raw::<Vec<String>>(&["PUBSUB", "CHANNELS"])
        .await
        .is_empty()
    {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(!waiting.is_finished());
    waiting.abort();
    pttl(redis, &key).await
}

#[tokio::test]
async fn s10_a_lock_of_wxjavas_is_left_its_minute_and_no_more() {
    let lock = "wx:lock:wx1:accessTokenLock";
    for set in [
        &["SET", lock, "java", "PX", "60000"][..],
        &["SET", lock, "java", "PX", YEARS],
        &["SET", lock, "java"],
        &["RPUSH", lock, "java"],
    ] {
        let redis = redis!();
        let left = lock_waited_for(&redis, Layout::wx_java_mp("wx", "wx1"), set).await;
        assert!((30_000..=60_000).contains(&left), "{set:?}: {left} ms");
    }
}

#[tokio::test]
async fn s10_how_long_another_program_may_hold_the_lease_can_be_set() {
    let redis = redis!();
    let layout = || Layout::new(KEY).longest_lock(Duration::from_secs(600));
    let set = |life| ["SET", LEASE, "foreign", "PX", life];
    let left = lock_waited_for(&redis, layout(), &set("500000")).await;
    assert!(left > 400_000, "{left} ms");
    let redis = redis!();
    let left = lock_waited_for(&redis, layout(), &set(YEARS)).await;
    assert!((400_000..=600_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn s10_a_budget_that_is_used_up_for_years_is_used_up_for_as_long_as_the_limit_can_make_it() {
    let redis = redis!();
    let tokens = shared(&redis).refresh_budget(2, Duration::from_secs(3600));
    let first = tokens.issue(None).await.unwrap();
    let _: () = redis.raw(&["SET", REFRESHES, "", "PX", YEARS]).await;
    let error = tokens.issue(Some(&first)).await.unwrap_err();
    assert!(matches!(error, TokenError::OverBudget), "{error}");
    let left = pttl(&redis, REFRESHES).await;
    assert!((7_000_000..=7_200_000).contains(&left), "{left} ms");

    // As if an hour had passed.
    let an_hour_later = (left - 3_600_000).to_string();
    let _: () = redis.raw(&["PEXPIRE", REFRESHES, &an_hour_later]).await;
    tokens.issue(Some(&first)).await.unwrap();
}

#[tokio::test]
async fn s10_a_token_for_years_lives_no_longer_than_wechats_do() {
    let redis = redis!();
    let _: () = redis.raw(&["SET", KEY, "S3CRET-0", "PX", YEARS]).await;
    let token = shared(&redis).issue(None).await.unwrap();
    assert_eq!(token.secret(), "S3CRET-0");
    assert!(token.expires_in() <= TWO_HOURS);
    // For those who read it later as well.
    assert!(pttl(&redis, KEY).await <= 7_200_000);

    let _: () = redis
        .raw(&["SET", "wa:access_token:wx1", "S3CRET-0", "PX", YEARS])
        .await;
    let tokens =
        RedisTokens::new(redis.client(), of("wx1")).layout(Layout::wx_java_miniapp("wa", "wx1"));
    assert!(tokens.issue(None).await.unwrap().expires_in() <= TWO_HOURS);
}

#[tokio::test]
async fn s10_a_source_of_longer_lives_writes_none_that_is_not_believed() {
    let redis = redis!();
    let years = source_fn(|_| ready(Ok(AccessToken::new("S3CRET-1", Duration::MAX))));
    let tokens = RedisTokens::new(redis.client(), years).layout(Layout::new(KEY));
    assert!(tokens.issue(None).await.unwrap().expires_in() > TWO_HOURS);
    assert!(pttl(&redis, KEY).await <= 7_200_000);
}

/// A token lives from when it was asked for (M7).
#[tokio::test]
async fn m7_a_slow_reply_is_no_part_of_the_life_that_is_written() {
    let redis = redis!();
    let slow = source_fn(|_| async {
        sleep(Duration::from_millis(200)).await;
        Ok(AccessToken::new("S3CRET-1", TWO_HOURS))
    });
    let tokens = RedisTokens::new(redis.client(), slow).layout(Layout::new(KEY));
    tokens.issue(None).await.unwrap();
    assert!(pttl(&redis, KEY).await <= 7_199_800);
}

const SEAL: [u8; 32] = [7; 32];

#[tokio::test]
async fn s10_a_sealed_token_is_shared_and_cannot_be_read_in_redis() {
    let redis = redis!();
    let source = of("wx1");
    let sealed = || {
        RedisTokens::new(redis.client(), source.clone())
            .layout(Layout::new(KEY))
            .sealed(Seal::new(SEAL))
    };
    let first = sealed().issue(None).await.unwrap();
    let value: String = redis.raw(&["GET", KEY]).await;
    assert!(!value.contains("S3CRET"), "{value}");
    assert_eq!(sealed().issue(None).await.unwrap(), first);
    let second = sealed().issue(Some(&first)).await.unwrap();
    assert_eq!(second.secret(), "S3CRET-2");
    assert_eq!(sealed().renew(&first).await.unwrap(), second);
    assert_eq!(source.1.load(Ordering::SeqCst), 2);
    assert!(pttl(&redis, KEY).await > 7_000_000);
}

#[tokio::test]
async fn s10_a_token_of_another_account_or_place_that_is_slipped_in_is_replaced() {
    let redis = redis!();
    let place = |account, key: &str| {
        RedisTokens::new(redis.client(), of(account))
            .layout(Layout::new(key).lease(LEASE).refreshes(REFRESHES))
            .sealed(Seal::new(SEAL))
    };
    for (account, key) in [("wx2", KEY), ("wx1", "tokens:{wx1}:another")] {
        let _: () = redis.raw(&["FLUSHALL"]).await;
        place(account, key).issue(None).await.unwrap();
        let foreign: String = redis.raw(&["GET", key]).await;
        let _: () = redis.raw(&["SET", KEY, &foreign, "PX", "7200000"]).await;
        place("wx1", KEY).issue(None).await.unwrap();
        assert_ne!(
            redis.raw::<String>(&["GET", KEY]).await,
            foreign,
            "{account} {key}"
        );
    }
    let _: () = redis
        .raw(&["SET", KEY, "in-the-open", "PX", "7200000"])
        .await;
    let token = place("wx1", KEY).issue(None).await.unwrap();
    assert_eq!(token.secret(), "S3CRET-1");
}

#[tokio::test]
async fn s10_who_has_no_key_does_not_take_a_sealed_value_for_a_token() {
    let redis = redis!();
    shared(&redis)
        .sealed(Seal::new(SEAL))
        .issue(None)
        .await
        .unwrap();
    let sealed: String = redis.raw(&["GET", KEY]).await;
    let token = shared(&redis).issue(None).await.unwrap();
    assert_eq!(token.secret(), "S3CRET-1");
    assert_ne!(token.secret(), sealed);
}

#[tokio::test]
async fn s10_a_key_is_replaced_without_a_token_request() {
    let redis = redis!();
    let source = of("wx1");
    let with = |seal| {
        RedisTokens::new(redis.client(), source.clone())
            .layout(Layout::new(KEY))
            .sealed(seal)
    };
    let (old, new) = (SEAL, [8; 32]);
    let first = with(Seal::new(old)).issue(None).await.unwrap();
    // All open both, then the new one seals, then the old one goes.
    let both = with(Seal::new(old).also_opens(new));
    assert_eq!(both.issue(None).await.unwrap(), first);
    let next = with(Seal::new(new).also_opens(old));
    assert_eq!(next.issue(None).await.unwrap(), first);
    let second = next.issue(Some(&first)).await.unwrap();
    assert_eq!(both.renew(&first).await.unwrap(), second);
    assert_eq!(with(Seal::new(new)).issue(None).await.unwrap(), second);
    assert_eq!(source.1.load(Ordering::SeqCst), 2);
}

#[test]
fn s10_a_token_that_other_programs_read_is_refused_a_seal_when_it_is_set_up() {
    let foreign = [
        Layout::wx_java_mp("wx", "wx1"),
        Layout::wx_java_miniapp("wa", "wx1"),
        Layout::wx_java_cp("", "ww1", 1),
        Layout::new(KEY).format(|token| token.secret().into(), |value| Some(value.into())),
    ];
    let tokens = || {
        let client = redis::Client::open("redis://127.0.0.1:1/").unwrap();
        RedisTokens::new(client, of("wx1"))
    };
    for layout in foreign {
        let later = layout.clone();
        let seal = || Seal::new(SEAL);
        let first = AssertUnwindSafe(|| drop(tokens().sealed(seal()).layout(layout)));
        let then = AssertUnwindSafe(|| drop(tokens().layout(later).sealed(seal())));
        let (first, then) = (catch_unwind(first), catch_unwind(then));
        for refused in [first, then] {
            let why = refused.unwrap_err();
            let why = why.downcast_ref::<&str>().copied().unwrap_or_default();
            assert!(why.contains("cannot be sealed"), "{why}");
        }
    }
}
