//! The client that a gateway asks WeChat with.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use tower::{Service, ServiceExt};

use super::redirect;
use crate::token::{BoxError, TokenManager};

pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

type SendCall = dyn Fn(Request) -> BoxFuture<Result<Response, BoxError>> + Send + Sync;

/// Any client, whose replies do not tell in a header which token they were asked with: here, below the layer, that is known.
///
/// Shared, as it is cloned several times for each call. Each call is made by a clone of the client that is made ready for it.
#[derive(Clone)]
pub(super) struct Http(Arc<SendCall>);

/// In the extensions of a call that is passed on: whose it is.
#[derive(Clone)]
pub(super) struct OnBehalf {
    pub(super) tokens: TokenManager,
    /// The token that the client presented.
    pub(super) own: Arc<str>,
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
            let uri = call.uri().clone();
            let own = call
                .extensions()
                .get::<OnBehalf>()
                .map(|call| Arc::clone(&call.own));
            let reply = http.clone().oneshot(call);
            Box::pin(async move {
                let mut reply = reply.await.map_err(Into::into)?;
                redirect::hide(
                    reply.headers_mut(),
                    &uri,
                    own.as_deref().unwrap_or_default(),
                );
                Ok(reply.map(Body::new))
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
