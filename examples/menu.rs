//! Creates and reads an account's menu, and survives the death of its token.
//!
//! ```sh
//! cargo run --example menu
//! ```
//!
//! needs nothing: WeChat runs in the process (`MockWechat`) and kills the token between two calls.
//! For each call it prints what went over the wire, what the caller saw, and what the layer did.
//!
//! ```sh
//! WECHAT_APPID=wx… WECHAT_SECRET=… cargo run --example menu
//! ```
//!
//! reads the menu of a real account, over TLS. With `-- --create` it first *replaces* that menu by
//! the one below. `WECHAT_BASE_URL=http://127.0.0.1:8080` names another server in the place of
//! WeChat's. What goes wrong is told in one sentence on stderr, with an exit code that is not 0.

use std::env;
use std::process::ExitCode;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};
use tower_wechat::mock::MockWechat;
use tower_wechat::{AuthOutcome, ClientCredential, TokenManager, WechatAuth, WechatAuthLayer};

use self::support::{Account, Failure, explain};

mod support;

#[tokio::main]
async fn main() -> ExitCode {
    support::exit_code("menu", run().await)
}

async fn run() -> Result<(), Failure> {
    let create = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--create" => true,
        _ => return Err("the only argument it knows is --create".into()),
    };
    let account = Account::from_env().await?;
    let wechat = Wechat::new(&account)?;
    match account.mock {
        Some(mock) => show_a_replay(&wechat, mock).await,
        None => use_account(&wechat, create).await,
    }
}

/// WeChat as this program calls it. Nothing in here knows of tokens but `new`.
struct Wechat {
    http: WechatAuth<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
    base_url: String,
}

impl Wechat {
    fn new(account: &Account) -> Result<Wechat, Failure> {
        // The provider is named, as rustls chooses none where two are built in, ring and aws-lc-rs.
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        let http = Client::builder(TokioExecutor::new()).build(connector);
        let source = ClientCredential::new(http.clone(), &account.appid, &account.secret)
            .base_url(&account.base_url);
        Ok(Wechat {
            http: WechatAuthLayer::new(TokenManager::new(source))
                .api_origin(&account.base_url)
                .layer(http),
            base_url: account.base_url.clone(),
        })
    }

    async fn create_menu(&self, menu: &Value) -> Result<Reply, Failure> {
        // serde_json leaves Chinese as it is, and so it must be: WeChat shows a `\u4eca` literally.
        let body = Full::from(menu.to_string());
        self.call(Request::post(self.url("/cgi-bin/menu/create")).body(body)?)
            .await
    }

    async fn read_menu(&self) -> Result<Reply, Failure> {
        let body = Full::default();
        self.call(Request::get(self.url("/cgi-bin/menu/get")).body(body)?)
            .await
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> Result<Reply, Failure> {
        let reply = self.http.clone().oneshot(request).await;
        let reply = reply.map_err(|error| explain(&error, &self.base_url))?;
        let (head, body) = reply.into_parts();
        let body = body.collect().await?.to_bytes();
        let json = serde_json::from_slice(&body)
            .map_err(|_| format!("the reply, with HTTP status {}, is not JSON", head.status))?;
        let outcome = head.extensions.get::<AuthOutcome>().cloned();
        Ok(Reply {
            json,
            outcome: outcome.unwrap_or_default(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }
}

/// What the caller of the layer sees.
struct Reply {
    json: Value,
    outcome: AuthOutcome,
}

impl Reply {
    fn print(&self) {
        println!("  caller  {}", self.in_words());
        for button in buttons(&self.json["menu"]["button"]) {
            println!("            {}", describe(button));
            for below in buttons(&button["sub_button"]) {
                println!("              {}", describe(below));
            }
        }
        println!("  layer   {}\n", what_happened(&self.outcome));
    }

    fn in_words(&self) -> String {
        match self.errcode() {
            0 if self.json["menu"].is_object() => "the menu:".to_owned(),
            0 => "done".to_owned(),
            46003 => "this account has no menu".to_owned(),
            // As JSON, since a string of somebody else's may hold anything.
            errcode => format!("WeChat says no: errcode {errcode}, {}", self.json["errmsg"]),
        }
    }

    /// That there is no menu is an answer, other errcodes are failures.
    fn check(self) -> Result<Reply, Failure> {
        match self.errcode() {
            0 | 46003 => Ok(self),
            _ => Err(self.in_words().into()),
        }
    }

    /// Where all went well some endpoints have none.
    fn errcode(&self) -> i64 {
        self.json["errcode"].as_i64().unwrap_or(0)
    }
}

/// A menu has at most three buttons, and each of them at most five below it.
fn our_menu() -> Value {
    json!({"button": [
        {"type": "click", "name": "今日优惠", "key": "OFFERS"},
        {"name": "门店", "sub_button": [
            {"type": "view", "name": "附近门店", "url": "https://shop.example/nearby"},
            {"type": "view", "name": "预约到店", "url": "https://shop.example/visit"},
        ]},
        {"type": "click", "name": "联系客服", "key": "HELP"},
    ]})
}

fn buttons(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn describe(button: &Value) -> String {
    let field = |name: &str| button[name].as_str().unwrap_or_default().to_owned();
    let name = field("name");
    match button["type"].as_str() {
        Some("view") => format!("{name}  opens {}", field("url")),
        Some(kind) => format!("{name}  {kind} {}", field("key")),
        None => name,
    }
}

fn what_happened(outcome: &AuthOutcome) -> String {
    let Some(errcode) = outcome.errcode() else {
        return "the token was good".to_owned();
    };
    let rid = outcome.rid().unwrap_or("unknown");
    let then = if outcome.replayed() {
        "got a new token and sent the request again"
    } else {
        "could not send the request again"
    };
    format!("errcode {errcode}, {then} (rid of the rejection: {rid})")
}

/// With a real account.
async fn use_account(wechat: &Wechat, create: bool) -> Result<(), Failure> {
    if create {
        println!("Create the menu");
        wechat.create_menu(&our_menu()).await?.check()?.print();
    }
    println!("Read the menu");
    wechat.read_menu().await?.check()?.print();
    Ok(())
}

/// With a WeChat of our own, whose token dies.
async fn show_a_replay(wechat: &Wechat, mock: MockWechat) -> Result<(), Failure> {
    let mut wire = Wire::new(mock.clone());
    println!("MockWechat is at {}\n", mock.url());

    println!("1. Create the menu");
    let reply = wechat.create_menu(&our_menu()).await?;
    wire.print();
    reply.check()?.print();

    println!("2. Read the menu");
    let reply = wechat.read_menu().await?;
    wire.print();
    reply.check()?.print();

    println!("Token #1 is revoked behind the program's back.\n");
    mock.revoke();

    println!("3. Read the menu again");
    let reply = wechat.read_menu().await?;
    wire.print();
    let reply = reply.check()?;
    reply.print();

    if !reply.outcome.replayed() || reply.json["menu"] != our_menu() {
        return Err("the third call was to be replayed and to bring the menu".into());
    }
    println!("Three calls, one replay; the caller saw three good replies.");
    Ok(())
}

/// What went over the wire, as the server saw it.
struct Wire {
    mock: MockWechat,
    /// In the order of their issue, so that a token can be told by its number.
    tokens: Vec<String>,
}

impl Wire {
    fn new(mock: MockWechat) -> Wire {
        Wire {
            mock,
            tokens: Vec::new(),
        }
    }

    /// Prints the requests since the last time.
    fn print(&mut self) {
        let newest = self.mock.current_token();
        self.tokens
            .extend(newest.filter(|token| !self.tokens.contains(token)));
        for request in self.mock.requests() {
            let token = match request.access_token() {
                Some(token) => self.number(token),
                None => "none".to_owned(),
            };
            let answer = match request.errcode() {
                Some(0) if request.is_token_request() => {
                    format!("token #{}", self.tokens.len())
                }
                Some(errcode) => format!("errcode {errcode}"),
                None => "no JSON".to_owned(),
            };
            println!(
                "  wire    {:<4} {:<20}  token {token:<4}  →  {answer}",
                request.method().as_str(),
                request.path(),
            );
        }
        self.mock.clear();
    }

    fn number(&self, token: &str) -> String {
        match self.tokens.iter().position(|known| known == token) {
            Some(index) => format!("#{}", index + 1),
            None => "?".to_owned(),
        }
    }
}
