//! Clients of reqwest 0.13, what wraps them, and SDKs built on them.
//!
//! | you have | take |
//! |---|---|
//! | a `reqwest::Client`, and calls like `client.get(…).send()` that should stay as they are | feature `reqwest-middleware`: [`WechatAuthLayer`](crate::WechatAuthLayer) is a middleware |
//! | an SDK that takes a layer or a service of reqwest's types | [`ReqwestAuthLayer`] |
//! | a `reqwest::Client`, and code that builds requests and executes them | [`ReqwestAuthLayer`], [`ReqwestAuth::execute`] |
//! | a stack of services of http's types, which wants reqwest below it | [`HttpClient`] |
//! | a token source to feed | the client itself: `ClientCredential::new(client, …)` |
//!
//! The same for reqwest 0.12 is in `reqwest_0_12`, with the feature `reqwest-0-12`.
//!
//! # A whole program
//!
//! ```
//! use tower::Layer;
//! use tower_wechat::mock::MockWechat;
//! use tower_wechat::reqwest::{ReqwestAuthLayer, client_builder};
//! use tower_wechat::{AuthOutcome, ClientCredential, TokenManager, WechatAuthLayer};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mock = MockWechat::start().await;
//!
//!     let client = client_builder().build()?;
//!     let source = ClientCredential::new(client.clone(), mock.appid(), mock.secret());
//!     let layer = WechatAuthLayer::new(TokenManager::new(source.base_url(mock.url())));
//!     let wechat = ReqwestAuthLayer::new(layer.api_origin(mock.url())).layer(client.clone());
//!
//!     for call in 1..=2 {
//!         let request = client.get(format!("{}/cgi-bin/user/get", mock.url())).build()?;
//!         let reply = wechat.execute(request).await?;
//!         assert_eq!(reply.extensions().get::<AuthOutcome>().unwrap().replayed(), call == 2);
//!         assert!(reply.text().await?.contains("OPENID1"));
//!
//!         mock.revoke();
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # What does not get out
//!
//! The token is in the URL, and reqwest likes to show URLs. So errors come without one, and
//! [`Response::url`](::reqwest::Response::url) comes without the secrets that were sent in it: the
//! parameters whose name ends in `access_token` or `secret`. An error that tells such a secret in
//! another way (one within it, about the place that a redirect leads to) is replaced by one that
//! does not.
//!
//! One thing only the client can prevent: reqwest sends the URL of a request that is redirected on
//! to the other host, as `Referer`. A client of [`client_builder`] does not; on one of your own
//! turn it off with `.referer(false)`. Where an SDK makes its own client and lets you wrap it, wrap
//! one of yours in its place: `layer_fn(move |_sdks_client| wechat.clone())` with tower's
//! `layer_fn`.
//!
//! And one is left where it is: the URI that was sent is in the extensions of each reply, for
//! whoever asks for tower-http's `RequestUri`, since reqwest follows redirects by that crate.
//!
//! # Timeouts and TLS
//!
//! A timeout of the client's or of a request's counts for each sending: a call that is replayed can
//! take twice as long, and the wait for a token is not in it (the manager's `issue_timeout` bounds
//! that).
//!
//! This crate turns on no feature of reqwest's by itself. TLS is there when your own dependency on
//! reqwest has it, as it has by default; where there is none, turn on the feature `rustls` of this
//! crate. Without TLS a request to WeChat fails with "invalid URL, scheme is not http", and a
//! request for a token with "no connection".

use ::reqwest;

macro_rules! module {
    () => {
        "reqwest"
    };
}

mod auth;
mod body;
mod client;
mod convert;
#[cfg(feature = "axum")]
mod from_axum;
mod http_client;
mod kind;
mod token;

#[cfg(feature = "reqwest-middleware")]
mod middleware;

pub use self::auth::{ReqwestAuth, ReqwestAuthFuture, ReqwestAuthLayer};
pub use self::client::client_builder;
#[cfg(feature = "axum")]
pub use self::from_axum::from_axum;
pub use self::http_client::{HttpClient, HttpClientFuture};
pub(crate) use self::kind::kind_of;
