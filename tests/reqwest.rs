//! Calls of reqwest's through the layer, over real sockets, against `MockWechat`: with
//! `HttpClient`, with `ReqwestAuthLayer`, both for reqwest 0.13 and for 0.12, and as a middleware
//! of reqwest-middleware's.

mod support;

use std::future::IntoFuture;
use std::time::Duration;

use axum::Router;
use support::*;
use tower_wechat::{AuthOutcome, WechatAuthLayer};

/// The cases for reqwest 0.13.
#[path = "reqwest"]
mod v0_13 {
    use ::reqwest;
    use tower_wechat::reqwest as adapters;

    mod adapter;
    mod calls;
    mod client_with_middleware;
    mod errors;
    mod gateway;
    mod kept;
    mod middleware;
    mod readiness;
    mod uploads;

    use self::adapter::Wrap;

    /// The last two give replies of reqwest's type, and the first of http's.
    const ADAPTERS: &[(&str, Wrap)] = &[
        ("HttpClient", adapter::http_client),
        ("ReqwestAuthLayer", adapter::reqwest_auth),
        ("the middleware", client_with_middleware::wrap),
    ];
}

/// The same cases for reqwest 0.12, for which there is no reqwest-middleware.
#[path = "reqwest"]
mod v0_12 {
    use reqwest_0_12 as reqwest;
    use tower_wechat::reqwest_0_12 as adapters;

    #[allow(clippy::duplicate_mod, reason = "one source for two versions")]
    mod adapter;
    #[allow(clippy::duplicate_mod, reason = "one source for two versions")]
    mod calls;
    #[allow(clippy::duplicate_mod, reason = "one source for two versions")]
    mod errors;
    #[allow(clippy::duplicate_mod, reason = "one source for two versions")]
    mod gateway;
    #[allow(clippy::duplicate_mod, reason = "one source for two versions")]
    mod kept;
    #[allow(clippy::duplicate_mod, reason = "one source for two versions")]
    mod readiness;
    #[allow(clippy::duplicate_mod, reason = "one source for two versions")]
    mod uploads;

    use self::adapter::Wrap;

    const ADAPTERS: &[(&str, Wrap)] = &[
        ("HttpClient", adapter::http_client),
        ("ReqwestAuthLayer", adapter::reqwest_auth),
    ];
}

/// Whatever the extensions of a reply say that the layer did.
fn outcome_in(extensions: &http::Extensions) -> AuthOutcome {
    let outcome = extensions.get::<AuthOutcome>();
    outcome.expect("every reply has one").clone()
}

/// A layer for a server that is no `MockWechat`, with tokens `token-1`, `token-2` and so on.
fn layer_at(origin: &str) -> WechatAuthLayer {
    WechatAuthLayer::new(numbered_tokens().0).api_origin(origin)
}

/// What does not come by itself: a test that waits for it fails, and does not hang.
async fn in_time<F: IntoFuture>(future: F) -> F::Output {
    let done = tokio::time::timeout(Duration::from_secs(30), future).await;
    done.expect("it hangs")
}
