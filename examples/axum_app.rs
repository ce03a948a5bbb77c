//! An axum service whose handlers call WeChat.
//!
//! ```sh
//! cargo run --example axum_app
//! ```
//!
//! needs nothing: WeChat runs in the process (`MockWechat`). The service listens on a free port of
//! 127.0.0.1, is asked for this and that while its token is revoked, and ends.
//!
//! ```sh
//! cargo run --example axum_app -- --serve 127.0.0.1:3000
//! ```
//!
//! goes on serving until ctrl-c. With `WECHAT_APPID` and `WECHAT_SECRET` in the environment it
//! calls WeChat itself (`WECHAT_BASE_URL` names another server in its place), and asks itself only
//! for what reads.

use std::env;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::process::ExitCode;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, serve};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt};
use tower_wechat::mock::MockWechat;
use tower_wechat::{AuthOutcome, ClientCredential, TokenManager, WechatAuth, WechatAuthLayer};

use self::support::{Account, Failure, explain};

mod support;

#[tokio::main]
async fn main() -> ExitCode {
    support::exit_code("axum_app", run().await)
}

async fn run() -> Result<(), Failure> {
    let serve_at = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => None,
        [flag, addr] if flag == "--serve" => Some(addr.clone()),
        _ => return Err("the only argument it knows is --serve ADDR, as in 127.0.0.1:3000".into()),
    };
    let account = Account::from_env().await?;
    let app = App::new(&account).await?;

    let addr = serve_at.as_deref().unwrap_or("127.0.0.1:0");
    let listener = TcpListener::bind(addr).await;
    let listener = listener.map_err(|error| format!("cannot listen on {addr}: {error}"))?;
    let addr = listener.local_addr()?;
    println!("listening on http://{addr}");

    if serve_at.is_some() {
        let until = async { drop(tokio::signal::ctrl_c().await) };
        serve(listener, app.router())
            .with_graceful_shutdown(until)
            .await?;
        return Ok(());
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async { drop(stopped.await) };
    let server = serve(listener, app.router()).with_graceful_shutdown(until);
    let server = tokio::spawn(server.into_future());
    let done = match account.mock {
        Some(mock) => show_a_replay(addr, &mock).await,
        None => ask(addr, Method::GET, "/menu", "").await,
    };
    drop(stop);
    server.await??;
    done
}

/// What the handlers share. The client is wrapped once, here, and has one token for all of them.
#[derive(Clone)]
struct App {
    wechat: WechatAuth<Client<HttpsConnector<HttpConnector>, Body>>,
    base_url: String,
}

impl App {
    async fn new(account: &Account) -> Result<App, Failure> {
        let base_url = account.base_url.clone();
        // The provider is named, as rustls chooses none where two are built in, ring and aws-lc-rs.
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        let http = Client::builder(TokioExecutor::new()).build(connector);
        let source = ClientCredential::new(http.clone(), &account.appid, &account.secret);
        let tokens = TokenManager::new(source.base_url(&base_url));

        // A service that cannot get a token should say so when it starts, not to its first user.
        let token = tokens.token().await;
        token.map_err(|error| explain(&error, &base_url))?;

        let layer = WechatAuthLayer::new(tokens).api_origin(&base_url);
        Ok(App {
            wechat: layer.layer(http),
            base_url,
        })
    }

    fn router(self) -> Router {
        Router::new()
            .route("/menu", get(menu))
            .route("/messages", post(send_message))
            .with_state(self)
    }

    async fn call(&self, request: http::request::Builder, body: Body) -> Result<Response, Refused> {
        let reply = self.wechat.clone().oneshot(request.body(body)?).await;
        let reply = reply.map_err(|error| explain(&error, &self.base_url))?;
        let (head, body) = reply.into_parts();
        if head.extensions.get().is_some_and(AuthOutcome::replayed) {
            println!("      (WeChat was asked twice: the token had died)");
        }
        Ok(([(CONTENT_TYPE, "application/json")], Body::new(body)).into_response())
    }
}

async fn menu(State(app): State<App>) -> Result<Response, Refused> {
    let request = http::Request::get(format!("{}/cgi-bin/menu/get", app.base_url));
    app.call(request, Body::empty()).await
}

/// The body flows from our client to WeChat as it comes; the layer keeps a copy for a replay.
async fn send_message(State(app): State<App>, request: Request) -> Result<Response, Refused> {
    let url = format!("{}/cgi-bin/message/custom/send", app.base_url);
    app.call(http::Request::post(url), request.into_body())
        .await
}

/// Why a handler has no reply of WeChat's: a line for the log, and nothing for whoever asked.
struct Refused(Failure);

impl<E: Into<Failure>> From<E> for Refused {
    fn from(error: E) -> Refused {
        Refused(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        eprintln!("axum_app: {}", self.0);
        StatusCode::BAD_GATEWAY.into_response()
    }
}

/// Asks the service, with a WeChat of our own whose token dies twice.
async fn show_a_replay(addr: SocketAddr, mock: &MockWechat) -> Result<(), Failure> {
    ask(addr, Method::GET, "/menu", "").await?;

    println!("The token is revoked.");
    mock.revoke();
    ask(addr, Method::GET, "/menu", "").await?;

    println!("The token is revoked.");
    mock.revoke();
    let message = json!({"touser": "OPENID1", "msgtype": "text", "text": {"content": "你好"}});
    ask(addr, Method::POST, "/messages", &message.to_string()).await?;

    let (tokens, messages) = (mock.token_requests().issued, mock.messages());
    if tokens != 3 || messages != [message] {
        return Err("it should have taken three tokens and one message".into());
    }
    println!("Three requests, three tokens; the message was sent once and in full.");
    Ok(())
}

/// Asks the service as a browser or another service would.
async fn ask(addr: SocketAddr, method: Method, path: &str, body: &str) -> Result<(), Failure> {
    println!("{method} {path}");
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://{addr}{path}"))
        .body(body.to_owned())?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (head, body) = client.request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    println!("   {} {}", head.status, String::from_utf8_lossy(&body));
    if head.status.is_success() {
        Ok(())
    } else {
        Err(format!("the service answered {path} with {}", head.status).into())
    }
}
