//! The client that a gateway asks WeChat with.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use tower::{Service, ServiceExt};

use super::body::WatchedBody;
use super::secrets::Sent;
use crate::token::{BoxError, TokenManager};

pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

type SendCall = dyn Fn(Request) -> BoxFuture<Result<Response, BoxError>> + Send + Sync;

/// Any client. Here, below the layer, is known which token a call is sent with; and a reply that
/// stalls ends where the layer reads ahead in it, too.
///
/// Shared, as it is cloned several times for each call. Each call is made by a clone of the client
/// that is made ready for it.
#[derive(Clone)]
pub(super) struct Http(Arc<SendCall>);

/// In the extensions of a call that is passed on: whose it is.
#[derive(Clone)]
pub(super) struct OnBehalf {
    pub(super) tokens: TokenManager,
    pub(super) sent: Sent,
    /// How long the body of the reply may pause.
    pub(super) pause: Duration,
}

impl Http {
    pub(super) fn new<S, R>(http: S) -> Self
    where
        S: Service<Request, Response = http::Response<R>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        Http(Arc::new(move |call: Request| {
            let on_behalf = call.extensions().get::<OnBehalf>();
            let pause = on_behalf.map_or(Duration::MAX, |on_behalf| on_behalf.pause);
            if let Some(on_behalf) = on_behalf {
                on_behalf.sent.note(call.uri());
            }
            let reply = http.clone().oneshot(call);
            Box::pin(async move {
                let reply = reply.await.map_err(Into::into)?;
                let watched = |body| Body::new(WatchedBody::of_reply(Box::pin(body), pause));
                Ok(reply.map(watched))
            })
        }))
    }
}

impl Service<Request> for Http {
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<Result<Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Request) -> Self::Future {
        (self.0)(call)
    }
}
