//! How much one gateway takes on, by tower's and tower-http's layers.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::time::Duration;

use axum::body::Body;
use axum::body::HttpBody;
use axum::error_handling::HandleErrorLayer;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::{LengthLimitError, Limited};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower::timeout::error::Elapsed;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder};
use tower_http::timeout::{TimeoutBody, TimeoutError};

use super::metrics;
use super::refusal::Refusal;
use crate::platform;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header_bytes: usize,
    pub(super) body_bytes: usize,
    pub(super) body_pause: Duration,
    pub(super) calls: usize,
    pub(super) timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: 32 * 1024,
            body_bytes: 32 * 1024 * 1024,
            body_pause: Duration::from_secs(30),
            calls: 1000,
            timeout: Duration::from_secs(120),
        }
    }
}

impl Limits {
    /// `service` within these limits; what exceeds them is told in WeChat's form.
    pub(super) fn around<S>(&self, service: S) -> BoxCloneSyncService<Request, Response, Infallible>
    where
        S: Service<Request, Response = Response, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let within = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(exceeded))
            // At once, as whoever waits for a place holds a connection.
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::new(self.calls))
            .layer(TimeoutLayer::new(self.timeout))
            .service(service);
        BoxCloneSyncService::new(within)
    }
}

impl Limits {
    /// `body` within these limits; refused at once where it says itself that it is too large.
    pub(super) fn body(&self, body: Body) -> Result<Body, Refusal> {
        if body.size_hint().lower() > self.body_bytes as u64 {
            return Err(too_large());
        }
        // The timeout hides that a body is empty. It hides how long it is, too; the header tells that.
        if body.is_end_stream() {
            return Ok(Body::empty());
        }
        let limited = Limited::new(body, self.body_bytes);
        Ok(Body::new(TimeoutBody::new(self.body_pause, limited)))
    }
}

async fn exceeded(error: BoxError) -> Refusal {
    let (status, result, errmsg) = if error.is::<Elapsed>() {
        let errmsg = "system error: WeChat did not answer the gateway in time";
        (StatusCode::GATEWAY_TIMEOUT, "timeout", errmsg)
    } else {
        let errmsg = "system busy: too many calls are under way at the gateway";
        (StatusCode::SERVICE_UNAVAILABLE, "overloaded", errmsg)
    };
    metrics::call_refused(result);
    Refusal::with_status(status, platform::BUSY, errmsg)
}

/// What is told of a call that failed, where the fault was the client's body.
pub(super) fn body_failed(error: &(dyn StdError + 'static)) -> Option<Refusal> {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<LengthLimitError>() {
            return Some(too_large());
        }
        if error.is::<TimeoutError>() {
            let status = StatusCode::REQUEST_TIMEOUT;
            return Some(Refusal::with_status(
                status,
                44002,
                "empty post data: the body stopped coming",
            ));
        }
        next = error.source();
    }
    None
}

fn too_large() -> Refusal {
    Refusal::with_status(
        StatusCode::PAYLOAD_TOO_LARGE,
        45001,
        "media size out of limit: the body is too large for the gateway",
    )
}
