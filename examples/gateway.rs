//! One token for every process and every language: a gateway that can be run as it is.
//!
//! ```sh
//! cargo run --example gateway
//! ```
//!
//! needs nothing: WeChat runs in the process (`MockWechat`), and it says how to try it. `--help`
//! says how to configure it for real accounts. It runs until ctrl-c or SIGTERM, and logs to stderr.

use std::process::ExitCode;
use std::time::Duration;

use tower_wechat::server::Gateway;

use self::settings::Settings;
use self::support::Failure;

#[path = "support/operate.rs"]
mod operate;
#[path = "support/settings.rs"]
mod settings;
#[allow(dead_code, reason = "a server does not fail for want of a token")]
mod support;

#[tokio::main]
async fn main() -> ExitCode {
    let help =
        "gateway: passes calls of any SDK on to WeChat, with an access_token that never dies.";
    operate::run("gateway", help, serve).await
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    operate::log()?;
    let http = operate::http()?;
    let mut builder = Gateway::builder(http.clone()).upstream(&settings.base_url);
    if let Some(key) = &settings.signing_key {
        builder = builder.signing_key(key);
    }
    for key in &settings.former_signing_keys {
        builder = builder.former_signing_key(key);
    }
    let router = settings.set_up(builder, &http)?.build()?;
    if let Some(mock) = settings.mock.clone() {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(60)).await;
                mock.revoke();
                println!("WeChat's token was revoked; the gateway's goes on.");
            }
        });
    }
    settings
        .serve(router, |url, token_url| {
            println!("  TOKEN=$(curl -s '{token_url}' | sed 's/.*\"access_token\":\"\\([^\"]*\\).*/\\1/')");
            println!("  curl \"{url}/cgi-bin/user/get?access_token=$TOKEN\"");
            println!("Every minute WeChat's token is revoked: the call goes on to work, with the same TOKEN.");
        })
        .await
}
