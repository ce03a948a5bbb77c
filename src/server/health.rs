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

fn readiness(registry: &Registry) -> Response {
    let lives = registry.accounts().map(|account| {
        let life = account.tokens.cached().map(|token| token.seconds_left());
        (account.appid.to_string(), json!(life))
    });
    let lives: Map<_, _> = lives.collect();
    let ready = lives.values().all(|life| !life.is_null());
    let mut reply = json_reply(&json!({"ready": ready, "seconds_left": lives}));
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
