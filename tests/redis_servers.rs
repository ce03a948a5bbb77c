//! Programs side by side with one Redis: token servers, gateways, and the example `redis`.

mod support;

use futures_util::future::join_all;
use serde_json::Value;
use support::programs::{
    APPID, CLIENT_SECRET, SECRET, Serving, WRONG_SECRET, command, run, server,
};
use support::redis_server::RedisServer;
use support::*;
use tower::ServiceExt;
use tower_wechat::mock::MockWechat;

/// Whose tokens are dead the moment that they are replaced.
async fn wechat() -> MockWechat {
    MockWechat::builder()
        .account(APPID, SECRET)
        .grace(std::time::Duration::ZERO)
        .start()
        .await
}

async fn two(example: &str, wechat: &MockWechat, redis: &RedisServer) -> [Serving; 2] {
    let start = || {
        let mut command = server(example, wechat);
        command.env("WECHAT_REDIS", redis.url());
        Serving::start(command)
    };
    [start().await, start().await]
}

async fn json(url: String) -> Value {
    let reply = hyper().oneshot(get(url)).await.unwrap();
    serde_json::from_str(&text(reply).await).unwrap()
}

async fn token_of(server: &Serving) -> String {
    let url = &server.url;
    let reply = json(format!(
        "{url}/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret={CLIENT_SECRET}"
    ));
    reply.await["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn two_token_servers_give_one_token() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let wechat = wechat().await;
    let servers = two("token_server", &wechat, &redis).await;
    let tokens = [token_of(&servers[0]).await, token_of(&servers[1]).await];
    assert_eq!(tokens[0], tokens[1]);
    assert_eq!(wechat.current_token().as_ref(), Some(&tokens[0]));
    assert_eq!(wechat.token_requests().started, 1);

    // Each says how it came by it.
    let mut told = String::new();
    for server in &servers {
        let metrics = hyper()
            .oneshot(get(format!("{}/metrics", server.url)))
            .await;
        told += &text(metrics.unwrap()).await;
    }
    for result in ["issued", "shared"] {
        let line =
            format!(r#"wechat_shared_tokens_total{{account="{APPID}",result="{result}"}} 1"#);
        assert!(told.contains(&line), "{told}");
    }
}

#[tokio::test]
async fn two_gateways_at_a_revoked_token_make_one_token_request() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let wechat = wechat().await;
    let servers = two("gateway", &wechat, &redis).await;
    // What one has given the other takes.
    let token = token_of(&servers[0]).await;
    let all_well = || async {
        let calls = (0..20).map(|number| {
            let url = &servers[number % 2].url;
            json(format!("{url}/cgi-bin/user/get?access_token={token}"))
        });
        for users in join_all(calls).await {
            assert_eq!(users["total"], 2, "{users}");
        }
    };
    all_well().await;
    assert_eq!(wechat.token_requests().started, 1);
    wechat.revoke();
    all_well().await;
    assert_eq!(wechat.token_requests().started, 2);
}

#[tokio::test]
async fn a_server_starts_without_its_redis_and_tells_no_password_of_it() {
    let wechat = wechat().await;
    let mut command = server("token_server", &wechat);
    command.env("WECHAT_REDIS", "redis://:5ec7e7-of-redis@127.0.0.1:1/");
    let serving = Serving::start(command).await;
    assert_eq!(Some(token_of(&serving).await), wechat.current_token());
    let log = serving.log();
    assert!(log.contains("Redis cannot be used"), "{log}");
    assert!(!log.contains("5ec7e7-of-redis"), "{log}");
}

#[tokio::test]
async fn a_server_whose_password_redis_refuses_says_so_at_its_start_and_starts() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let _: () = redis
        .raw(&["ACL", "SETUSER", "app", "on", ">r1ght", "~*", "&*", "+@all"])
        .await;
    let wechat = wechat().await;
    let mut command = server("token_server", &wechat);
    let url = format!("redis://app:5ec7e7-of-redis@{}/", redis.address());
    command.env("WECHAT_REDIS", url);
    let serving = Serving::start(command).await;
    while !serving.log().contains("Until then each server") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let log = serving.log();
    let said = log.lines().find(|line| line.contains("Until then"));
    let said = said.unwrap();
    assert!(said.contains("ERROR"), "{said}");
    assert!(
        said.contains("correct the user name and the password"),
        "{said}"
    );

    assert_eq!(Some(token_of(&serving).await), wechat.current_token());
    let metrics = hyper().oneshot(get(format!("{}/metrics", serving.url)));
    let metrics = text(metrics.await.unwrap()).await;
    let refused = format!(r#"wechat_shared_tokens_total{{account="{APPID}",result="refused"}} 1"#);
    assert!(metrics.contains(&refused), "{metrics}");
    assert!(!serving.log().contains("5ec7e7-of-redis"));
}

#[tokio::test]
async fn an_address_that_is_none_of_redis_is_told_in_one_sentence_without_it() {
    let wechat = wechat().await;
    let mut command = server("token_server", &wechat);
    command.env("WECHAT_REDIS", "http://:5ec7e7-of-redis@127.0.0.1:1/");
    let ended = run(command).await;
    ended.assert_one_sentence("redis://127.0.0.1:6379/");
    assert!(!ended.stderr.contains("5ec7e7-of-redis"));
}

#[tokio::test]
async fn a_redis_alone_is_half_a_configuration() {
    let mut command = command("gateway");
    command.env("WECHAT_REDIS", "redis://127.0.0.1:1/");
    run(command).await.assert_one_sentence("WECHAT_APPID");
}

#[tokio::test]
async fn the_example_shows_one_token_request_for_two_replicas() {
    if RedisServer::start().await.is_none() {
        return;
    }
    let ended = run(command("redis")).await;
    ended.assert_well();
    let once = ended.stdout.matches("WeChat was asked for a token once.");
    assert_eq!(once.count(), 2, "{}", ended.stdout);
    let replayed = ended
        .stdout
        .matches("10 of them made again with a new token");
    assert_eq!(replayed.count(), 2, "{}", ended.stdout);
}

#[tokio::test]
async fn the_example_says_what_it_lacks() {
    let mut without = command("redis");
    without.env("PATH", "/nowhere");
    run(without)
        .await
        .assert_one_sentence("apt-get install redis-server");
    let mut at_nobodys = command("redis");
    at_nobodys.env("WECHAT_REDIS", "redis://:5ec7e7-of-redis@127.0.0.1:1/");
    let ended = run(at_nobodys).await;
    ended.assert_one_sentence("WECHAT_REDIS cannot be used: Redis is out of reach");
    assert!(!ended.stderr.contains("5ec7e7-of-redis"));
}

#[tokio::test]
async fn the_example_with_an_account_uses_it_and_its_redis() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let wechat = wechat().await;
    let real = |secret: &str| {
        let mut command = command("redis");
        command
            .env("WECHAT_APPID", APPID)
            .env("WECHAT_SECRET", secret)
            .env("WECHAT_BASE_URL", wechat.url())
            .env("WECHAT_REDIS", redis.url());
        command
    };
    run(real(WRONG_SECRET))
        .await
        .assert_one_sentence("the secret is wrong");
    run(real(SECRET)).await.assert_well();
    assert_eq!(wechat.token_requests().issued, 1);
    let key = format!("tower-wechat:{{{APPID}}}:access_token");
    let shared: Option<String> = redis.raw(&["GET", &key]).await;
    assert_eq!(shared, wechat.current_token());
}
