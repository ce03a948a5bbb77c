//! Two replicas of one program use one token, which they keep in Redis.
//!
//! ```sh
//! cargo run --example redis
//! ```
//!
//! needs `redis-server` in the PATH and nothing else. It starts one on a spare port, WeChat in this
//! process (`MockWechat`), and two replicas of itself; then it kills the token, has both make ten
//! calls at once, and says what that took: one token request, by one of them.
//!
//! ```sh
//! WECHAT_APPID=wx… WECHAT_SECRET=… WECHAT_REDIS=redis://127.0.0.1/ cargo run --example redis
//! ```
//!
//! does the same with a real account, whose token it leaves alone, and with a Redis that is there
//! already. `WECHAT_BASE_URL` names another server in the place of WeChat's. What goes wrong is
//! told in one sentence on stderr, with an exit code that is not 0.

use std::env;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, stdin};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_wechat::redis::{Layout, RedisTokens};
use tower_wechat::{
    AuthOutcome, ClientCredential, TokenError, TokenManager, WechatAuthLayer, source_fn,
};

use self::support::{Account, Failure, explain, variable};

mod support;

const CALLS: usize = 10;

/// Says to a process that it is a replica.
const REPLICA: &str = "WECHAT_REPLICA";

#[tokio::main]
async fn main() -> ExitCode {
    let done = match variable(REPLICA) {
        Some(_) => replica().await,
        None => demonstrate().await,
    };
    support::exit_code("redis", done)
}

/// The program that runs twice: for each line that it reads it makes calls, and says how many of
/// them were made again with a new token.
async fn replica() -> Result<(), Failure> {
    let account = Account::from_env().await?;
    let redis = variable("WECHAT_REDIS").ok_or("WECHAT_REDIS is not set")?;
    // The provider is named, as rustls chooses none where two are built in, ring and aws-lc-rs.
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(ring::default_provider())?
        .https_or_http()
        .enable_http1()
        .build();
    let http = Client::builder(TokioExecutor::new()).build(connector);

    // All that is particular to Redis.
    let redis =
        redis::Client::open(redis).map_err(|_| "WECHAT_REDIS is as redis://127.0.0.1/ is")?;
    let source = ClientCredential::new(http.clone(), &account.appid, &account.secret)
        .base_url(&account.base_url);
    let tokens = TokenManager::new(RedisTokens::new(redis, source));

    let service = WechatAuthLayer::new(tokens)
        .api_origin(&account.base_url)
        .layer(http);
    let url = format!("{}/cgi-bin/menu/get", account.base_url);
    let call = || async {
        let request = Request::get(&url).body(Full::<Bytes>::default())?;
        let reply = service.clone().oneshot(request).await;
        let reply = reply.map_err(|error| explain(&error, &account.base_url))?;
        let outcome = reply.extensions().get::<AuthOutcome>().cloned();
        let body = reply.into_body().collect().await?.to_bytes();
        let json: Value = serde_json::from_slice(&body)?;
        match json["errcode"].as_i64().unwrap_or(0) {
            // An account without a menu.
            0 | 46003 => Ok(outcome.is_some_and(|outcome| outcome.replayed())),
            errcode => Err(Failure::from(format!("WeChat says no: errcode {errcode}"))),
        }
    };
    let mut orders = BufReader::new(stdin()).lines();
    while orders.next_line().await?.is_some() {
        let replayed = try_join_all((0..CALLS).map(|_| call())).await?;
        let replayed = replayed.into_iter().filter(|replayed| *replayed).count();
        println!("{CALLS} calls, all well, {replayed} of them made again with a new token");
    }
    Ok(())
}

/// Everything around the replicas.
async fn demonstrate() -> Result<(), Failure> {
    if env::args().len() > 1 {
        return Err("it takes no arguments".into());
    }
    let account = Account::from_env().await?;
    let (redis, _server) = match variable("WECHAT_REDIS") {
        Some(redis) => (usable(redis, &account).await?, None),
        None => {
            let (redis, server) = start_redis().await?;
            (redis, Some(server))
        }
    };
    let mut replicas = [1, 2].map(|number| Replica::start(number, &account, &redis));
    println!("Two replicas are started.");
    for replica in &mut replicas {
        let replica = replica.as_mut().map_err(|error| error.to_string())?;
        replica.call().await?;
        replica.print().await?;
    }
    let Some(mock) = &account.mock else {
        return Ok(());
    };
    let first = mock.token_requests().started;
    println!("WeChat was asked for a token {}.\n", times(first));

    println!("The token is revoked behind their backs, and both make calls at once.");
    mock.revoke();
    for replica in replicas.iter_mut().flatten() {
        replica.call().await?;
    }
    for replica in replicas.iter_mut().flatten() {
        replica.print().await?;
    }
    let second = mock.token_requests().started - first;
    println!("WeChat was asked for a token {}.", times(second));
    match (first, second) {
        (1, 1) => Ok(()),
        _ => Err("each token was to be asked for once".into()),
    }
}

fn times(count: usize) -> String {
    match count {
        1 => "once".to_owned(),
        _ => format!("{count} times"),
    }
}

/// This program once more, as a process of its own.
struct Replica {
    number: usize,
    process: Child,
    orders: ChildStdin,
    told: Lines<BufReader<ChildStdout>>,
}

impl Replica {
    fn start(number: usize, account: &Account, redis: &str) -> Result<Replica, Failure> {
        let mut process = Command::new(env::current_exe()?)
            .env(REPLICA, number.to_string())
            .env("WECHAT_APPID", &account.appid)
            .env("WECHAT_SECRET", &account.secret)
            .env("WECHAT_BASE_URL", &account.base_url)
            .env("WECHAT_REDIS", redis)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        Ok(Replica {
            number,
            orders: stdin.ok_or("a replica without stdin")?,
            told: BufReader::new(stdout.ok_or("a replica without stdout")?).lines(),
            process,
        })
    }

    async fn call(&mut self) -> Result<(), Failure> {
        Ok(self.orders.write_all(b"\n").await?)
    }

    async fn print(&mut self) -> Result<(), Failure> {
        if let Some(told) = self.told.next_line().await? {
            println!("  replica {}: {told}", self.number);
            return Ok(());
        }
        // It has ended, and said why.
        let mut why = String::new();
        if let Some(stderr) = &mut self.process.stderr {
            stderr.read_to_string(&mut why).await?;
        }
        Err(why.trim().trim_start_matches("redis: ").into())
    }
}

/// Tries what the replicas are going to do there.
async fn usable(redis: String, account: &Account) -> Result<String, Failure> {
    let client = redis::Client::open(redis.as_str());
    let client = client.map_err(|_| "WECHAT_REDIS is as redis://127.0.0.1/ is")?;
    let nobody = source_fn(|_| async { Err(TokenError::other("a check asks for no token")) });
    let place = format!("tower-wechat:{{{}}}:access_token", account.appid);
    let tokens = RedisTokens::new(client, nobody).layout(Layout::new(place));
    let checked = tokens.check().await;
    checked.map_err(|error| format!("WECHAT_REDIS cannot be used: {error}"))?;
    Ok(redis)
}

/// A Redis that keeps nothing, on a spare port.
async fn start_redis() -> Result<(String, Child), Failure> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let started = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no"])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let server = started.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            "redis-server is not in the PATH: install it, as by `apt-get install redis-server` or \
                                `brew install redis`, or name a Redis of yours in WECHAT_REDIS"
                .into()
        }
        _ => Failure::from(error),
    })?;
    let url = format!("redis://127.0.0.1:{port}/");
    let client = redis::Client::open(url.as_str())?;
    for _ in 0..100 {
        if client.get_multiplexed_async_connection().await.is_ok() {
            return Ok((url, server));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err("redis-server does not start".into())
}
