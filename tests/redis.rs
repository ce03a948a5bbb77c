//! One token for several processes: the rules, each against a redis-server, with managers in the
//! place of processes.

#[macro_use]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use support::redis_server::{RedisServer, Wire};
use support::*;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_wechat::mock::MockWechat;
use tower_wechat::redis::{Layout, Outage, RedisTokens};
use tower_wechat::{
    AccessToken, TokenError, TokenManager, TokenSource, WeComCredential, WechatAuthLayer, source_fn,
};

const KEY: &str = "tokens:{wx1}";
const LEASE: &str = "tokens:{wx1}:lease";

/// WeChat, as far as sources know it: gives out `S3CRET-1`, `S3CRET-2` and so on.
#[derive(Clone, Default)]
struct Issuer {
    issued: Arc<AtomicUsize>,
    delay: Duration,
}

impl Issuer {
    fn source(&self) -> impl TokenSource + use<> {
        let Issuer { issued, delay } = self.clone();
        source_fn(move |_| {
            let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                sleep(delay).await;
                let life = life_of(number);
                Ok(AccessToken::new(format!("S3CRET-{number}"), life))
            }
        })
    }

    fn issued(&self) -> usize {
        self.issued.load(Ordering::SeqCst)
    }

    /// What one process has.
    fn shared_in(&self, redis: &RedisServer) -> RedisTokens<impl TokenSource + use<>> {
        RedisTokens::new(redis.client(), self.source()).layout(Layout::new(KEY))
    }

    fn process(&self, redis: &RedisServer) -> TokenManager {
        TokenManager::new(self.shared_in(redis))
    }
}

fn slow() -> Issuer {
    Issuer {
        delay: Duration::from_millis(100),
        ..Issuer::default()
    }
}

#[tokio::test]
async fn one_process_asks_and_the_others_find_the_token() {
    let redis = redis!();
    let issuer = slow();
    let processes: Vec<_> = (0..8).map(|_| issuer.process(&redis)).collect();
    let tokens = join_all(processes.iter().map(TokenManager::token)).await;
    assert!(
        tokens
            .iter()
            .all(|token| token.as_ref().unwrap().secret() == "S3CRET-1")
    );
    assert_eq!(
        issuer.process(&redis).token().await.unwrap().secret(),
        "S3CRET-1"
    );
    assert_eq!(issuer.issued(), 1);
}

#[tokio::test]
async fn a_rejected_token_is_replaced_once_for_all() {
    let redis = redis!();
    let issuer = slow();
    let processes: Vec<_> = (0..8).map(|_| issuer.process(&redis)).collect();
    let first = processes[0].token().await.unwrap();
    let refreshed = join_all(processes.iter().map(|tokens| tokens.refresh(&first))).await;
    assert!(
        refreshed
            .iter()
            .all(|token| token.as_ref().unwrap().secret() == "S3CRET-2")
    );
    assert_eq!(issuer.issued(), 2);
}

#[tokio::test]
async fn a_late_rejection_gets_the_newer_token_and_asks_for_none() {
    let redis = redis!();
    let issuer = Issuer::default();
    let (one, other) = (issuer.process(&redis), issuer.process(&redis));
    let first = one.token().await.unwrap();
    assert_eq!(other.token().await.unwrap(), first);
    let second = one.refresh(&first).await.unwrap();
    assert_eq!(other.refresh(&first).await.unwrap(), second);
    assert_eq!(issuer.issued(), 2);
}

#[tokio::test]
async fn a_renewal_ahead_of_expiry_is_done_by_one_and_taken_by_the_others() {
    let redis = redis!();
    let issuer = Issuer::default();
    let (one, other) = (issuer.shared_in(&redis), issuer.shared_in(&redis));
    let first = one.issue(None).await.unwrap();
    assert_eq!(other.issue(None).await.unwrap(), first);

    let second = one.renew(&first).await.unwrap();
    assert_eq!(second.secret(), "S3CRET-2");
    assert_eq!(other.renew(&first).await.unwrap(), second);
    assert_eq!(issuer.issued(), 2);
}

#[tokio::test]
async fn a_manager_renews_a_shared_token_ahead_of_its_expiry() {
    let redis = redis!();
    let issuer = Issuer::default();
    let _: () = redis.raw(&["SET", KEY, "old", "PX", "4000"]).await;
    let tokens = TokenManager::builder(issuer.shared_in(&redis))
        .refresh_before(Duration::from_secs(3600))
        .build();
    let _fresh = tokens.keep_fresh();
    while tokens.cached().is_none_or(|token| token.secret() == "old") {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(redis.raw::<String>(&["GET", KEY]).await, "S3CRET-1");
}

#[tokio::test]
async fn the_ttl_is_the_life() {
    let redis = redis!();
    let issuer = Issuer::default();
    let token = issuer.process(&redis).token().await.unwrap();
    let left: u64 = redis.raw(&["PTTL", KEY]).await;
    assert!(left <= 7_200_000 && Duration::from_millis(left) + Duration::from_secs(60) > TWO_HOURS);

    let _: () = redis
        .raw(&[
            "SET",
            KEY,
            "from elsewhere".replace(' ', "-").as_str(),
            "PX",
            "90000",
        ])
        .await;
    let tokens = issuer.process(&redis);
    assert_eq!(tokens.token().await.unwrap().secret(), "from-elsewhere");
    assert!(tokens.token().await.unwrap().expires_in() <= Duration::from_secs(90));
    assert_ne!(tokens.token().await.unwrap(), token);
}

#[tokio::test]
async fn an_accounts_keys_are_named_after_it_and_hold_no_secret() {
    let redis = redis!();
    let wechat = MockWechat::start().await;
    let tokens = TokenManager::new(RedisTokens::new(redis.client(), credential_of(&wechat)));
    let first = tokens.token().await.unwrap();
    let second = tokens.refresh(&first).await.unwrap();

    let appid = wechat.appid();
    let mut keys: Vec<String> = redis.raw(&["KEYS", "*"]).await;
    keys.sort();
    let named = |name: &str| format!("tower-wechat:{{{appid}}}:{name}");
    assert_eq!(keys, [named("access_token"), named("refreshes")]);
    assert_eq!(
        redis.raw::<String>(&["GET", &keys[0]]).await,
        second.secret()
    );
    assert_eq!(redis.raw::<String>(&["GET", &keys[1]]).await, "");
    assert_eq!(tokens.account(), Some(appid));
}

#[tokio::test]
async fn a_source_that_does_not_say_whose_token_it_gives_needs_a_layout() {
    let client = redis::Client::open("redis://127.0.0.1:1/").unwrap();
    let closure = RedisTokens::new(client.clone(), Issuer::default().source());
    let error = closure.issue(None).await.unwrap_err().to_string();
    assert!(error.contains("Layout::new"), "{error}");
    // Each application of a company's has a token of its own.
    let wecom = WeComCredential::new(hyper(), "ww1", "S3CRET").base_url("http://127.0.0.1:1");
    let wecom = RedisTokens::new(client, wecom);
    assert_eq!(wecom.account(), Some("ww1"));
    let error = wecom.issue(None).await.unwrap_err().to_string();
    assert!(error.contains("Layout::new"), "{error}");
}

#[tokio::test]
async fn the_refresh_budget_is_for_all_processes_together() {
    let redis = redis!();
    let issuer = Issuer::default();
    let per = Duration::from_secs(3600);
    let processes: Vec<_> = (0..3)
        .map(|_| TokenManager::new(issuer.shared_in(&redis).refresh_budget(2, per)))
        .collect();
    let mut token = processes[0].token().await.unwrap();
    for tokens in &processes[..2] {
        token = tokens.refresh(&token).await.unwrap();
    }
    let error = processes[2].refresh(&token).await.unwrap_err();
    assert!(matches!(error, TokenError::OverBudget), "{error}");
    assert_eq!(issuer.issued(), 3);
    assert_eq!(
        processes[2].token().await.unwrap(),
        token,
        "it stays the current one"
    );

    // As if an hour had passed.
    let left: i64 = redis.raw(&["PTTL", "tokens:{wx1}:refreshes"]).await;
    let an_hour_later = (left - 3_600_000).to_string();
    let _: () = redis
        .raw(&["PEXPIRE", "tokens:{wx1}:refreshes", &an_hour_later])
        .await;
    assert_ne!(processes[0].refresh(&token).await.unwrap(), token);
}

#[tokio::test]
async fn a_first_token_and_a_renewal_cost_nothing_of_the_budget() {
    let redis = redis!();
    let issuer = Issuer::default();
    let tokens = issuer
        .shared_in(&redis)
        .refresh_budget(0, Duration::from_secs(1));
    let first = tokens.issue(None).await.unwrap();
    let second = tokens.renew(&first).await.unwrap();
    let error = tokens.issue(Some(&second)).await.unwrap_err();
    assert!(matches!(error, TokenError::OverBudget), "{error}");
}

#[tokio::test]
async fn what_is_no_token_is_replaced() {
    let redis = redis!();
    let large = "x".repeat(20_000);
    let garbage: [&[&str]; 7] = [
        &["SETRANGE", KEY, "5000000", "x"],
        &["SET", KEY, "", "PX", "90000"],
        &["SET", KEY, "two words", "PX", "90000"],
        &["SET", KEY, &large, "PX", "90000"],
        &["SET", KEY, "without-a-ttl"],
        &["SET", KEY, "nearly-over", "PX", "900"],
        &["RPUSH", KEY, "a", "list"],
    ];
    for command in garbage {
        let _: () = redis.raw(&["FLUSHALL"]).await;
        let _: redis::Value = redis.raw(command).await;
        let issuer = Issuer::default();
        let (one, other) = (issuer.process(&redis), issuer.process(&redis));
        assert_eq!(one.token().await.unwrap().secret(), "S3CRET-1");
        assert_eq!(other.token().await.unwrap().secret(), "S3CRET-1");
        let left: i64 = redis.raw(&["PTTL", KEY]).await;
        assert!(left > 90_000, "{command:?}");
    }
}

#[tokio::test]
async fn a_lease_or_a_budget_that_is_none_does_not_stand_in_the_way_for_ever() {
    let redis = redis!();
    let garbage: [&[&str]; 4] = [
        &["SET", LEASE, "nobody, without a ttl"],
        &["RPUSH", LEASE, "a", "list"],
        &["SET", "tokens:{wx1}:refreshes", "not a number"],
        &["RPUSH", "tokens:{wx1}:refreshes", "a", "list"],
    ];
    for command in garbage {
        let _: () = redis.raw(&["FLUSHALL"]).await;
        let issuer = Issuer::default();
        let tokens = issuer.shared_in(&redis).lease(Duration::from_millis(200));
        let first = tokens.issue(None).await.unwrap();
        let _: redis::Value = redis.raw(command).await;
        let second = tokens.issue(Some(&first)).await.unwrap();
        assert_eq!(second.secret(), "S3CRET-2", "{command:?}");
    }
}

#[tokio::test]
async fn a_lease_is_kept_for_as_long_as_the_source_works() {
    let redis = redis!();
    let issuer = Issuer {
        delay: Duration::from_millis(700),
        ..Issuer::default()
    };
    let process = || issuer.shared_in(&redis).lease(Duration::from_millis(150));
    let (one, other) = (process(), process());
    let (one, other) = tokio::join!(one.issue(None), other.issue(None));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(issuer.issued(), 1);
}

#[tokio::test]
async fn a_source_that_fails_panics_or_hangs_gives_the_lease_back() {
    let redis = redis!();
    for how in ["fails", "panics", "hangs"] {
        let source = source_fn(move |_| async move {
            match how {
                "fails" => Err(TokenError::api(40164, "not in whitelist")),
                "panics" => panic!("a source may"),
                _ => std::future::pending().await,
            }
        });
        let tokens = RedisTokens::new(redis.client(), source)
            .layout(Layout::new(KEY))
            // Nobody could wait for that.
            .lease(Duration::from_secs(3600));
        let tokens = TokenManager::builder(tokens)
            .issue_timeout(Duration::from_millis(500))
            .build();
        tokens.token().await.unwrap_err();
        let issuer = Issuer::default();
        assert_eq!(
            issuer.process(&redis).token().await.unwrap().secret(),
            "S3CRET-1",
            "{how}"
        );
        let _: () = redis.raw(&["FLUSHALL"]).await;
    }
}

/// A source that waits until it is told to go on.
fn held() -> (impl TokenSource, Arc<Semaphore>, Arc<Notify>) {
    let (go_on, asked) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (gate, told) = (Arc::clone(&go_on), Arc::clone(&asked));
    let source = source_fn(move |_| {
        let (gate, told) = (Arc::clone(&gate), Arc::clone(&told));
        async move {
            told.notify_one();
            gate.acquire().await.unwrap().forget();
            Ok(AccessToken::new("S3CRET-late", life_of(0)))
        }
    });
    (source, go_on, asked)
}

/// A process that has the lease and is asking, and what lets it go on.
async fn asking(redis: &RedisServer) -> (JoinHandle<String>, Arc<Semaphore>) {
    let (source, go_on, asked) = held();
    let tokens = RedisTokens::new(redis.client(), source).layout(Layout::new(KEY));
    let tokens = TokenManager::new(tokens);
    let asking = async move { tokens.token().await.unwrap().secret().to_owned() };
    let asking = tokio::spawn(asking);
    asked.notified().await;
    (asking, go_on)
}

#[tokio::test]
async fn who_slept_through_the_lease_does_not_overwrite_a_newer_token() {
    let redis = redis!();
    let (asking, go_on) = asking(&redis).await;
    // As if the lease had gone to another process, which has been quicker.
    let _: () = redis.raw(&["DEL", LEASE]).await;
    let _: () = redis
        .raw(&["SET", KEY, "S3CRET-newer", "PX", "7200000"])
        .await;
    go_on.add_permits(1);
    assert_eq!(asking.await.unwrap(), "S3CRET-newer");
    assert_eq!(redis.raw::<String>(&["GET", KEY]).await, "S3CRET-newer");
}

#[tokio::test]
async fn who_slept_through_the_lease_leaves_it_to_the_one_who_has_it_now() {
    let redis = redis!();
    let (asking, go_on) = asking(&redis).await;
    let _: () = redis.raw(&["SET", LEASE, "another", "PX", "60000"]).await;
    go_on.add_permits(1);
    assert_eq!(asking.await.unwrap(), "S3CRET-late");
    assert_eq!(redis.raw::<Option<String>>(&["GET", KEY]).await, None);
    assert_eq!(redis.raw::<String>(&["GET", LEASE]).await, "another");
}

#[tokio::test]
async fn who_lost_the_lease_to_nobody_may_write() {
    let redis = redis!();
    let (asking, go_on) = asking(&redis).await;
    let _: () = redis.raw(&["DEL", LEASE]).await;
    go_on.add_permits(1);
    assert_eq!(asking.await.unwrap(), "S3CRET-late");
    assert_eq!(redis.raw::<String>(&["GET", KEY]).await, "S3CRET-late");
}

#[tokio::test]
async fn a_mini_programs_token_of_wxjavas_is_used_and_ours_is_written_as_wxjava_does() {
    const TOKEN: &str = "wa:access_token:wx1";
    let redis = redis!();
    let issuer = Issuer::default();
    let joined = || {
        RedisTokens::new(redis.client(), issuer.source())
            .layout(Layout::wx_java_miniapp("wa", "wx1"))
    };
    // WxJava: SETEX with 200 s less than WeChat's expires_in.
    let _: () = redis.raw(&["SETEX", TOKEN, "7000", "S3CRET-of-java"]).await;
    let tokens = TokenManager::new(joined());
    let first = tokens.token().await.unwrap();
    assert_eq!(first.secret(), "S3CRET-of-java");
    assert!(
        first.expires_in() > Duration::from_secs(7100),
        "it outlives its key"
    );
    assert_eq!(issuer.issued(), 0);

    let second = tokens.refresh(&first).await.unwrap();
    assert_eq!(redis.raw::<String>(&["GET", TOKEN]).await, second.secret());
    let left: u64 = redis.raw(&["TTL", TOKEN]).await;
    assert!((6900..=7000).contains(&left), "{left} s");

    // WxJava voids a token that WeChat has turned down.
    let _: () = redis.raw(&["EXPIRE", TOKEN, "0"]).await;
    assert_eq!(
        TokenManager::new(joined()).token().await.unwrap().secret(),
        "S3CRET-2"
    );
}

/// WxJava since 4.6: SETEX with the whole of WeChat's expires_in.
#[tokio::test]
async fn an_official_accounts_token_of_wxjavas_lives_for_as_long_as_its_key() {
    const TOKEN: &str = "wx:access_token:wx1";
    let redis = redis!();
    let issuer = Issuer::default();
    let tokens =
        RedisTokens::new(redis.client(), issuer.source()).layout(Layout::wx_java_mp("wx", "wx1"));
    let _: () = redis.raw(&["SETEX", TOKEN, "300", "S3CRET-of-java"]).await;
    let first = tokens.issue(None).await.unwrap();
    assert_eq!(first.secret(), "S3CRET-of-java");
    assert!(first.expires_in() <= Duration::from_secs(300));
    tokens.issue(Some(&first)).await.unwrap();
    let left: u64 = redis.raw(&["TTL", TOKEN]).await;
    assert!((7100..=7200).contains(&left), "{left} s");
}

#[tokio::test]
async fn while_wxjava_refreshes_we_wait_and_take_what_it_gets() {
    const LOCK: &str = "wx:lock:wx1:accessTokenLock";
    let redis = redis!();
    let issuer = Issuer::default();
    let source =
        RedisTokens::new(redis.client(), issuer.source()).layout(Layout::wx_java_mp("wx", "wx1"));
    let tokens = TokenManager::new(source);
    let locked: String = redis
        .raw(&[
            "SET",
            LOCK,
            "7c9e6679-7425-40de-944b-e07fc1f90ae7",
            "NX",
            "PX",
            "60000",
        ])
        .await;
    assert_eq!(locked, "OK");
    let waiting = tokio::spawn(async move { tokens.token().await });
    sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    let _: () = redis
        .raw(&["SETEX", "wx:access_token:wx1", "7000", "S3CRET-of-java"])
        .await;
    let _: () = redis.raw(&["DEL", LOCK]).await;
    assert_eq!(waiting.await.unwrap().unwrap().secret(), "S3CRET-of-java");
    assert_eq!(issuer.issued(), 0);
}

#[tokio::test]
async fn while_we_refresh_wxjavas_lock_is_taken() {
    const LOCK: &str = "wx:lock:wx1:accessTokenLock";
    let redis = redis!();
    let (source, go_on, asked) = held();
    let source = RedisTokens::new(redis.client(), source).layout(Layout::wx_java_mp("wx", "wx1"));
    let tokens = TokenManager::new(source);
    let waiting = tokio::spawn(async move { tokens.token().await });
    asked.notified().await;
    let lock = &[
        "SET",
        LOCK,
        "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        "NX",
        "PX",
        "60000",
    ];
    assert_eq!(redis.raw::<Option<String>>(lock).await, None);
    // With Jedis it breaks what is no UUID and a time to come.
    let ours: String = redis.raw(&["GET", LOCK]).await;
    let (uuid, until) = ours.split_once(':').unwrap();
    let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12]);
    let until = Duration::from_millis(until.parse().unwrap());
    assert!(until > std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap());
    go_on.add_permits(1);
    waiting.await.unwrap().unwrap();
    assert_eq!(
        redis.raw::<Option<String>>(lock).await.as_deref(),
        Some("OK")
    );
    assert_eq!(
        redis.raw::<String>(&["GET", "wx:access_token:wx1"]).await,
        "S3CRET-late"
    );
}

#[tokio::test]
async fn another_form_of_the_value_can_be_set() {
    let redis = redis!();
    let layout = || {
        Layout::new(KEY).format(
            |token| format!(r#"{{"token":"{}"}}"#, token.secret()),
            |value| {
                Some(
                    value
                        .strip_prefix(r#"{"token":""#)?
                        .strip_suffix(r#""}"#)?
                        .to_owned(),
                )
            },
        )
    };
    let issuer = Issuer::default();
    let process = || RedisTokens::new(redis.client(), issuer.source()).layout(layout());
    let first = process().issue(None).await.unwrap();
    assert_eq!(
        redis.raw::<String>(&["GET", KEY]).await,
        r#"{"token":"S3CRET-1"}"#
    );
    assert_eq!(process().issue(None).await.unwrap(), first);
    assert_eq!(
        process().issue(Some(&first)).await.unwrap().secret(),
        "S3CRET-2"
    );
    assert_eq!(issuer.issued(), 2);
}

#[tokio::test]
async fn calls_make_no_call_to_redis() {
    let redis = redis!();
    let wechat = MockWechat::start().await;
    let tokens = TokenManager::new(RedisTokens::new(redis.client(), credential_of(&wechat)));
    let service = WechatAuthLayer::new(tokens)
        .api_origin(wechat.url())
        .layer(hyper());
    let call = || async {
        let call = service
            .clone()
            .oneshot(get(format!("{}/cgi-bin/user/get", wechat.url())));
        assert!(text(call.await.unwrap()).await.contains("total"));
    };
    call().await;
    let before = redis.commands().await;
    for _ in 0..10 {
        join_all((0..50).map(|_| call())).await;
    }
    let after = redis.commands().await;
    // The handshake of the connection that asks, and the question, are the same both times.
    let asking = redis.commands().await - after;
    assert_eq!(after - before, asking);
}

#[tokio::test]
async fn a_connection_manager_will_do() {
    let redis = redis!();
    let issuer = slow();
    let manager = redis.client().get_connection_manager().await.unwrap();
    let process = || {
        let tokens = RedisTokens::with_connection(manager.clone(), issuer.source());
        TokenManager::new(tokens.layout(Layout::new(KEY)))
    };
    let (one, other) = (process(), process());
    let (one, other) = tokio::join!(one.token(), other.token());
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(issuer.issued(), 1);
}

#[tokio::test]
async fn a_cluster_will_do() {
    let Some(redis) = RedisServer::as_cluster().await else {
        return;
    };
    let issuer = slow();
    let cluster = redis::cluster::ClusterClient::new([redis.url()]).unwrap();
    let cluster = cluster.get_async_connection().await.unwrap();
    let layouts = [
        Layout::new("tokens"),
        Layout::new(KEY),
        Layout::wx_java_mp("{wx}", "wx1"),
    ];
    for (number, layout) in layouts.into_iter().enumerate() {
        let process = || {
            RedisTokens::with_connection(cluster.clone(), issuer.source())
                .layout(layout.clone())
                .outage(Outage::Fail)
        };
        let (one, other) = (process(), process());
        let (one, other) = tokio::join!(one.issue(None), other.issue(None));
        assert_eq!(one.unwrap(), other.unwrap());
        assert_eq!(issuer.issued(), number + 1);
    }
}

#[tokio::test]
async fn with_redis_away_each_process_asks_for_itself_or_fails_as_it_is_told() {
    let nowhere = || redis::Client::open("redis://127.0.0.1:1/").unwrap();
    let issuer = Issuer::default();
    let away = || {
        RedisTokens::new(nowhere(), issuer.source())
            .layout(Layout::new(KEY))
            .timeout(Duration::from_millis(100))
    };
    assert_eq!(away().issue(None).await.unwrap().secret(), "S3CRET-1");
    let error = away().outage(Outage::Fail).issue(None).await.unwrap_err();
    assert!(matches!(error, TokenError::Transport(_)));
    let said = error.to_string();
    assert!(
        said.contains("Redis is out of reach: Connection refused"),
        "{said}"
    );
    assert_eq!(issuer.issued(), 1);
}

#[tokio::test]
async fn with_redis_away_a_token_that_lives_is_not_renewed_but_one_that_is_over_is_replaced() {
    let issuer = Issuer::default();
    let away = RedisTokens::new(
        redis::Client::open("redis://127.0.0.1:1/").unwrap(),
        issuer.source(),
    )
    .layout(Layout::new(KEY))
    .timeout(Duration::from_millis(100));
    let living = AccessToken::new("S3CRET-0", Duration::from_secs(60));
    away.renew(&living).await.unwrap_err();
    assert_eq!(issuer.issued(), 0);
    away.renew(&AccessToken::new("S3CRET-0", Duration::ZERO))
        .await
        .unwrap();
    assert_eq!(issuer.issued(), 1);
}

#[tokio::test]
async fn what_was_given_up_while_redis_was_away_is_not_taken_from_it_later() {
    let Some(mut redis) = RedisServer::that_keeps_data().await else {
        return;
    };
    let issuer = Issuer::default();
    let tokens = issuer.shared_in(&redis).timeout(Duration::from_millis(200));
    let first = tokens.issue(None).await.unwrap();
    redis.kill().await;
    let second = tokens.issue(Some(&first)).await.unwrap();
    redis.restart().await;
    assert_eq!(redis.raw::<String>(&["GET", KEY]).await, first.secret());
    let third = tokens.issue(Some(&second)).await.unwrap();
    assert_eq!(third.secret(), "S3CRET-3");
    assert_eq!(redis.raw::<String>(&["GET", KEY]).await, third.secret());
}

#[tokio::test]
async fn a_token_that_is_asked_for_while_redis_starts_again_is_shared_all_the_same() {
    let Some(mut redis) = RedisServer::that_keeps_data().await else {
        return;
    };
    let (asking, go_on) = asking(&redis).await;
    redis.restart().await;
    go_on.add_permits(1);
    assert_eq!(asking.await.unwrap(), "S3CRET-late");
    assert_eq!(
        redis.raw::<Option<String>>(&["GET", KEY]).await.as_deref(),
        Some("S3CRET-late")
    );
}

#[tokio::test]
async fn attempts_that_wechat_was_too_busy_for_cost_the_budget_nothing() {
    let redis = redis!();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let source = source_fn(move |rejected: Option<AccessToken>| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            if rejected.is_some() && number < 3 {
                return Err(TokenError::api(-1, "system error"));
            }
            Ok(AccessToken::new(format!("S3CRET-{number}"), TWO_HOURS))
        }
    });
    let tokens = RedisTokens::new(redis.client(), source)
        .layout(Layout::new(KEY))
        .refresh_budget(1, Duration::from_secs(3600));
    let tokens = TokenManager::new(tokens);
    let first = tokens.token().await.unwrap();
    assert_eq!(tokens.refresh(&first).await.unwrap().secret(), "S3CRET-3");
    let level: u64 = redis.raw(&["PTTL", "tokens:{wx1}:refreshes"]).await;
    assert!(level <= 3_600_000, "one unit: {level} ms");
}

#[tokio::test]
async fn a_rejected_token_that_is_over_costs_the_budget_nothing() {
    let redis = redis!();
    let tokens = Issuer::default()
        .shared_in(&redis)
        .refresh_budget(0, Duration::from_secs(1));
    let over = AccessToken::new("S3CRET-over", Duration::ZERO);
    tokens.issue(Some(&over)).await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_asked_for_while_redis_loses_its_data_is_shared_all_the_same() {
    let redis = redis!();
    let _: () = redis.raw(&["SET", KEY, "nearly-over", "PX", "900"]).await;
    let (asking, go_on) = asking(&redis).await;
    let _: () = redis.raw(&["FLUSHALL"]).await;
    go_on.add_permits(1);
    assert_eq!(asking.await.unwrap(), "S3CRET-late");
    assert_eq!(
        redis.raw::<Option<String>>(&["GET", KEY]).await.as_deref(),
        Some("S3CRET-late")
    );
}

#[tokio::test]
async fn a_renewal_is_not_by_a_token_that_ends_sooner() {
    let redis = redis!();
    let tokens = Issuer::default().shared_in(&redis);
    let _: () = redis.raw(&["SET", KEY, "older", "PX", "60000"]).await;
    let current = AccessToken::new("current", Duration::from_secs(250));
    assert_eq!(tokens.renew(&current).await.unwrap().secret(), "S3CRET-1");
}

#[tokio::test]
async fn a_lease_whose_grant_was_never_heard_of_is_given_back() {
    let redis = redis!();
    let tokens = Arc::new(
        Issuer::default()
            .shared_in(&redis)
            .lease(Duration::from_secs(3600)),
    );
    // Wherever it is dropped.
    for step in 0..40 {
        let _ = tokio::time::timeout(Duration::from_micros(100 * step), tokens.issue(None)).await;
        while redis.raw::<bool>(&["EXISTS", LEASE]).await {
            sleep(Duration::from_millis(5)).await;
        }
        let _: () = redis.raw(&["DEL", KEY]).await;
    }
}

#[tokio::test]
async fn a_connection_that_answers_no_more_is_not_kept_however_impatient_the_manager_is() {
    let redis = redis!();
    let wire = Wire::to(redis.address()).await;
    let issuer = Issuer::default();
    let tokens = RedisTokens::new(wire.client(), issuer.source()).layout(Layout::new(KEY));
    let tokens = TokenManager::builder(tokens)
        .issue_timeout(Duration::from_millis(300))
        .build();
    let first = tokens.token().await.unwrap();
    wire.cut(true);
    tokens.refresh(&first).await.unwrap_err();
    wire.cut(false);
    assert_eq!(tokens.refresh(&first).await.unwrap().secret(), "S3CRET-2");
}

#[tokio::test]
async fn a_token_that_came_too_late_for_its_manager_is_not_asked_for_again() {
    let redis = redis!();
    let wire = Wire::to(redis.address()).await;
    let issuer = slow();
    let tokens = RedisTokens::new(wire.client(), issuer.source()).layout(Layout::new(KEY));
    let tokens = TokenManager::builder(tokens)
        .issue_timeout(Duration::from_millis(800))
        .build();
    let waiting = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.token().await }
    });
    while issuer.issued() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    wire.cut(true);
    waiting.await.unwrap().unwrap_err();
    wire.cut(false);
    // The lease may have to end first.
    let token = loop {
        if let Ok(token) = tokens.token().await {
            break token;
        }
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(token.secret(), "S3CRET-1");
    assert_eq!(
        redis.raw::<Option<String>>(&["GET", KEY]).await.as_deref(),
        Some("S3CRET-1")
    );
    assert_eq!(issuer.issued(), 1);
}

/// A failover to a replica that had not heard of the latest.
#[tokio::test]
async fn a_token_that_redis_gives_again_after_it_was_replaced_is_not_taken() {
    let redis = redis!();
    let issuer = Issuer::default();
    let tokens = issuer.shared_in(&redis);
    let first = tokens.issue(None).await.unwrap();
    let second = tokens.issue(Some(&first)).await.unwrap();
    let _: () = redis
        .raw(&["SET", KEY, first.secret(), "PX", "7200000"])
        .await;
    let third = tokens.issue(Some(&second)).await.unwrap();
    assert_eq!(third.secret(), "S3CRET-3");
}

/// Another process has got one while this one was cut off, and this one's own has voided that.
#[tokio::test]
async fn a_shared_token_older_than_a_rejected_one_of_this_processs_own_is_not_taken() {
    let Some(mut redis) = RedisServer::that_keeps_data().await else {
        return;
    };
    let issuer = Issuer::default();
    let _: () = redis
        .raw(&["SET", KEY, "S3CRET-of-another", "PX", "7180000"])
        .await;
    let tokens = issuer.shared_in(&redis).timeout(Duration::from_millis(200));
    redis.kill().await;
    let own = tokens.issue(None).await.unwrap();
    redis.restart().await;
    let next = tokens.issue(Some(&own)).await.unwrap();
    assert_eq!(next.secret(), "S3CRET-2");

    // One that came later is taken.
    redis.kill().await;
    let own = tokens.issue(Some(&next)).await.unwrap();
    redis.restart().await;
    let _: () = redis
        .raw(&["SET", KEY, "S3CRET-later", "PX", "7210000"])
        .await;
    assert_eq!(
        tokens.issue(Some(&own)).await.unwrap().secret(),
        "S3CRET-later"
    );
    assert_eq!(issuer.issued(), 3);
}

#[tokio::test]
async fn a_token_that_came_when_redis_had_gone_is_used_and_the_next_one_is_shared() {
    let Some(mut redis) = RedisServer::start().await else {
        return;
    };
    let (source, go_on, asked) = held();
    let tokens = RedisTokens::new(redis.client(), source).timeout(Duration::from_millis(200));
    let tokens = TokenManager::new(tokens.layout(Layout::new(KEY)));
    let waiting = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.token().await }
    });
    asked.notified().await;
    redis.kill().await;
    go_on.add_permits(1);
    assert_eq!(waiting.await.unwrap().unwrap().secret(), "S3CRET-late");
    redis.restart().await;
    let issuer = Issuer::default();
    assert_eq!(
        issuer.process(&redis).token().await.unwrap().secret(),
        "S3CRET-1"
    );
    let late = tokens.token().await.unwrap();
    assert_eq!(tokens.refresh(&late).await.unwrap().secret(), "S3CRET-1");
}

#[test]
fn a_runtime_that_is_gone_takes_nothing_with_it() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let issuer = Issuer::default();
    let server = runtime();
    let Some(redis) = server.block_on(RedisServer::start()) else {
        return;
    };
    let tokens = issuer.shared_in(&redis).outage(Outage::Fail);
    let first = runtime().block_on(tokens.issue(None)).unwrap();
    // The connection went with the runtime that it was made on.
    let second = runtime().block_on(tokens.issue(Some(&first))).unwrap();
    assert_eq!(second.secret(), "S3CRET-2");
}

#[tokio::test]
async fn no_connection_is_kept_from_one_question_to_the_next() {
    let redis = redis!();
    let (issuer, failing) = (
        slow(),
        source_fn(|_| async { Err(TokenError::other("sealed")) }),
    );
    let (one, other) = (issuer.shared_in(&redis), issuer.shared_in(&redis));
    let (first, _) = tokio::join!(one.issue(None), other.issue(None));
    let failing = RedisTokens::new(redis.client(), failing).layout(Layout::new("failing"));
    failing.issue(first.as_ref().ok()).await.unwrap_err();
    // The one that asks is left.
    while redis
        .raw::<String>(&["CLIENT", "LIST"])
        .await
        .lines()
        .count()
        > 1
    {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn scripts_that_redis_has_forgotten_are_told_it_again() {
    let redis = redis!();
    let issuer = Issuer::default();
    let tokens = issuer.shared_in(&redis).outage(Outage::Fail);
    let mut token = tokens.issue(None).await.unwrap();
    for _ in 0..3 {
        let _: () = redis.raw(&["SCRIPT", "FLUSH"]).await;
        token = tokens.issue(Some(&token)).await.unwrap();
    }
    assert_eq!(issuer.issued(), 4);
}

#[tokio::test]
async fn the_newer_protocol_of_redis_will_do() {
    let redis = redis!();
    let issuer = slow();
    let client = || redis::Client::open(format!("{}?protocol=resp3", redis.url())).unwrap();
    let process = || RedisTokens::new(client(), issuer.source()).layout(Layout::new(KEY));
    let (one, other) = (process(), process());
    let (one, other) = tokio::join!(one.issue(None), other.issue(None));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(issuer.issued(), 1);
}

#[tokio::test]
async fn no_setting_is_too_large_or_too_small() {
    let redis = redis!();
    for extreme in [Duration::ZERO, Duration::MAX] {
        for burst in [1, u32::MAX] {
            let _: () = redis.raw(&["FLUSHALL"]).await;
            let issuer = Issuer::default();
            let tokens = issuer
                .shared_in(&redis)
                .layout(Layout::new(KEY).ends_early(extreme))
                .lease(extreme)
                .timeout(extreme.max(Duration::from_secs(1)))
                .refresh_budget(burst, extreme);
            let first = tokens.issue(None).await.unwrap();
            let second = tokens.issue(Some(&first)).await.unwrap();
            assert_eq!(second.secret(), "S3CRET-2");
            tokens.renew(&second).await.unwrap();
        }
    }
    // Redis may be quick enough even then.
    let tokens = Issuer::default().shared_in(&redis).timeout(Duration::ZERO);
    tokens.issue(None).await.unwrap();
}

/// Announced, that is, and not found by looking from time to time; and who waits does not ask Redis
/// all the time.
#[tokio::test]
async fn who_waits_asks_redis_a_few_times_a_second() {
    let redis = redis!();
    let (asking, go_on) = asking(&redis).await;
    let tokens = Issuer::default().process(&redis);
    let waiting = tokio::spawn(async move { tokens.token().await });
    while redis
        .raw::<Vec<String>>(&["PUBSUB", "CHANNELS"])
        .await
        .is_empty()
    {
        sleep(Duration::from_millis(5)).await;
    }
    let before = redis.commands().await;
    sleep(Duration::from_secs(2)).await;
    let commands = redis.commands().await - before;
    assert!(commands < 100, "{commands} in 2 s");
    go_on.add_permits(1);
    let token = waiting.await.unwrap().unwrap();
    assert_eq!(token.secret(), asking.await.unwrap());
    assert_eq!(token.secret(), "S3CRET-late");
    // The subscription has gone with the wait.
    while !redis
        .raw::<Vec<String>>(&["PUBSUB", "CHANNELS"])
        .await
        .is_empty()
    {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_refusal_of_redis_is_told_in_its_words_and_heals() {
    let redis = redis!();
    let issuer = Issuer::default();
    let tokens = issuer.shared_in(&redis).outage(Outage::Fail);
    let _: () = redis
        .raw(&["ACL", "SETUSER", "default", "-@scripting"])
        .await;
    let error = tokens.issue(None).await.unwrap_err().to_string();
    assert!(error.contains("Redis refuses: NOPERM"), "{error}");
    let _: () = redis.raw(&["ACL", "SETUSER", "default", "+@all"]).await;
    tokens.issue(None).await.unwrap();
}

#[tokio::test]
async fn nothing_that_is_told_holds_a_token() {
    let recorded = record();
    let redis = redis!();
    let issuer = slow();
    let (one, other) = (issuer.shared_in(&redis), issuer.shared_in(&redis));
    let (first, _) = tokio::join!(one.issue(None), other.issue(None));
    let first = first.unwrap();
    let _: () = redis.raw(&["SET", KEY, "S3CRET-without-ttl"]).await;
    one.issue(Some(&first)).await.unwrap();
    let _: () = redis
        .raw(&["ACL", "SETUSER", "default", "-@scripting"])
        .await;
    let error = one.renew(&first).await.unwrap_err();
    let said = format!("{one:?} {} {}", told(&error), recorded.text());
    assert!(said.contains("Redis cannot be used"));
    assert!(!said.contains("S3CRET"), "{said}");
}
