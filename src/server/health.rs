//! What an operator's tools ask for.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, json};

use super::metrics;
use super::refusal::json_reply;
use super::registry::Registry;

/// Renders all metrics of the process as text.
#[derive(Clone)]
pub(super) struct Render(Arc<dyn Fn() -> String + Send + Sync>);

impl Render {
    pub(super) fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Render(Arc::new(render))
    }
}

impl fmt::Debug for Render {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Render(…)")
    }
}

pub(super) fn routes(registry: &Arc<Registry>, render: Option<Render>) -> Router {
    let ready = {
        let registry = Arc::clone(registry);
        async move || readiness(&registry)
    };
    let metrics = {
        let registry = Arc::clone(registry);
        async move || scrape(&registry, render.as_ref())
    };
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

/// Ready as soon as one account has a verdict, be it a refusal: one bad account must not take the
/// others out of service, and where WeChat is away clients are better answered than refused.
fn readiness(registry: &Registry) -> Response {
    let mut ready = false;
    let accounts = registry.accounts().map(|account| {
        let life = account.tokens.cached().map(|token| token.seconds_left());
        let error = account.tokens.last_error().map(|error| error.to_string());
        ready |= life.is_some() || error.is_some();
        let told = json!({"seconds_left": life, "error": error});
        (account.appid.to_string(), told)
    });
    let accounts: Map<_, _> = accounts.collect();
    let mut reply = json_reply(&json!({"ready": ready, "accounts": accounts}));
    if !ready {
        *reply.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    reply
}

fn scrape(registry: &Registry, render: Option<&Render>) -> Response {
    /// The version of Prometheus's text format.
    const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

    match render {
        Some(render) => {
            metrics::lives(registry);
            ([(header::CONTENT_TYPE, TEXT)], (render.0)()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
