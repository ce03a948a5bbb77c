//! tower middleware that keeps WeChat's `access_token` alive.
//!
//! Every call to the WeChat server API carries the account's one `access_token`. It lives for two
//! hours and dies early whenever somebody else fetches another; calls fail with errcode 40001 or
//! 42001 then. [`WechatAuthLayer`] wraps the HTTP client that you have, puts the token on every
//! call, and when WeChat turns it down, gets a new one, once for everybody, and sends the call
//! again. The caller sees the second reply.
//!
//! # A whole program
//!
//! It runs against `mock::MockWechat`, a WeChat in the process; with a client for
//! https and without the two lines that name the mock it runs against WeChat.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::{BodyExt, Full};
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Layer, ServiceExt};
//! use tower_wechat::mock::MockWechat;
//! use tower_wechat::{AuthOutcome, ClientCredential, TokenManager, WechatAuthLayer};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let wechat = MockWechat::start().await;
//!     let origin = wechat.url();
//!
//!     let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
//!     let source = ClientCredential::new(http.clone(), wechat.appid(), wechat.secret())
//!         .base_url(&origin);
//!     let service = WechatAuthLayer::new(TokenManager::new(source))
//!         .api_origin(&origin)
//!         .layer(http);
//!
//!     for _ in 0..2 {
//!         let request = http::Request::post(format!("{origin}/cgi-bin/message/custom/send"))
//!             .body(Full::from(r#"{"touser":"OPENID","msgtype":"text","text":{"content":"hi"}}"#))?;
//!         let reply = service.clone().oneshot(request).await?;
//!         let outcome = reply.extensions().get::<AuthOutcome>().cloned().unwrap_or_default();
//!         let body = reply.into_body().collect().await?.to_bytes();
//!         assert_eq!(body, r#"{"errcode":0,"errmsg":"ok"}"#);
//!         println!("sent; the token had died: {}", outcome.replayed());
//!
//!         wechat.revoke(); // Behind the program's back.
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # What it does with a reply
//!
//! | WeChat's reply | what the layer does | what the caller sees |
//! |---|---|---|
//! | errcode 40001, 42001 or 40014 (WeCom: 40014, 42001) | refreshes once for everybody, sends the call again | the second reply |
//! | the same, once more | nothing: one refresh and one replay a call | the second reply |
//! | the same, past the refresh budget, or no new token can be had | nothing | that reply, whole |
//! | the same, to a streamed body larger than `replay_limit`, or past the `replay_budget` | refreshes, for the next caller | that reply, whole |
//! | any other errcode: -1, 45009, 48001 … | nothing: a message would be sent twice | that reply, whole |
//! | a picture, a large list, any other body | hands it on at its first frame | that reply, as it comes |
//! | a file (`Content-Disposition`), a part of one (206) | hands it on unread, whatever it holds | that reply, as it comes |
//!
//! [`AuthOutcome`], in the extensions of every reply, says which of these it was.
//!
//! # The parts
//!
//! Data flows one way: layer → manager → source.
//!
//! - [`WechatAuthLayer`] makes [`WechatAuth`], a service with the body types of the one it wraps.
//! - [`TokenManager`] holds one account's token: cached, renewed ahead of its expiry, refreshed
//!   once for everybody. Share it among as many clients as you like.
//! - A [`TokenSource`] gets tokens: [`ClientCredential`], [`StableToken`], [`WeComCredential`], a
//!   closure with [`source_fn`], or your own. `redis::RedisTokens` around one of them shares a
//!   token among processes.
//!
//! # Failures
//!
//! An errcode is a reply, not an error. [`Error`] says that no token could be had or that the URI
//! left no room for it (the call was not sent), or that the client failed. Only where a caller
//! takes no error of ours, as the SDKs do that `ReqwestAuthLayer` is for, "no token" is a reply as
//! well. No error, log or `Debug` of this crate holds a token, an AppSecret or a URL with a query;
//! [`Error::into_source`] hands your client's own error back, which may. Tokens and secrets are
//! zeroized when they are dropped; what was written into a request or came in a reply is in an HTTP
//! client's buffers, and is not.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `axum`: `axum::body::Body` as the body of requests.
//! - `decompression`: replies in gzip, deflate or brotli are looked into as well; the caller gets
//!   them as they came. Without it they pass, and a warning says so once. Replies to token requests
//!   are decoded with it, and are an error without it.
//! - `metrics`: counts of calls, rejections and refreshes, and gauges of when a token was fetched
//!   and when it will expire, by the facade of the `metrics` crate; labelled with the account, see
//!   [`TokenManager::account`].
//! - `mock`: `mock::MockWechat`, for tests.
//! - `redis`: one token for many processes, kept in Redis; see the module `redis`. Needs Rust 1.88.
//!   `redis-seal`: that token encrypted there, see `redis::Seal`.
//! - `reqwest`, `reqwest-0-12`: clients of reqwest 0.13 and 0.12, and SDKs built on them; see the
//!   modules `reqwest` and `reqwest_0_12`.
//! - `reqwest-middleware`: [`WechatAuthLayer`] as a middleware of `reqwest-middleware`'s.
//! - `server`: a token server and a gateway for other processes and languages; see the module
//!   `server`.
//! - `rustls`: TLS for those clients, where you do not depend on reqwest yourself. Otherwise your
//!   own dependency on it decides, and has TLS by default.
//!
//! A Tokio runtime with its timer is needed.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod account_id;
mod asking;
mod base_url;
mod body;
mod config;
mod error;
mod framing;
mod future;
mod layer;
mod made_reply;
mod metrics;
mod outcome;
mod passed;
mod platform;
mod reply;
mod request;
mod service;
mod source;
mod token;
mod warnings;
mod watch;

#[cfg(feature = "mock")]
pub mod mock;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "server")]
pub mod server;

// Both are made of the same files, which take what they need of reqwest from the module they are
// in.
#[cfg(feature = "reqwest")]
#[path = "reqwest/v0_13.rs"]
pub mod reqwest;
#[cfg(feature = "reqwest-0-12")]
#[allow(clippy::duplicate_mod, reason = "one source for two versions")]
#[path = "reqwest/v0_12.rs"]
pub mod reqwest_0_12;

pub use self::account_id::AccountId;
pub use self::body::{
    Captured, Keep, Peek, Replay, ReplayBody, ReplayBudget, ReplyBody, RequestBody,
};
pub use self::error::{Error, ErrorKind};
pub use self::future::ResponseFuture;
pub use self::layer::WechatAuthLayer;
pub use self::outcome::{AuthOutcome, NotReplayed};
pub use self::passed::PassedThrough;
pub use self::platform::Platform;
pub use self::request::SkipAuth;
pub use self::service::WechatAuth;
pub use self::source::{
    ClientCredential, IncomingReply, OutgoingRequest, StableToken, WeComCredential,
};
pub use self::token::{
    AccessToken, ClientError, KeepFresh, RateLimit, RefreshGate, RefreshOutcome, SourceFn,
    TokenError, TokenManager, TokenManagerBuilder, TokenSource, source_fn,
};

/// The programs of the READMEs, compiled and run as doc tests.
#[cfg(doctest)]
mod readme {
    #[doc = include_str!("../README.md")]
    struct English;

    #[doc = include_str!("../README.zh-CN.md")]
    struct Chinese;
}
