//! One token for every process: a token server that can be run as it is.
//!
//! ```sh
//! cargo run --example token_server
//! ```
//!
//! needs nothing: WeChat runs in the process (`MockWechat`), and it says how to try it. `--help`
//! says how to configure it for real accounts. It runs until ctrl-c or SIGTERM, and logs to stderr.

use std::process::ExitCode;

use tower_wechat::server::TokenServer;

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
    let help = "token_server: keeps the access_token of WeChat accounts, and gives it to clients.";
    operate::run("token_server", help, serve).await
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    operate::log()?;
    let http = operate::http()?;
    let router = settings.set_up(TokenServer::builder(), &http)?.build()?;
    settings
        .serve(router, |url, token_url| {
            println!("  curl '{token_url}'");
            println!("  curl {url}/readyz {url}/metrics");
        })
        .await
}
