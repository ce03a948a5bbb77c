//! One token for every process: a token server, and a gateway for every language.
//!
//! WeChat recommends a central server that fetches an account's token, renews it ahead of time, serves the old
//! one meanwhile, and offers a refresh to those who find their token dead (WeChat's page "Get access token").
//! Both routers here are that server, and speak WeChat's own protocol: a client in any language uses them by another host
//! name. The AppSecret stays with them; each client has a secret of its own.
//!
//! | | a client gets | its API calls go to | for |
//! |---|---|---|---|
//! | [`TokenServer`] | WeChat's token | WeChat | clients that refresh well, as this crate's [`StableToken`](crate::StableToken) does |
//! | [`Gateway`] | an opaque token of the gateway's | the gateway, which passes them on | everybody: no client is told of a dead token |
//!
//! They are [`axum::Router`]s, to be served as they are or put into an application of your own, under its TLS and
//! its tracing: `app.merge(token_server)`, where the application has no `/healthz`, `/readyz` and `/metrics` of its own, or, with those and
//! in any case for a gateway, `app.fallback_service(gateway)`.
//!
//! ```
//! use axum::body::Body;
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower_wechat::mock::MockWechat;
//! use tower_wechat::server::Gateway;
//! use tower_wechat::{ClientCredential, TokenManager};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let wechat = MockWechat::start().await; // https://api.weixin.qq.com, with a client for https.
//!     let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
//!     let source = ClientCredential::new(http, wechat.appid(), wechat.secret());
//!     let tokens = TokenManager::new(source.base_url(wechat.url()));
//!
//!     let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
//!     let gateway = Gateway::builder(http)
//!         .upstream(wechat.url())
//!         .account(wechat.appid(), tokens)
//!         .client("crm", "a secret of this client's own")
//!         .build()?;
//!
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//!     let server = axum::serve(listener, gateway);
//! #   drop(server);
//! #   return Ok(());
//!     server.await?;
//!     Ok(())
//! }
//! ```
//!
//! # Endpoints
//!
//! - `GET /cgi-bin/token?grant_type=client_credential&appid=…&secret=…` and `POST /cgi-bin/stable_token` with the same
//!   in JSON: the account's appid, the client's secret. They never make WeChat give a needless new token.
//! - `stable_token` with `"force_refresh": true` is how a client says that its token is dead; with
//!   `"rejected_token": "…"` beside it, which one, and then the server refreshes only if that is the current one. Without, a
//!   force within 30 s after the last refresh is ignored, as WeChat does. Refreshes are bounded for the account, by
//!   [`refresh_budget`](crate::TokenManagerBuilder::refresh_budget), and for each client, by [`refresh_limit`](ServerBuilder::refresh_limit).
//! - `GET /healthz`: 200, the process is up. `GET /readyz`: 200 when every account has a live token, else 503; its JSON
//!   says which.
//! - `GET /metrics`, where [`metrics`](ServerBuilder::metrics) says how.
//! - The gateway passes every other path on that [`paths`](ServerBuilder::paths) lists.
//!
//! A failure is WeChat's JSON, with status 200 as with WeChat. To a request for a token: 41002 and 41004 (no appid, no secret), 40002
//! (`grant_type`), 40013 and 40125 (wrong appid; wrong secret, or not an account of this client's), 43001, 43002 and 47001 (wrong method, no
//! JSON), 45009 (this client asks too often), -1 (no token can be had; the errmsg says why). To a call at the gateway: 41001, 40001 and 42001
//! (no token, none of its own, an expired one), -1 (WeChat's token could not be had, or is rejected again and again).
//!
//! What no SDK of WeChat's does, and what the gateway could not pass on, has an HTTP status of its own: 404 with 48001 (a path that is not
//! passed on), 413 with 45001 (too large), 400, 405, 408, 431; and with -1 502, 503 and 504 (WeChat out of reach, too much at once, too slow).
//!
//! # Serving it
//!
//! - Tell the addresses of clients: `router.into_make_service_with_connect_info::<SocketAddr>()`. Failed attempts are
//!   logged with the client, where it is known, and the address, and each of these waits longer for its answer each time (32 at a
//!   time; past that the answer comes at once). Behind a proxy the address is the proxy's.
//! - `/readyz` and `/metrics` name the accounts, and `/metrics` the clients: let strangers reach neither.
//! - Several gateways, or token servers, side by side want [`StableToken`](crate::StableToken) as the source: WeChat gives all of them the
//!   same token. With [`ClientCredential`](crate::ClientCredential) each would void the others', unless they share them in Redis (the
//!   feature `redis`).
//! - `axum::serve` waits for a request's headers as long as a client likes. A server that strangers can reach wants a limit:
//!   the crate `axum-server` takes one, and the examples `token_server` and `gateway` show it, with a graceful shutdown.
//! - Both speak plain HTTP to clients, whose secrets and tokens are in URLs: put TLS, and no access log that prints
//!   queries, in front, or serve inside a network of your own only.

mod body;
mod builder;
mod calls;
mod clients;
mod error;
mod failures;
mod gateway;
mod headers;
mod health;
mod http;
mod limits;
mod metrics;
mod opaque;
mod places;
mod query;
mod redirect;
mod refusal;
mod registry;
mod room;
mod target;
mod token_endpoints;
mod token_request;
mod token_server;

pub use self::builder::ServerBuilder;
pub use self::error::BuildError;
pub use self::gateway::Gateway;
pub use self::token_server::TokenServer;
