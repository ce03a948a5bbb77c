//! One token for several processes, while Redis is away, and when it is back. Managers take the
//! place of processes.

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use support::redis_server::{RedisServer, Wire};
use support::*;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_wechat::mock::MockWechat;
use tower_wechat::redis::{Outage, RedisTokens};
use tower_wechat::{StableToken, TokenManager, TokenSource, WechatAuth, WechatAuthLayer};

type Process = WechatAuth<HyperClient>;

async fn wechat() -> MockWechat {
    MockWechat::builder().grace(Duration::ZERO).start().await
}

fn process(wechat: &MockWechat, tokens: RedisTokens<impl TokenSource>) -> Process {
    WechatAuthLayer::new(TokenManager::new(tokens))
        .api_origin(wechat.url())
        .layer(hyper())
}

fn classic(wechat: &MockWechat, client: redis::Client) -> Process {
    process(wechat, RedisTokens::new(client, credential_of(wechat)))
}

/// Ten calls at once from each, of which none may fail.
#[track_caller]
fn all_well<'a>(
    wechat: &MockWechat,
    processes: impl IntoIterator<Item = &'a Process>,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let uri = format!("{}/cgi-bin/user/get", wechat.url());
    let processes = processes
        .into_iter()
        .flat_map(|process| vec![process.clone(); 10]);
    let calls: Vec<_> = processes
        .map(|process| process.oneshot(get(&uri)))
        .collect();
    async move {
        for reply in join_all(calls).await {
            let reply = text(reply.unwrap()).await;
            assert!(reply.contains("total"), "{caller}: {reply}");
        }
    }
}

fn asked(wechat: &MockWechat) -> usize {
    wechat.token_requests().started
}

async fn redis_is_killed_and_started_again(mut redis: RedisServer) {
    let wechat = wechat().await;
    let processes = [(); 3].map(|()| classic(&wechat, redis.client()));
    all_well(&wechat, &processes).await;
    assert_eq!(asked(&wechat), 1);

    redis.kill().await;
    all_well(&wechat, &processes).await;
    assert_eq!(asked(&wechat), 1, "a token that lives goes on being used");

    redis.restart().await;
    all_well(&wechat, &processes).await;
    assert_eq!(asked(&wechat), 1);

    wechat.revoke();
    all_well(&wechat, &processes).await;
    assert_eq!(asked(&wechat), 2, "they share again");
}

#[tokio::test]
async fn redis_killed_and_started_again_with_its_data_is_joined_again() {
    if let Some(redis) = RedisServer::that_keeps_data().await {
        redis_is_killed_and_started_again(redis).await;
    }
}

#[tokio::test]
async fn redis_killed_and_started_again_without_its_data_is_joined_again() {
    if let Some(redis) = RedisServer::start().await {
        redis_is_killed_and_started_again(redis).await;
    }
}

async fn a_token_dies_while_redis_is_away(mut redis: RedisServer) {
    let wechat = wechat().await;
    let [one, other] = [(); 2].map(|()| classic(&wechat, redis.client()));
    all_well(&wechat, [&one, &other]).await;

    redis.kill().await;
    wechat.revoke();
    all_well(&wechat, [&one]).await;
    assert_eq!(asked(&wechat), 2, "one for itself");
    all_well(&wechat, [&other]).await;
    assert_eq!(
        asked(&wechat),
        3,
        "and one for itself, which voids the other's"
    );

    redis.restart().await;
    all_well(&wechat, [&one]).await;
    all_well(&wechat, [&other]).await;
    all_well(&wechat, [&one, &other]).await;
    assert_eq!(asked(&wechat), 4, "they share again");
}

#[tokio::test]
async fn a_token_that_dies_while_redis_is_away_is_replaced_and_shared_when_it_is_back_with_its_data()
 {
    if let Some(redis) = RedisServer::that_keeps_data().await {
        a_token_dies_while_redis_is_away(redis).await;
    }
}

#[tokio::test]
async fn a_token_that_dies_while_redis_is_away_is_replaced_and_shared_when_it_is_back_without_its_data()
 {
    if let Some(redis) = RedisServer::start().await {
        a_token_dies_while_redis_is_away(redis).await;
    }
}

#[tokio::test]
async fn with_stable_tokens_inside_processes_agree_without_redis_too() {
    let Some(mut redis) = RedisServer::start().await else {
        return;
    };
    let wechat = wechat().await;
    let stable = |client| {
        let source = StableToken::new(hyper(), wechat.appid(), wechat.secret());
        process(
            &wechat,
            RedisTokens::new(client, source.base_url(wechat.url())),
        )
    };
    let [one, other] = [(); 2].map(|()| stable(redis.client()));
    all_well(&wechat, [&one, &other]).await;
    redis.kill().await;
    wechat.revoke();
    all_well(&wechat, [&one]).await;
    all_well(&wechat, [&other]).await;
    all_well(&wechat, [&one, &other]).await;
    redis.restart().await;
    all_well(&wechat, [&one, &other]).await;
}

#[tokio::test]
async fn with_outage_fail_callers_get_wechats_reply_until_redis_is_back() {
    let Some(mut redis) = RedisServer::start().await else {
        return;
    };
    let wechat = wechat().await;
    let tokens = RedisTokens::new(redis.client(), credential_of(&wechat))
        .outage(Outage::Fail)
        .timeout(Duration::from_millis(200));
    let process = process(&wechat, tokens);
    all_well(&wechat, [&process]).await;
    redis.kill().await;
    wechat.revoke();
    let call = process
        .clone()
        .oneshot(get(format!("{}/cgi-bin/user/get", wechat.url())));
    assert!(text(call.await.unwrap()).await.contains("40001"));
    assert_eq!(asked(&wechat), 1);

    redis.restart().await;
    all_well(&wechat, [&process]).await;
    assert_eq!(asked(&wechat), 2);
}

/// Ten seconds, in which the token dies once.
#[tokio::test]
async fn after_a_partition_of_ten_seconds_processes_share_again() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let wechat = wechat().await;
    let wire = Wire::to(redis.address()).await;
    let far = classic(&wechat, wire.client());
    let near = classic(&wechat, redis.client());
    all_well(&wechat, [&far, &near]).await;
    assert_eq!(asked(&wechat), 1);

    wire.cut(true);
    for second in 0..10 {
        if second == 3 {
            wechat.revoke();
            all_well(&wechat, [&near]).await;
            assert_eq!(asked(&wechat), 2, "they are not all cut off");
            // Its own token voids the shared one: without grace there is one that is good.
            all_well(&wechat, [&far]).await;
            assert_eq!(asked(&wechat), 3);
        } else if second < 3 {
            all_well(&wechat, [&far, &near]).await;
        } else {
            all_well(&wechat, [&far]).await;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(asked(&wechat), 3);

    wire.cut(false);
    all_well(&wechat, [&near]).await;
    assert_eq!(asked(&wechat), 4);
    all_well(&wechat, [&far]).await;
    all_well(&wechat, [&far, &near]).await;
    assert_eq!(
        asked(&wechat),
        4,
        "the far one takes what the near one has got"
    );
}
