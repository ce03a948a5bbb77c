//! The layer for services of reqwest's own types.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::convert;
use super::http_client::HttpClient;
use super::reqwest::{Body, Client, Error, Request, Response, Url};
use crate::error::Error as CallError;
use crate::future::ResponseFuture;
use crate::layer::WechatAuthLayer;
use crate::made_reply;
use crate::service::WechatAuth;

/// [`WechatAuthLayer`] for services that take reqwest's requests and give its replies.
///
/// The service that it makes has the types of the one that it wraps, the error too: it goes
/// wherever an SDK takes a layer over its reqwest client. An SDK that fetches tokens by itself also
/// wants [`answer_token_requests`](WechatAuthLayer::answer_token_requests).
///
/// ```
/// use tower::Layer;
#[doc = concat!("use tower_wechat::", module!(), "::{ReqwestAuthLayer, client_builder};")]
/// use tower_wechat::{StableToken, TokenManager, WechatAuthLayer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = client_builder().build()?;
/// let appid = "wx0123456789abcdef";
/// let source = StableToken::new(client.clone(), appid, "the AppSecret");
/// let layer = WechatAuthLayer::new(TokenManager::new(source)).answer_token_requests([appid]);
/// let wechat = ReqwestAuthLayer::new(layer).layer(client);
/// # drop(wechat);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ReqwestAuthLayer {
    layer: WechatAuthLayer,
}

impl ReqwestAuthLayer {
    /// The same layer for reqwest's types.
    pub fn new(layer: WechatAuthLayer) -> Self {
        ReqwestAuthLayer { layer }
    }
}

impl From<WechatAuthLayer> for ReqwestAuthLayer {
    fn from(layer: WechatAuthLayer) -> Self {
        ReqwestAuthLayer::new(layer)
    }
}

impl<S> Layer<S> for ReqwestAuthLayer {
    type Service = ReqwestAuth<S>;

    fn layer(&self, inner: S) -> ReqwestAuth<S> {
        ReqwestAuth {
            inner: self.layer.layer(HttpClient::new(inner)),
            ready: false,
        }
    }
}

/// A WeChat client of reqwest's types whose token never dies; made by [`ReqwestAuthLayer`].
///
/// In the extensions of each reply is an [`AuthOutcome`](crate::AuthOutcome); its URL is without
/// the token.
///
/// # Readiness
///
/// `poll_ready` is the inner service's. A caller that does not ask may still call: the service is
/// made ready by the future then, as `oneshot` would.
///
/// # Extensions of a request
///
/// [`SkipAuth`](crate::SkipAuth), and what [`select`](WechatAuthLayer::select) looks at, are
/// extensions. reqwest's builder has none, but a request that is made of http's keeps them:
///
/// ```
#[doc = concat!("# use ", module!(), " as reqwest;")]
/// let request = http::Request::get("https://api.weixin.qq.com/cgi-bin/user/get")
///     .extension(tower_wechat::SkipAuth)
///     .body("")?;
/// let request = reqwest::Request::try_from(request)?;
/// # drop(request);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The inner service's, without a URL. There is no error of reqwest's for "there is no token": such a call is not
/// sent, and answered in WeChat's own form, HTTP 200 and `{"errcode":…,"errmsg":…}` with the code that the
/// token request was answered with, or -1. [`AuthOutcome::token_error`](crate::AuthOutcome::token_error) says that
/// it came from here, and why.
pub struct ReqwestAuth<S = Client> {
    inner: WechatAuth<HttpClient<S>>,
    /// Whether `inner` was made ready for the next call.
    ready: bool,
}

impl<S> ReqwestAuth<S> {
    /// The wrapped service.
    pub fn get_ref(&self) -> &S {
        self.inner.get_ref().get_ref()
    }

    /// The wrapped service.
    pub fn get_mut(&mut self) -> &mut S {
        self.inner.get_mut().get_mut()
    }

    /// The wrapped service.
    pub fn into_inner(self) -> S {
        self.inner.into_inner().into_inner()
    }
}

impl<S> ReqwestAuth<S>
where
    S: Service<Request, Response = Response, Error = Error> + Clone,
{
    /// Sends a request, as `reqwest::Client::execute` does.
    ///
    /// # Errors
    ///
    /// reqwest's own, without a URL. An errcode of WeChat's is a reply, and so is that there is no
    /// token.
    pub fn execute(&self, request: Request) -> ReqwestAuthFuture<S> {
        self.clone().call(request)
    }
}

/// A clone of a service that was made ready is not ready.
impl<S> Clone for ReqwestAuth<S>
where
    S: Clone,
{
    fn clone(&self) -> Self {
        ReqwestAuth {
            inner: self.inner.clone(),
            ready: false,
        }
    }
}

impl<S> Service<Request> for ReqwestAuth<S>
where
    S: Service<Request, Response = Response, Error = Error> + Clone,
{
    type Response = Response;
    type Error = Error;
    type Future = ReqwestAuthFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.inner.poll_ready(cx)).map_err(client_error)?;
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let url = request.url().clone();
        let state = match convert::into_http(request) {
            Ok(request) if mem::take(&mut self.ready) => State::Called(self.inner.call(request)),
            Ok(request) => State::NotReady(self.inner.clone(), Some(request)),
            Err(error) => State::Failed(Some(error)),
        };
        ReqwestAuthFuture {
            state,
            url: Some(url),
        }
    }
}

/// The reply to come; [`ReqwestAuth`]'s response future.
///
/// # Cancel safety
///
/// It may be dropped at any point, as [`ResponseFuture`] may.
#[pin_project]
pub struct ReqwestAuthFuture<S>
where
    S: Service<Request, Response = Response, Error = Error>,
{
    #[pin]
    state: State<S>,
    /// Where a reply that the layer makes would have come from.
    url: Option<Url>,
}

#[pin_project(project = StateProj)]
enum State<S>
where
    S: Service<Request, Response = Response, Error = Error>,
{
    /// The caller did not make it ready.
    NotReady(WechatAuth<HttpClient<S>>, Option<http::Request<Body>>),
    /// Waits for the reply.
    Called(#[pin] ResponseFuture<HttpClient<S>, Body, Body>),
    /// The request could not be converted.
    Failed(Option<Error>),
}

impl<S> Future for ReqwestAuthFuture<S>
where
    S: Service<Request, Response = Response, Error = Error> + Clone,
{
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let called = match this.state.as_mut().project() {
                StateProj::NotReady(service, request) => {
                    ready!(service.poll_ready(cx)).map_err(client_error)?;
                    service.call(request.take().expect(POLLED_AGAIN))
                }
                StateProj::Called(reply) => {
                    let reply = ready!(reply.poll(cx)).or_else(made_reply::no_token);
                    let reply = reply.map_err(client_error)?;
                    let url = this.url.take().expect(POLLED_AGAIN);
                    return Poll::Ready(Ok(convert::into_reqwest(reply, url)));
                }
                StateProj::Failed(error) => {
                    return Poll::Ready(Err(error.take().expect(POLLED_AGAIN)));
                }
            };
            this.state.set(State::Called(called));
        }
    }
}

const POLLED_AGAIN: &str = "`ReqwestAuthFuture` polled after it was ready";

/// The client's own error back, without a URL since it went through [`HttpClient`].
fn client_error(error: CallError) -> Error {
    let what = error.to_string();
    let error = error.into_source().downcast::<Error>();
    error.map_or_else(|_| convert::failure(what), |error| *error)
}

impl<S> fmt::Debug for ReqwestAuth<S>
where
    S: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<S> fmt::Debug for ReqwestAuthFuture<S>
where
    S: Service<Request, Response = Response, Error = Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestAuthFuture").finish_non_exhaustive()
    }
}
