//! The service that the layer makes.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::asking::{self, Asking};
use crate::body::{ReplyBody, RequestBody};
use crate::config::{Aside, Config, Route};
use crate::error::Error;
use crate::future::ResponseFuture;
use crate::token::BoxError;

/// A WeChat client whose token never dies; made by [`WechatAuthLayer`](crate::WechatAuthLayer).
///
/// Takes requests with the body type that the inner service takes, and gives its replies with
/// [`ReplyBody`] around their body and an [`AuthOutcome`](crate::AuthOutcome) in their extensions.
/// The body of the inner replies must be [`Unpin`], as hyper's, reqwest's and axum's are; any other
/// becomes so by `MapResponse` with `|reply| reply.map(Box::pin)`.
///
/// # Readiness
///
/// `poll_ready` is the inner service's. `call` uses the service that was made ready, and a clone of
/// it that is made ready again for a replay. Where a token must be waited for, readiness is given
/// back meanwhile: the token request may need it. So it is while a body whose length is not known
/// is collected.
///
/// # Errors
///
/// Token failures come out of the response future only, so a `Buffer` around it survives them.
#[derive(Clone)]
pub struct WechatAuth<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> WechatAuth<S> {
    pub(crate) fn new(inner: S, config: Arc<Config>) -> Self {
        WechatAuth { inner, config }
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

impl<S, B, R> Service<Request<B>> for WechatAuth<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: RequestBody,
    R: Body + Unpin,
    R::Data: Buf,
{
    type Response = Response<ReplyBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S, B, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::service)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        match self.config.route(&parts) {
            Route::Aside(aside) => self.aside(aside, parts, body),
            Route::Ask => match body.peek(asking::READ_AT_MOST).ready() {
                Ok((body, bytes)) => {
                    let aside = asking::aside(&self.config, &parts, bytes);
                    self.aside(aside, parts, body)
                }
                Err(body) => {
                    self.give_readiness_back();
                    let (inner, config) = (self.inner.clone(), Arc::clone(&self.config));
                    ResponseFuture::ask(Asking::new(inner, config, parts, body))
                }
            },
            Route::Authorize(tokens) => {
                let captured = body.capture(&self.config.keep(&mut parts)).into_result();
                // A body is collected before a token is asked for, which would grow old meanwhile.
                let token = captured.is_ok().then(|| tokens.ready_token()).flatten();
                if token.is_none() {
                    self.give_readiness_back();
                }
                // The clone is for the next call; the one that was made ready is for this.
                let next = self.inner.clone();
                let inner = mem::replace(&mut self.inner, next);
                let config = Arc::clone(&self.config);
                ResponseFuture::authorize(inner, config, tokens, token, parts, captured)
            }
        }
    }
}

impl<S> WechatAuth<S>
where
    S: Clone,
{
    /// A request that gets no token; `inner` is ready.
    fn aside<B, R>(&mut self, aside: Aside, parts: Parts, body: B) -> ResponseFuture<S, B, R>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: Body,
    {
        match aside {
            Aside::Pass(why) => {
                let watch = self.config.pass(why, &parts);
                let reply = self.inner.call(Request::from_parts(parts, body));
                ResponseFuture::pass(reply, why, watch)
            }
            Aside::Answer(tokens) => {
                let platform = self.config.platform();
                self.give_readiness_back();
                ResponseFuture::answer(tokens, platform)
            }
        }
    }

    /// A service that was made ready holds a place until it is called or dropped.
    fn give_readiness_back(&mut self) {
        self.inner = self.inner.clone();
    }
}

impl<S> fmt::Debug for WechatAuth<S>
where
    S: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WechatAuth")
            .field("inner", &self.inner)
            .field("config", &self.config)
            .finish()
    }
}
