//! A service of reqwest's types as one of http's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use super::convert::Sent;
use super::reqwest::{Body, Client, Error, Request, Response};

/// A `reqwest::Client` as a service of http's types, to build a stack on.
///
/// Takes `http::Request`s with reqwest's body and gives `http::Response`s with it; so the layer,
/// and those of tower-http, wrap it. What goes in and out is converted, not copied: a body that is
/// in memory stays one that reqwest can send again, and a timeout set on a reqwest request stays
/// with it.
///
/// ```
#[doc = concat!("# use ", module!(), " as reqwest;")]
/// use tower::{Layer, ServiceExt};
/// use tower_wechat::mock::MockWechat;
#[doc = concat!("use tower_wechat::", module!(), "::{HttpClient, client_builder};")]
/// use tower_wechat::{ClientCredential, TokenManager, WechatAuthLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mock = MockWechat::start().await;
/// let client = client_builder().build()?;
/// let source = ClientCredential::new(client.clone(), mock.appid(), mock.secret());
/// let wechat = WechatAuthLayer::new(TokenManager::new(source.base_url(mock.url())))
///     .api_origin(mock.url())
///     .layer(HttpClient::new(client));
///
/// let request = http::Request::get(format!("{}/cgi-bin/user/get", mock.url()))
///     .body(reqwest::Body::default())?;
/// let reply = wechat.oneshot(request).await?;
/// assert!(reqwest::Response::from(reply.map(reqwest::Body::wrap)).text().await?.contains("OPENID1"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// reqwest's own, without a URL; also for a URI that is only a path, as reqwest wants to know the host.
#[derive(Clone, Debug)]
pub struct HttpClient<S = Client> {
    inner: S,
}

impl<S> HttpClient<S> {
    /// Wraps a client, or any service of reqwest's types.
    pub fn new(inner: S) -> Self {
        HttpClient { inner }
    }

    /// The wrapped service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The wrapped service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The wrapped service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S> Service<http::Request<Body>> for HttpClient<S>
where
    S: Service<Request, Response = Response, Error = Error>,
{
    type Response = http::Response<Body>;
    type Error = Error;
    type Future = HttpClientFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::without_url)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let state = match Request::try_from(request) {
            Ok(request) => {
                let sent = Sent::to(request.url().clone());
                State::Sent(self.inner.call(request), Some(sent))
            }
            Err(error) => State::Failed(Some(error.without_url())),
        };
        HttpClientFuture { state }
    }
}

/// The reply to come; [`HttpClient`]'s response future.
#[pin_project]
pub struct HttpClientFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    /// To this URL, which is taken when the reply is here.
    Sent(#[pin] F, Option<Sent>),
    /// The request could not be converted.
    Failed(Option<Error>),
}

impl<F> Future for HttpClientFuture<F>
where
    F: Future<Output = Result<Response, Error>>,
{
    type Output = Result<http::Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Sent(reply, sent) => {
                let reply = ready!(reply.poll(cx));
                let sent = sent.take().expect(POLLED_AGAIN);
                Poll::Ready(match reply {
                    Ok(reply) => Ok(sent.into_http(reply)),
                    Err(error) => Err(sent.out_of_error(error)),
                })
            }
            StateProj::Failed(error) => Poll::Ready(Err(error.take().expect(POLLED_AGAIN))),
        }
    }
}

const POLLED_AGAIN: &str = "`HttpClientFuture` polled after it was ready";

/// Nothing of the wrapped future's, which may print the URL.
impl<F> fmt::Debug for HttpClientFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClientFuture").finish_non_exhaustive()
    }
}
