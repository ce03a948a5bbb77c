//! A small SDK around a `reqwest::Client`, as people write it by hand: before and after.
//!
//! ```sh
//! cargo run --example reqwest_client
//! ```
//!
//! needs nothing: WeChat runs in the process (`MockWechat`) and kills the token between two calls.
//! With `WECHAT_APPID` and `WECHAT_SECRET` in the environment the SDK as it is after asks WeChat
//! itself (`WECHAT_BASE_URL` names another server in its place), and only reads: WeChat tells the
//! addresses of its own servers.

use std::process::ExitCode;

use reqwest::Response;
use serde_json::Value;
use tower_wechat::mock::MockWechat;

use self::support::{Account, Failure, explain};

mod support;

#[tokio::main]
async fn main() -> ExitCode {
    support::exit_code("reqwest_client", run().await)
}

async fn run() -> Result<(), Failure> {
    let account = Account::from_env().await?;
    match &account.mock {
        Some(mock) => compare(&account, mock).await,
        None => {
            let wechat = after::Wechat::new(&account).await?;
            println!("{}", wechat.servers().await?);
            Ok(())
        }
    }
}

/// It fetches a token when it starts, and dies with it. Its errors show URLs, and so the token.
mod before {
    use reqwest::{Client, RequestBuilder};
    use serde_json::{Value, json};

    use super::{Account, Failure, check};

    pub(crate) struct Wechat {
        client: Client,
        token: String,
        base_url: String,
    }

    impl Wechat {
        pub(crate) async fn new(account: &Account) -> Result<Wechat, Failure> {
            let base_url = account.base_url.clone();
            let client = Client::new();
            let request = client.get(format!("{base_url}/cgi-bin/token")).query(&[
                ("grant_type", "client_credential"),
                ("appid", &account.appid),
                ("secret", &account.secret),
            ]);
            let reply = check(request.send().await?).await?;
            let token = reply["access_token"].as_str().unwrap_or_default().into();
            Ok(Wechat {
                client,
                token,
                base_url,
            })
        }

        pub(crate) async fn servers(&self) -> Result<Value, Failure> {
            let url = format!("{}/cgi-bin/get_api_domain_ip", self.base_url);
            self.call(self.client.get(url)).await
        }

        pub(crate) async fn send_text(&self, openid: &str, text: &str) -> Result<Value, Failure> {
            let url = format!("{}/cgi-bin/message/custom/send", self.base_url);
            let message = json!({"touser": openid, "msgtype": "text", "text": {"content": text}});
            self.call(self.client.post(url).json(&message)).await
        }

        async fn call(&self, request: RequestBuilder) -> Result<Value, Failure> {
            let request = request.query(&[("access_token", &self.token)]).build()?;
            check(self.client.execute(request).await?).await
        }
    }
}

/// Only `new` knows of tokens, and only `call` of the layer: the calls themselves are as they were.
mod after {
    use reqwest::{Client, RequestBuilder};
    use serde_json::{Value, json};
    use tower::Layer;
    use tower_wechat::reqwest::{ReqwestAuth, ReqwestAuthLayer, client_builder};
    use tower_wechat::{ClientCredential, TokenManager, WechatAuthLayer};

    use super::{Account, Failure, check, explain};

    pub(crate) struct Wechat {
        client: Client,
        wechat: ReqwestAuth,
        base_url: String,
    }

    impl Wechat {
        pub(crate) async fn new(account: &Account) -> Result<Wechat, Failure> {
            let base_url = account.base_url.clone();
            let client = client_builder().build()?;
            // A program that talks to WeChat itself has no `.base_url` and no `.api_origin`.
            let source = ClientCredential::new(client.clone(), &account.appid, &account.secret);
            let tokens = TokenManager::new(source.base_url(&base_url));
            // Calls fetch one when they need it, but a wrong secret should be told here, as before.
            let token = tokens.token().await;
            token.map_err(|error| explain(&error, &base_url))?;
            let layer = WechatAuthLayer::new(tokens).api_origin(&base_url);
            Ok(Wechat {
                wechat: ReqwestAuthLayer::new(layer).layer(client.clone()),
                client,
                base_url,
            })
        }

        pub(crate) async fn servers(&self) -> Result<Value, Failure> {
            let url = format!("{}/cgi-bin/get_api_domain_ip", self.base_url);
            self.call(self.client.get(url)).await
        }

        pub(crate) async fn send_text(&self, openid: &str, text: &str) -> Result<Value, Failure> {
            let url = format!("{}/cgi-bin/message/custom/send", self.base_url);
            let message = json!({"touser": openid, "msgtype": "text", "text": {"content": text}});
            self.call(self.client.post(url).json(&message)).await
        }

        async fn call(&self, request: RequestBuilder) -> Result<Value, Failure> {
            let request = request.build()?;
            check(self.wechat.execute(request).await?).await
        }
    }
}

/// WeChat says in the JSON that a call failed; an HTTP status of failure is not its own.
async fn check(reply: Response) -> Result<Value, Failure> {
    let reply: Value = reply.error_for_status()?.json().await?;
    match reply["errcode"].as_i64().unwrap_or(0) {
        0 => Ok(reply),
        // The errmsg as JSON, since a string of somebody else's may hold anything.
        errcode => Err(format!("WeChat says no: errcode {errcode}, {}", reply["errmsg"]).into()),
    }
}

/// With a WeChat of our own, whose token dies.
async fn compare(account: &Account, mock: &MockWechat) -> Result<(), Failure> {
    let wechat = before::Wechat::new(account).await?;
    println!("before: {}", wechat.servers().await?);
    mock.revoke();
    println!("        (the token is revoked)");
    match wechat.send_text("OPENID1", "你好").await {
        Ok(_) => return Err("a call with a dead token was to fail".into()),
        Err(error) => println!("before: {error}"),
    }

    let wechat = after::Wechat::new(account).await?;
    println!("after:  {}", wechat.servers().await?);
    mock.revoke();
    println!("        (the token is revoked)");
    println!("after:  {}", wechat.send_text("OPENID1", "你好").await?);

    match mock.messages().len() {
        1 => Ok(()),
        sent => Err(format!("one of the two messages was to arrive, not {sent}").into()),
    }
}
