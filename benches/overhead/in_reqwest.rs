//! In process, in reqwest's types, a stub in the client's place: the adapters beside
//! reqwest-middleware.

use std::future::{Ready, poll_fn, ready};
use std::hint::black_box;
use std::task::{Context, Poll};

use async_trait::async_trait;
use http::{Extensions, HeaderValue, Method, header};
use reqwest::{Body, Error, Request, Response, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use tower::{Layer, Service};
use tower_wechat::WechatAuthLayer;
use tower_wechat::reqwest::{HttpClient, ReqwestAuthLayer};

use super::{Call, MESSAGE, MESSAGES, OK, TOKEN, at_once, in_http, tokens};

fn reply() -> Response {
    Response::from(http::Response::new(OK))
}

#[derive(Clone)]
struct Stub;

impl Service<Request> for Stub {
    type Response = Response;
    type Error = Error;
    type Future = Ready<Result<Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        black_box(request);
        ready(Ok(reply()))
    }
}

#[async_trait]
impl Middleware for Stub {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        black_box(request);
        Ok(reply())
    }
}

/// A token that never dies, as a middleware of ten lines puts it in.
struct AddToken;

#[async_trait]
impl Middleware for AddToken {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        request
            .url_mut()
            .query_pairs_mut()
            .append_pair("access_token", TOKEN);
        next.run(request, extensions).await
    }
}

/// Calls a service at the same URL over and over.
struct Caller<S> {
    service: S,
    url: Url,
}

impl<S> Caller<S> {
    fn new(service: S) -> Self {
        Caller {
            service,
            url: MESSAGES.parse().expect("a URL"),
        }
    }

    fn request(&self) -> Request {
        let mut request = Request::new(Method::POST, self.url.clone());
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        *request.body_mut() = Some(Body::from(String::from(MESSAGE)));
        request
    }
}

impl<S> Call for Caller<S>
where
    S: Service<Request, Response = Response, Error = Error>,
{
    fn call(&mut self) {
        let request = self.request();
        let service = &mut self.service;
        at_once(poll_fn(|cx| service.poll_ready(cx))).expect("ready");
        let reply = at_once(service.call(request)).expect("a reply");
        black_box(at_once(reply.bytes()).expect("its body"));
    }
}

struct Middlewares(Caller<ClientWithMiddleware>);

impl Call for Middlewares {
    fn call(&mut self) {
        let request = self.0.request();
        let reply = at_once(self.0.service.execute(request)).expect("a reply");
        black_box(at_once(reply.bytes()).expect("its body"));
    }
}

fn layer() -> WechatAuthLayer {
    WechatAuthLayer::new(tokens())
}

pub(super) fn stub() -> impl Call {
    Caller::new(Stub)
}

/// Its caller has requests of http's type, and so need not convert them.
pub(super) fn http_client() -> impl Call {
    in_http::over_reqwest(HttpClient::new(Stub))
}

pub(super) fn reqwest_auth() -> impl Call {
    Caller::new(ReqwestAuthLayer::new(layer()).layer(Stub))
}

fn middlewares(with: impl FnOnce(ClientBuilder) -> ClientBuilder) -> impl Call {
    let client = with(ClientBuilder::new(reqwest::Client::new()));
    Middlewares(Caller::new(client.with(Stub).build()))
}

pub(super) fn retry() -> impl Middleware {
    let policy = ExponentialBackoff::builder().build_with_max_retries(3);
    RetryTransientMiddleware::new_with_policy(policy)
}

pub(super) fn middleware_stub() -> impl Call {
    middlewares(|client| client)
}

pub(super) fn middleware_retry_and_token() -> impl Call {
    middlewares(|client| client.with(retry()).with(AddToken))
}

pub(super) fn middleware_wechat_auth() -> impl Call {
    middlewares(|client| client.with(layer()))
}

pub(super) fn middleware_retry_wechat_auth() -> impl Call {
    middlewares(|client| client.with(retry()).with(layer()))
}
