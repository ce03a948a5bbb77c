//! One request and its reply.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::Service;
use pin_project::pin_project;
use tokio::time::Instant;
use tower::Service as _;

use super::bounds::Bounds;
use super::drain::{Drain, Drained};
use super::reply_body::ReplyBody;
use super::request_body::RequestBody;
use super::rest::Rest;
use super::standing::Standing;

/// The router, for one connection.
pub(super) struct Calls {
    pub(super) router: Router,
    pub(super) peer: SocketAddr,
    pub(super) bounds: Arc<Bounds>,
    pub(super) standing: Arc<Standing>,
    /// Until when the connection is kept.
    pub(super) end: Option<Instant>,
}

impl Service<Request<Incoming>> for Calls {
    type Response = http::Response<ReplyBody>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        let number = self.standing.called();
        let (mut parts, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let body = match has_body {
            true => Body::new(RequestBody::new(
                body,
                expects_continue(&parts.headers, parts.version),
                self.bounds.body_timeout,
                Arc::clone(&self.standing),
            )),
            false => Body::empty(),
        };
        parts.extensions.insert(ConnectInfo(self.peer));
        let is_last = self.bounds.requests.is_some_and(|most| number >= most)
            || self.end.is_some_and(|end| Instant::now() >= end);
        let version = parts.version;
        Call {
            route: self.router.clone().call(Request::from_parts(parts, body)),
            has_body,
            version,
            reply: None,
            drain: None,
            closes: is_last,
            bounds: Arc::clone(&self.bounds),
            standing: Arc::clone(&self.standing),
        }
    }
}

#[pin_project]
pub(super) struct Call {
    #[pin]
    route: RouteFuture<Infallible>,
    has_body: bool,
    version: Version,
    reply: Option<Response>,
    drain: Option<Drain>,
    closes: bool,
    bounds: Arc<Bounds>,
    standing: Arc<Standing>,
}

impl Future for Call {
    type Output = Result<http::Response<ReplyBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.reply.is_none() {
            // A handler that panics must not end in silence, which clients take for leave to send
            // again.
            let polled = catch_unwind(AssertUnwindSafe(|| this.route.poll(cx)));
            *this.reply = Some(match polled {
                Ok(polled) => match ready!(polled) {
                    Ok(reply) => reply,
                    Err(never) => match never {},
                },
                Err(_panic) => {
                    tracing::error!("a handler panicked; its request is answered with 500");
                    let mut reply = Response::new(Body::empty());
                    *reply.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    reply
                }
            });
            if *this.has_body {
                match this.standing.left_body.take() {
                    Rest::None => {}
                    Rest::Unasked => *this.closes = true,
                    Rest::Left(rest) => {
                        let standing = Arc::clone(this.standing);
                        *this.drain = Some(Drain::new(rest, this.bounds, standing));
                    }
                }
            }
        }
        if let Some(drain) = this.drain {
            *this.closes |= ready!(drain.poll(cx)) == Drained::TooMuch;
            *this.drain = None;
        }
        let mut reply = this.reply.take().expect("not polled after its end");
        if *this.closes {
            const CLOSE: HeaderValue = HeaderValue::from_static("close");
            reply.headers_mut().insert(CONNECTION, CLOSE);
        }
        let body = reply.body();
        this.standing.ends_by_close(
            *this.version == Version::HTTP_10
                && !body.is_end_stream()
                && body.size_hint().exact().is_none(),
        );
        let standing = Arc::clone(this.standing);
        Poll::Ready(Ok(reply.map(|body| ReplyBody::new(body, standing))))
    }
}

/// As hyper sees it.
fn expects_continue(headers: &HeaderMap, version: Version) -> bool {
    version > Version::HTTP_10
        && headers
            .get(EXPECT)
            .is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
