//! A client of reqwest-middleware's, with tracing, retries and the layer; its calls stay as they
//! are.
//!
//! ```sh
//! cargo run --example reqwest_middleware
//! ```
//!
//! needs nothing: WeChat runs in the process (`MockWechat`), and the token is dead at every call
//! but the first. With `WECHAT_APPID` and `WECHAT_SECRET` in the environment it asks WeChat itself
//! (`WECHAT_BASE_URL` names another server in its place), and only reads: WeChat tells the
//! addresses of its own servers.

use std::process::ExitCode;

use reqwest::Response;
use reqwest::multipart::{Form, Part};
use reqwest_middleware::ClientBuilder;
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_tracing::TracingMiddleware;
use serde_json::{Value, json};
use tower_wechat::mock::Failure as Breakdown;
use tower_wechat::reqwest::client_builder;
use tower_wechat::{AuthOutcome, ClientCredential, TokenManager, WechatAuthLayer};

use self::support::{Account, Failure, explain};

mod support;

#[tokio::main]
async fn main() -> ExitCode {
    support::exit_code("reqwest_middleware", run().await)
}

async fn run() -> Result<(), Failure> {
    let Account {
        base_url,
        appid,
        secret,
        mock,
    } = Account::from_env().await?;
    tracing_subscriber::fmt().without_time().init();

    // A program that talks to WeChat itself has no `.base_url` and no `.api_origin`.
    let client = client_builder().build()?;
    let source = ClientCredential::new(client.clone(), appid, secret).base_url(&base_url);
    let tokens = TokenManager::new(source);
    // Calls fetch one when they need it, but a wrong secret should be told when the program starts.
    let token = tokens.token().await;
    token.map_err(|error| explain(&error, &base_url))?;
    let layer = WechatAuthLayer::new(tokens).api_origin(&base_url);

    // The layer comes last, next to the client: so a retry goes through it again, and the URLs that
    // are traced have no token in them.
    let retry = ExponentialBackoff::builder().build_with_max_retries(3);
    let reads = ClientBuilder::new(client.clone())
        .with(TracingMiddleware::default())
        .with(RetryTransientMiddleware::new_with_policy(retry))
        .with(layer.clone())
        .build();
    // Without retries: reqwest-retry refuses a multipart form, whose body is a stream, before
    // anything is sent. And it would send a message twice whose reply alone was lost; the layer
    // never does.
    let writes = ClientBuilder::new(client)
        .with(TracingMiddleware::default())
        .with(layer)
        .build();

    let servers = format!("{base_url}/cgi-bin/get_api_domain_ip");
    let reply = reads.get(&servers).send().await?;
    tell("read", reply).await?;
    let Some(mock) = mock else {
        return Ok(());
    };

    mock.revoke();
    mock.fail_next(Breakdown::ApiStatus(502));
    let reply = reads.get(&servers).send().await?;
    tell("read, past a 502 and the dead token", reply).await?;

    mock.revoke();
    let url = format!("{base_url}/cgi-bin/message/custom/send");
    let message = json!({"touser": "OPENID1", "msgtype": "text", "text": {"content": "你好"}});
    let reply = writes.post(url).json(&message).send().await?;
    tell("message, past the dead token", reply).await?;

    mock.revoke();
    let url = format!("{base_url}/cgi-bin/media/upload?type=image");
    let picture = Part::bytes(vec![0x5a; 4096]).file_name("picture.png");
    let form = Form::new().part("media", picture);
    let reply = writes.post(url).multipart(form).send().await?;
    tell("upload, past the dead token", reply).await?;

    if mock.token_requests().issued != 4 || mock.messages() != [message] {
        return Err("it should have taken four tokens and one message".into());
    }
    Ok(())
}

async fn tell(what: &str, reply: Response) -> Result<(), Failure> {
    let outcome = reply.extensions().get::<AuthOutcome>().cloned();
    let replayed = outcome.is_some_and(|outcome| outcome.replayed());
    let json: Value = reply.error_for_status()?.json().await?;
    if json["errcode"].as_i64().unwrap_or(0) != 0 {
        return Err(format!("WeChat says no: {json}").into());
    }
    println!("{what}: {json}");
    println!("  replayed: {replayed}");
    Ok(())
}
