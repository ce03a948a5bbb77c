//! In process, in http's types, a stub inside: the layer beside tower's own middleware.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, Ready, poll_fn, ready};
use std::hint::black_box;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::Full;
use tower::retry::{Policy, Retry};
use tower::{Layer, Service};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_wechat::WechatAuthLayer;
use tower_wechat::reqwest::HttpClient;

use super::{Call, MESSAGE, MESSAGES, OK, TOKEN, at_once, tokens};

type Outgoing = Request<Full<Bytes>>;

static JSON_2_KIB: &[u8] = &json_2_kib();
static IMAGE: &[u8] = b"\xff\xd8\xff\xe0 an image, as far as anybody looks into it";

/// A list of users, as `user/get` gives it.
const fn json_2_kib() -> [u8; 2048] {
    let head = br#"{"total":2,"data":{"openid":[""#;
    let tail = br#""]}}"#;
    let mut json = [b'o'; 2048];
    let mut i = 0;
    while i < head.len() {
        json[i] = head[i];
        i += 1;
    }
    i = 0;
    while i < tail.len() {
        json[2048 - tail.len() + i] = tail[i];
        i += 1;
    }
    // A quotation mark, a comma and another one every 31 bytes.
    i = head.len() + 28;
    while i + 8 < 2048 {
        json[i] = b'"';
        json[i + 1] = b',';
        json[i + 2] = b'"';
        i += 31;
    }
    json
}

#[derive(Clone)]
struct Stub(&'static [u8]);

impl Service<Outgoing> for Stub {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Outgoing) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(Full::new(Bytes::from_static(self.0)))))
    }
}

/// What nobody who adds a token and may send again can do without: a copy of the request and one
/// rewritten URI.
#[derive(Clone)]
struct Unavoidable<S>(S);

impl<S: Service<Outgoing>> Service<Outgoing> for Unavoidable<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = WithCopy<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Outgoing) -> Self::Future {
        let copy = request.clone();
        let old = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let parameter = if old.contains('?') {
            "&access_token="
        } else {
            "?access_token="
        };
        let mut new = Vec::with_capacity(old.len() + parameter.len() + TOKEN.len());
        new.extend_from_slice(old.as_bytes());
        new.extend_from_slice(parameter.as_bytes());
        new.extend_from_slice(TOKEN.as_bytes());
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = PathAndQuery::from_maybe_shared(Bytes::from(new)).ok();
        *request.uri_mut() = Uri::from_parts(parts).expect("a URI");
        WithCopy {
            reply: self.0.call(request),
            copy: Some(copy),
        }
    }
}

#[pin_project::pin_project]
struct WithCopy<F> {
    #[pin]
    reply: F,
    copy: Option<Outgoing>,
}

impl<F: Future> Future for WithCopy<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.reply.poll(cx);
        if polled.is_ready() {
            drop(black_box(this.copy.take()));
        }
        polled
    }
}

/// Keeps a copy, and never needs it.
#[derive(Clone)]
struct Cloning;

impl<R, E> Policy<Outgoing, R, E> for Cloning {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Outgoing, _: &mut Result<R, E>) -> Option<Ready<()>> {
        None
    }

    fn clone_request(&mut self, request: &Outgoing) -> Option<Outgoing> {
        Some(request.clone())
    }
}

/// Calls a service whose requests have the body `B`.
struct Caller<S, B>(S, PhantomData<fn(B)>);

impl<S, B, R> Call for Caller<S, B>
where
    S: Service<Request<B>, Response = Response<R>, Error: fmt::Debug>,
    B: From<String>,
    R: Body,
{
    fn call(&mut self) {
        let request = Request::post(MESSAGES)
            .header("content-type", "application/json")
            .body(B::from(String::from(MESSAGE)))
            .expect("a request");
        let service = &mut self.0;
        at_once(poll_fn(|cx| service.poll_ready(cx))).expect("ready");
        let reply = at_once(service.call(request)).expect("a reply");
        let mut body = pin!(reply.into_body());
        while let Some(Ok(frame)) = at_once(poll_fn(|cx| body.as_mut().poll_frame(cx))) {
            black_box(frame);
        }
    }
}

fn caller(
    service: impl Service<Outgoing, Response = Response<Full<Bytes>>, Error: fmt::Debug>,
) -> impl Call {
    Caller(service, PhantomData)
}

pub(super) fn stub() -> impl Call {
    caller(Stub(OK))
}

pub(super) fn tower_retry() -> impl Call {
    caller(Retry::new(Cloning, Stub(OK)))
}

pub(super) fn follow_redirect() -> impl Call {
    caller(FollowRedirectLayer::new().layer(Stub(OK)))
}

pub(super) fn unavoidable() -> impl Call {
    caller(Unavoidable(Stub(OK)))
}

fn wechat_auth(reply: &'static [u8]) -> impl Call {
    Caller::<_, Full<Bytes>>(
        WechatAuthLayer::new(tokens()).layer(Stub(reply)),
        PhantomData,
    )
}

pub(super) fn wechat_auth_ok() -> impl Call {
    wechat_auth(OK)
}

pub(super) fn wechat_auth_json_2_kib() -> impl Call {
    wechat_auth(JSON_2_KIB)
}

pub(super) fn wechat_auth_image() -> impl Call {
    wechat_auth(IMAGE)
}

/// The layer over a client of reqwest's, for callers with requests of http's type.
pub(super) fn over_reqwest(
    client: HttpClient<
        impl Service<reqwest::Request, Response = reqwest::Response, Error = reqwest::Error> + Clone,
    >,
) -> impl Call {
    Caller::<_, reqwest::Body>(WechatAuthLayer::new(tokens()).layer(client), PhantomData)
}
