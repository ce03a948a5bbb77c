//! A hyper-util client that never sees 40001: ten lines of wiring, and a call.
//!
//! ```sh
//! cargo run --example hyper_client
//! ```
//!
//! needs nothing: WeChat runs in the process (`MockWechat`), and the token is dead when the second
//! call is made. With `WECHAT_APPID` and `WECHAT_SECRET` in the environment it asks WeChat itself
//! (`WECHAT_BASE_URL` names another server in its place). The call only reads: WeChat tells the
//! addresses of its own servers.

use std::process::ExitCode;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::crypto::ring;
use tower::{Layer, ServiceExt};
use tower_wechat::{AuthOutcome, ClientCredential, TokenManager, WechatAuthLayer};

use self::support::{Account, Failure, explain};

mod support;

#[tokio::main]
async fn main() -> ExitCode {
    support::exit_code("hyper_client", run().await)
}

async fn run() -> Result<(), Failure> {
    let Account {
        base_url,
        appid,
        secret,
        mock,
    } = Account::from_env().await?;

    // The wiring. A program that talks to WeChat itself has no `.base_url` and no `.api_origin`,
    // and `.https_only()` where this one has `.https_or_http()`. The provider is named, as rustls
    // chooses none where two are built in, ring and aws-lc-rs.
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(ring::default_provider())?
        .https_or_http()
        .enable_http1()
        .build();
    let http = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let source = ClientCredential::new(http.clone(), appid, secret).base_url(&base_url);
    let tokens = TokenManager::new(source);
    let layer = WechatAuthLayer::new(tokens).api_origin(&base_url);
    let wechat = layer.layer(http);

    for call in 1..=2 {
        let request = Request::get(format!("{base_url}/cgi-bin/get_api_domain_ip"));
        let reply = wechat.clone().oneshot(request.body(Full::default())?).await;
        let reply = reply.map_err(|error| explain(&error, &base_url))?;

        let outcome = reply.extensions().get::<AuthOutcome>().cloned();
        let replayed = outcome.is_some_and(|outcome| outcome.replayed());
        let json = reply.into_body().collect().await?.to_bytes();
        println!("call {call}: {}", String::from_utf8_lossy(&json));
        println!("        replayed: {replayed}");

        if let Some(mock) = &mock {
            if replayed != (call == 2) {
                return Err("the second call was to be replayed, and no other".into());
            }
            mock.revoke();
        }
    }
    Ok(())
}
