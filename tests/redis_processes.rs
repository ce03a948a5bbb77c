//! One token for several processes, with processes: many at once, killed, and halted.

mod support;

use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use support::programs::{APPID, SECRET};
use support::redis_server::RedisServer;
use support::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, stdin};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_wechat::mock::MockWechat;
use tower_wechat::redis::RedisTokens;
use tower_wechat::{ClientCredential, TokenManager, WechatAuthLayer};

const TOKEN: &str = "tower-wechat:{wxe2e0123456789abc}:access_token";
const LEASE: &str = "tower-wechat:{wxe2e0123456789abc}:lease";

/// The program of the processes below: for each number that it reads, so many messages at once;
/// then it says how many went well.
#[tokio::test]
async fn one_of_the_processes() {
    let Ok(redis) = std::env::var("TEST_REDIS") else {
        return;
    };
    more_open_files();
    let wechat_url = std::env::var("TEST_WECHAT").unwrap();
    let source = ClientCredential::new(hyper(), APPID, SECRET).base_url(&wechat_url);
    let tokens = RedisTokens::new(redis::Client::open(redis).unwrap(), source)
        .refresh_budget(1000, Duration::from_secs(60));
    let tokens = TokenManager::builder(tokens)
        .refresh_budget(1000, Duration::from_secs(60))
        .build();
    let service = WechatAuthLayer::new(tokens)
        .api_origin(&wechat_url)
        .layer(hyper());
    let send = |number: usize| {
        let message = json!({
            "touser": format!("{}-{number}", std::process::id()),
            "msgtype": "text",
            "text": {"content": "x"},
        });
        let uri = format!("{wechat_url}/cgi-bin/message/custom/send");
        let call = service.clone().oneshot(post(uri, message.to_string()));
        async move {
            match call.await {
                Ok(reply) => text(reply).await == OK,
                Err(_) => false,
            }
        }
    };
    let mut orders = BufReader::new(stdin()).lines();
    while let Some(calls) = orders.next_line().await.unwrap() {
        let calls: usize = calls.parse().unwrap();
        let well = join_all((0..calls).map(send)).await;
        let well = well.into_iter().filter(|well| *well).count();
        // A line of its own, whatever the test harness has begun to print.
        println!("\nwell {well}");
    }
}

struct Process {
    process: Child,
    orders: ChildStdin,
    told: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(redis: &RedisServer, wechat: &MockWechat) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "one_of_the_processes", "--nocapture"])
            .env("TEST_REDIS", redis.url())
            .env("TEST_WECHAT", wechat.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let stdout = process.stdout.take().unwrap();
        Process {
            orders: process.stdin.take().unwrap(),
            told: BufReader::new(stdout).lines(),
            process,
        }
    }

    async fn call(&mut self, calls: usize) {
        let order = format!("{calls}\n");
        self.orders.write_all(order.as_bytes()).await.unwrap();
    }

    /// How many of the calls went well.
    async fn well(&mut self) -> usize {
        loop {
            let line = self.told.next_line().await.unwrap();
            let line = line.expect("the process goes on");
            if let Some(well) = line.strip_prefix("well ") {
                return well.parse().unwrap();
            }
        }
    }

    async fn called(&mut self, calls: usize) -> usize {
        self.call(calls).await;
        self.well().await
    }

    async fn signal(&self, signal: &str) {
        let id = self.process.id().unwrap().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().await;
        assert!(sent.unwrap().success());
    }
}

async fn wechat() -> MockWechat {
    MockWechat::builder()
        .account(APPID, SECRET)
        .grace(Duration::ZERO)
        .start()
        .await
}

async fn until_a_token_is_asked_for(wechat: &MockWechat) {
    while wechat.token_requests().started == 0 {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_at_a_revoked_token_make_one_token_request_ten_times_over() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let _calm = calm().await;
    let wechat = wechat().await;
    wechat.set_token_delay(Duration::from_millis(200));
    let mut processes: Vec<_> = (0..8).map(|_| Process::start(&redis, &wechat)).collect();
    for process in &mut processes {
        assert_eq!(process.called(1).await, 1);
    }
    assert_eq!(
        wechat.token_requests().started,
        1,
        "the first token is shared"
    );
    for round in 1..=10 {
        wechat.clear();
        wechat.revoke();
        for process in &mut processes {
            process.call(200).await;
        }
        for process in &mut processes {
            assert_eq!(process.well().await, 200, "in round {round}");
        }
        assert_eq!(wechat.token_requests().started, 1, "in round {round}");
        assert_eq!(wechat.messages().len(), 1600, "each once, in round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_while_it_asks_is_succeeded_by_another() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let _calm = calm().await;
    let wechat = wechat().await;
    let (mut one, mut other) = (
        Process::start(&redis, &wechat),
        Process::start(&redis, &wechat),
    );
    assert_eq!(one.called(1).await + other.called(1).await, 2);

    wechat.clear();
    wechat.revoke();
    wechat.set_token_delay(Duration::from_secs(60));
    one.call(10).await;
    until_a_token_is_asked_for(&wechat).await;
    wechat.set_token_delay(Duration::ZERO);
    other.call(10).await;
    one.process.kill().await.unwrap();
    assert!(
        redis.raw::<bool>(&["EXISTS", LEASE]).await,
        "nobody has given it back"
    );

    assert_eq!(other.well().await, 10);
    assert_eq!(
        wechat.token_requests().started,
        2,
        "that of the killed, and one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_halted_past_its_lease_does_not_overwrite_the_newer_token() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let _calm = calm().await;
    let wechat = wechat().await;
    let (mut one, mut other) = (
        Process::start(&redis, &wechat),
        Process::start(&redis, &wechat),
    );
    assert_eq!(one.called(1).await + other.called(1).await, 2);

    wechat.clear();
    wechat.revoke();
    wechat.set_token_delay(Duration::from_millis(300));
    one.call(10).await;
    until_a_token_is_asked_for(&wechat).await;
    one.signal("-STOP").await;
    assert_eq!(other.called(10).await, 10);
    let newer = wechat.current_token();
    assert_eq!(redis.raw::<Option<String>>(&["GET", TOKEN]).await, newer);

    one.signal("-CONT").await;
    assert_eq!(one.well().await, 10);
    assert_eq!(redis.raw::<Option<String>>(&["GET", TOKEN]).await, newer);
    assert_eq!(
        wechat.token_requests().started,
        2,
        "that of the halted, and one"
    );
    assert_eq!(one.called(10).await + other.called(10).await, 20);
    assert_eq!(wechat.token_requests().started, 2);
}
