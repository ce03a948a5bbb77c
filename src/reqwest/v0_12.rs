//! Clients of reqwest 0.12, and SDKs built on them.
//!
//! What it does, and how, is written at the module for reqwest 0.13, `reqwest`; the names are the
//! same.
//!
//! ```
//! # use reqwest_0_12 as reqwest;
//! use tower::Layer;
//! use tower_wechat::mock::MockWechat;
//! use tower_wechat::reqwest_0_12::{ReqwestAuthLayer, client_builder};
//! use tower_wechat::{ClientCredential, TokenManager, WechatAuthLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mock = MockWechat::start().await;
//! let client = client_builder().build()?;
//! let source = ClientCredential::new(client.clone(), mock.appid(), mock.secret());
//! let layer = WechatAuthLayer::new(TokenManager::new(source.base_url(mock.url())));
//! let wechat = ReqwestAuthLayer::new(layer.api_origin(mock.url())).layer(client.clone());
//!
//! let request = client.get(format!("{}/cgi-bin/user/get", mock.url())).build()?;
//! let reply: reqwest::Response = wechat.execute(request).await?;
//! assert!(reply.text().await?.contains("OPENID1"));
//! # Ok(())
//! # }
//! ```

use ::reqwest_0_12 as reqwest;

macro_rules! module {
    () => {
        "reqwest_0_12"
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

pub use self::auth::{ReqwestAuth, ReqwestAuthFuture, ReqwestAuthLayer};
pub use self::client::client_builder;
#[cfg(feature = "axum")]
pub use self::from_axum::from_axum;
pub use self::http_client::{HttpClient, HttpClientFuture};
pub(crate) use self::kind::kind_of;
