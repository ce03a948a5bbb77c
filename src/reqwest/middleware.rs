//! The layer as a middleware of reqwest-middleware's.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use http::Extensions;
use reqwest_middleware::{Error, Middleware, Next, Result};
use tower_layer::Layer;
use tower_service::Service;

use super::convert::{self, Sent};
use super::reqwest::{Body, Error as ClientError, Request, Response};
use crate::error::{Error as CallError, ErrorKind};
use crate::layer::WechatAuthLayer;

/// With the feature `reqwest-middleware`: the calls of a reqwest client stay as they are.
///
/// ```
/// use reqwest_middleware::ClientBuilder;
/// use tower_wechat::mock::MockWechat;
/// use tower_wechat::reqwest::client_builder;
/// use tower_wechat::{AuthOutcome, ClientCredential, TokenManager, WechatAuthLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mock = MockWechat::start().await;
/// let client = client_builder().build()?;
/// let source = ClientCredential::new(client.clone(), mock.appid(), mock.secret());
/// let layer = WechatAuthLayer::new(TokenManager::new(source.base_url(mock.url())));
/// let client = ClientBuilder::new(client).with(layer.api_origin(mock.url())).build();
///
/// let reply = client.get(format!("{}/cgi-bin/user/get", mock.url())).send().await?;
/// assert!(!reply.extensions().get::<AuthOutcome>().unwrap().replayed());
/// assert!(reply.text().await?.contains("OPENID1"));
/// # Ok(())
/// # }
/// ```
///
/// # Where it goes
///
/// Last, next to the client:
/// `.with(TracingMiddleware::default()).with(RetryTransientMiddleware::…).with(layer)`. What is
/// traced before it has no token in it, and a retry comes by again and gets the token of the day. A
/// middleware after it sees the token in every URL.
///
/// reqwest-retry refuses a request whose body is a stream, as a multipart form is, before the layer
/// sees it: upload with a client that has the layer and no retries.
///
/// What a request is given `with_extension` is seen by [`select`](WechatAuthLayer::select), and
/// [`SkipAuth`](crate::SkipAuth) works so.
///
/// # Errors
///
/// `Error::Middleware` with [`tower_wechat::Error`](crate::Error) in it when there is no token, or
/// no room for the body: the call was not sent. Other errors are the client's, without a URL; one
/// of another middleware's that would print the token is put into a `tower_wechat::Error`, which
/// does not print it.
///
/// ```
/// fn errcode_of_token_request(error: &reqwest_middleware::Error) -> Option<i64> {
///     let reqwest_middleware::Error::Middleware(error) = error else { return None };
///     error.downcast_ref::<tower_wechat::Error>()?.token_error()?.errcode()
/// }
/// ```
#[async_trait]
impl Middleware for WechatAuthLayer {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let url = request.url().clone();
        let mut request = convert::into_http(request)?;
        request.extensions_mut().extend(extensions.clone());
        // Declared before what borrows from it: also where the call is given up, it is dropped
        // last.
        let lent = Lent::new(extensions);
        let mut service = self.layer(Rest {
            next,
            extensions: lent.lender.clone(),
        });
        let ready = poll_fn(|cx| Service::<http::Request<Body>>::poll_ready(&mut service, cx));
        ready.await.map_err(middleware_error)?;
        let reply = service.call(request).await.map_err(middleware_error)?;
        Ok(convert::into_reqwest(reply, url))
    }
}

fn middleware_error(error: CallError) -> Error {
    if error.is_token() || error.kind() == ErrorKind::NoRoom {
        return Error::middleware(error);
    }
    let what = error.to_string();
    let error = match error.into_source().downcast::<Error>() {
        Ok(error) => return *error,
        Err(error) => error,
    };
    // That of a body which failed while it was collected.
    let error = error.downcast::<ClientError>();
    error
        .map_or_else(|_| convert::failure(what), |error| *error)
        .into()
}

/// The middlewares that follow, and the client behind them, as a service.
#[derive(Clone)]
struct Rest<'a> {
    next: Next<'a>,
    extensions: Lender,
}

impl<'a> Service<http::Request<Body>> for Rest<'a> {
    type Response = http::Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send + 'a>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Rest { next, extensions } = self.clone();
        Box::pin(async move {
            let request = Request::try_from(request).map_err(ClientError::without_url)?;
            let sent = Sent::to(request.url().clone());
            let mut extensions = extensions.borrow();
            let reply = next.run(request, &mut extensions.inner).await;
            match reply {
                Ok(reply) => Ok(sent.into_http(reply)),
                Err(Error::Reqwest(error)) => Err(Error::Reqwest(sent.out_of_error(error))),
                Err(error) if sent.is_told_by(&error) => {
                    Err(Error::middleware(CallError::service(error)))
                }
                Err(error) => Err(error),
            }
        })
    }
}

/// The caller's extensions, for one sending after the other: [`Next::run`] wants them exclusively.
#[derive(Clone, Default)]
struct Lender(Arc<Mutex<Extensions>>);

impl Lender {
    fn swap(&self, with: Extensions) -> Extensions {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mem::replace(&mut inner, with)
    }

    fn borrow(&self) -> Borrowed {
        Borrowed {
            inner: self.swap(Extensions::new()),
            lender: self.clone(),
        }
    }
}

/// Gives them back to the lender when it is dropped.
struct Borrowed {
    inner: Extensions,
    lender: Lender,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.lender.swap(mem::take(&mut self.inner));
    }
}

/// Gives them back to the caller when it is dropped.
struct Lent<'a> {
    owner: &'a mut Extensions,
    lender: Lender,
}

impl<'a> Lent<'a> {
    fn new(owner: &'a mut Extensions) -> Self {
        let lender = Lender::default();
        lender.swap(mem::take(owner));
        Lent { owner, lender }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        *self.owner = self.lender.swap(Extensions::new());
    }
}
