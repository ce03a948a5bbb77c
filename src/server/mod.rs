//! One token for every process: a token server, and a gateway for every language.
//!
//! WeChat recommends a central server that fetches an account's token, renews it ahead of time,
//! serves the old one meanwhile, and offers a refresh to those who find their token dead (WeChat's
//! page "Get access token"). Both routers here are that server, and speak WeChat's own protocol: a
//! client in any language uses them by another host name. The AppSecret stays with them; each
//! client has a secret of its own.
//!
//! | | a client gets | its API calls go to | for |
//! |---|---|---|---|
//! | [`TokenServer`] | WeChat's token | WeChat | clients that refresh well, as this crate's [`StableToken`](crate::StableToken) does |
//! | [`Gateway`] | an opaque token of the gateway's | the gateway, which passes them on | everybody: no client is told of a dead token |
//!
//! They are [`axum::Router`]s, to be served as they are or put into an application of your own,
//! under its TLS and its tracing: `app.merge(token_server)`, where the application has no
//! `/healthz`, `/readyz` and `/metrics` of its own, or, with those and in any case for a gateway,
//! `app.fallback_service(gateway)`.
//!
//! ```
//! use axum::body::Body;
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower_wechat::mock::MockWechat;
//! use tower_wechat::server::{Bounds, Gateway, serve};
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
//!     let server = serve(listener, gateway, Bounds::default());
//! #   drop(server);
//! #   return Ok(());
//!     server.await;
//!     Ok(())
//! }
//! ```
//!
//! # Endpoints
//!
//! - `GET /cgi-bin/token?grant_type=client_credential&appid=…&secret=…` and `POST
//!   /cgi-bin/stable_token` with the same in JSON: the account's appid, the client's secret. They
//!   never make WeChat give a needless new token.
//! - `stable_token` with `"force_refresh": true` is how a client says that its token is dead; with
//!   `"rejected_token": "…"` beside it, which one, and then the server refreshes only if that is
//!   the current one. Without, a force within 30 s after the last refresh is ignored, as WeChat
//!   does. Refreshes are bounded for the account, by
//!   [`refresh_budget`](crate::TokenManagerBuilder::refresh_budget), and for each client, which
//!   pays for those that it causes, by [`refresh_limit`](ServerBuilder::refresh_limit).
//! - `GET /healthz`: 200, the process is up. `GET /readyz`: 503 until one account has a token or a
//!   failure (WeChat's refusal, or that it is out of reach), then 200, whatever becomes of the
//!   others; its JSON says of each account how long its token lives and, after a failure, what is
//!   wrong: `{"ready":true,"accounts":{"wx…":{"seconds_left":7199,"error":null}}}`.
//! - `GET /metrics`, where [`metrics`](ServerBuilder::metrics) says how.
//! - The gateway passes every other path on that [`paths`](ServerBuilder::paths) lists.
//!
//! A failure is WeChat's JSON, with status 200 as with WeChat. To a request for a token: 41002 and
//! 41004 (no appid, no secret), 40002 (`grant_type`), 40013 and 40125 (wrong appid; wrong secret,
//! or not an account of this client's), 43001, 43002 and 47001 (wrong method, no JSON), 45009 (this
//! client asks too often). To a call at the gateway: 41001, 40001 and 42001 (no token, none of its
//! own, an expired one), 43002 (a GET with a body), 48001 (a path of WeChat's that is not passed
//! on).
//!
//! To both, where WeChat's token cannot be had or the call did not go well:
//!
//! | errcode | says | what to do |
//! |---|---|---|
//! | WeChat's own, with its errmsg: 40164, 45009, 89503, 50007 … | what only a person can cure | what the errmsg says: allow the address in it, for one |
//! | -1 | the call was not carried out, and the same call may soon go well: WeChat is out of reach (502), too much at once (503), no token in time (504) | repeat it |
//! | 59900502 | what the server itself has to say, and asking again does not cure: the errmsg begins with "not sent", with "WeChat has not acted on it" (a second rejection with a new token, whose errcode and rid it tells) or with "WeChat may have acted on it" (the reply did not come, broke off, or held the account's token) | look into it; after "may have acted" find out before you repeat it |
//!
//! WeChat has no errcode like 59900502, so SDKs neither repeat a call on it nor get another token;
//! the account's own wrong secret is told by it too, for a client that read 40125 would look at its
//! own.
//!
//! What no SDK of WeChat's does has an HTTP status of its own: 404 with 48001 (no path of
//! WeChat's), 413 with 45001 (too large), 400, 405, 408, 431.
//!
//! # What a reply does not tell
//!
//! WeChat's token stays with the gateway, also where an upstream sends it back: headers that hold
//! it are dropped, and so are trailers and the bodies of redirects; text and JSON are searched,
//! percent- and JSON-escaped spellings included, the first 16 KiB before the head is sent and the
//! rest as it flows. A text shorter than that is therefore sent when it has come to its end;
//! pictures and other media flow as they come. Not searched is what comes in a content-encoding,
//! which the gateway does not ask for.
//!
//! # Serving it
//!
//! - [`serve`](serve()) is for a server that strangers can reach, and for clients that send all of
//!   a request before they read: it bounds connections, slow peers and memory, and sees to it that
//!   a refusal can be read. The examples `token_server` and `gateway` show it, with a graceful
//!   shutdown. A router that others serve has none of this: `axum::serve` waits for a request's
//!   headers, or for a client to take its reply, as long as the client likes, takes every
//!   connection, and closes one with an upload that was refused, which is a broken pipe to most
//!   clients.
//! - Failed attempts are logged with the client, where it is known, and the address, twelve a
//!   minute by name and the others by their number. The first three of each of these wait for their
//!   answer, about a second in all. `serve` tells the addresses; elsewhere
//!   `router.into_make_service_with_connect_info::<SocketAddr>()` does. Behind a proxy the address
//!   is the proxy's.
//! - `/readyz` and `/metrics` name the accounts, and `/metrics` the clients: let strangers reach
//!   neither.
//! - Several gateways, or token servers, side by side want [`StableToken`](crate::StableToken) as
//!   the source: WeChat gives all of them the same token. With
//!   [`ClientCredential`](crate::ClientCredential) each would void the others', unless they share
//!   them in Redis (the feature `redis`).
//! - Both speak plain HTTP to clients, whose secrets and tokens are in URLs: put TLS, and no access
//!   log that prints queries, in front, or serve inside a network of your own only.

mod body;
mod builder;
mod calls;
mod charges;
mod clients;
mod error;
mod failures;
mod gateway;
mod headers;
mod health;
mod http;
mod incoming;
mod limits;
mod metrics;
mod opaque;
mod places;
mod query;
mod redirect;
mod refusal;
mod registry;
mod reply;
mod room;
mod searched;
mod secrets;
mod serve;
mod target;
mod teller;
mod text;
mod token_endpoints;
mod token_request;
mod token_server;

pub use self::builder::ServerBuilder;
pub use self::error::BuildError;
pub use self::gateway::Gateway;
pub use self::serve::{Bounds, Serve, serve};
pub use self::token_server::TokenServer;
