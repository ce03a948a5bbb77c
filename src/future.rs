//! The future of one call: the one state machine.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::request::Parts;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header,
};
use http_body::Body;
use pin_project::pin_project;
use serde_json::json;
use tower_service::Service;

use crate::body::{Replay, ReplyBody, RequestBody};
use crate::error::Error;
use crate::layer::Config;
use crate::outcome::{AuthOutcome, NotReplayed, Rejection};
use crate::platform::Platform;
use crate::reply::{Coding, Inspector, Look};
use crate::request::with_token;
use crate::token::{AccessToken, BoxError, TokenError, TokenManager};

/// The reply to come; [`WechatAuth`](crate::WechatAuth)'s response future.
///
/// # Cancel safety
///
/// It may be dropped at any point: a token request that it set off goes on for others, and no place
/// in the wrapped service stays taken.
#[pin_project]
pub struct ResponseFuture<S, B, R>
where
    S: Service<Request<B>>,
    R: Body,
{
    #[pin]
    step: Step<S::Future, R>,
    /// `None` where the request is sent as it is.
    call: Option<Call<S, B>>,
}

type TokenFuture = Pin<Box<dyn Future<Output = Result<AccessToken, TokenError>> + Send>>;

/// Token → Ready → Sent → Inspect, and after a rejection Refresh → Kept → Ready → Sent → Inspect.
#[pin_project(project = StepProj)]
enum Step<F, R>
where
    R: Body,
{
    /// Waits for the first token.
    Token(TokenFuture),
    /// Waits for the service to be ready for `Call::outgoing`.
    Ready,
    /// Waits for the reply.
    Sent(#[pin] F),
    /// Reads ahead in the reply.
    Inspect(Held<R>, Inspector),
    /// Holds the rejection and waits for another token.
    Refresh(Held<R>, TokenFuture),
    /// Holds the rejection and waits for the request's body.
    Kept(Held<R>),
    /// Waits for a token that is itself the reply.
    Answer(TokenFuture, Platform),
}

/// Taken when it is handed on.
type Held<R> = Option<Response<ReplyBody<R>>>;

/// What is needed to send a request, and to send it again.
struct Call<S, B> {
    inner: S,
    config: Arc<Config>,
    tokens: TokenManager,
    /// The one that the request was sent with.
    token: Option<AccessToken>,
    head: Head,
    /// The body of the first sending, while that waits for a token.
    body: Option<B>,
    replay: Replay<B>,
    outgoing: Option<Request<B>>,
    outcome: AuthOutcome,
}

/// All of a request but its body.
struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    /// A list costs one allocation for each call, and a `HeaderMap` two; only a replay needs the map.
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: Extensions,
}

impl<S, B, R> ResponseFuture<S, B, R>
where
    S: Service<Request<B>>,
    R: Body,
{
    /// The request was sent as it is.
    pub(crate) fn pass(reply: S::Future) -> Self {
        ResponseFuture {
            step: Step::Sent(reply),
            call: None,
        }
    }

    /// The layer itself answers with a token.
    pub(crate) fn answer(tokens: TokenManager, platform: Platform) -> Self {
        ResponseFuture {
            step: Step::Answer(first_token(tokens), platform),
            call: None,
        }
    }
}

impl<S, B, R> ResponseFuture<S, B, R>
where
    S: Service<Request<B>>,
    B: RequestBody,
    R: Body,
{
    /// The request is sent with `token`, at once where there is one: `inner` is ready then.
    pub(crate) fn authorize(
        inner: S,
        config: Arc<Config>,
        tokens: TokenManager,
        token: Option<AccessToken>,
        parts: Parts,
        body: B,
    ) -> Self {
        let (body, replay) = body.capture(config.replay_limit);
        let mut call = Call {
            inner,
            config,
            tokens,
            token: None,
            head: Head::of(&parts),
            body: None,
            replay,
            outgoing: None,
            outcome: AuthOutcome::default(),
        };
        let step = match token {
            Some(token) => {
                let mut request = Request::from_parts(parts, body);
                *request.uri_mut() = call.head.uri_with(&token);
                call.token = Some(token);
                Step::Sent(call.inner.call(request))
            }
            None => {
                call.body = Some(body);
                Step::Token(first_token(call.tokens.clone()))
            }
        };
        ResponseFuture {
            step,
            call: Some(call),
        }
    }
}

fn first_token(tokens: TokenManager) -> TokenFuture {
    Box::pin(async move { tokens.token().await })
}

impl<S, B, R> Future for ResponseFuture<S, B, R>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body + Unpin,
    R::Data: Buf,
{
    type Output = Result<Response<ReplyBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.step.as_mut().project() {
                StepProj::Answer(token, platform) => {
                    let token = ready!(token.as_mut().poll(cx));
                    return Poll::Ready(made_reply(token, *platform));
                }
                StepProj::Token(token) => {
                    let token = ready!(token.as_mut().poll(cx)).map_err(Error::token)?;
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    let body = call.body.take().expect(AUTHORIZED);
                    call.prepare(token, body);
                    Step::Ready
                }
                StepProj::Ready => {
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    ready!(call.inner.poll_ready(cx)).map_err(Error::service)?;
                    let request = call.outgoing.take().expect(AUTHORIZED);
                    Step::Sent(call.inner.call(request))
                }
                StepProj::Sent(reply) => {
                    let reply = ready!(reply.poll(cx)).map_err(Error::service)?;
                    let inspector = this.call.as_ref().and_then(|call| call.inspector(&reply));
                    let reply = reply.map(ReplyBody::new);
                    match inspector {
                        Some(inspector) => Step::Inspect(Some(reply), inspector),
                        None => return done(this.call, reply),
                    }
                }
                StepProj::Inspect(held, inspector) => {
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    let body = held.as_mut().expect(POLLED_AGAIN).body_mut();
                    let look = body.poll_inspect(cx, inspector, call.config.refresh_on());
                    match ready!(look) {
                        Look::Rejected(rejection) if call.outcome.errcode().is_none() => {
                            Step::Refresh(held.take(), call.refresh(rejection))
                        }
                        look => {
                            if let Look::Rejected(rejection) = look {
                                call.rejected_again(&rejection);
                            }
                            return done(this.call, held.take().expect(POLLED_AGAIN));
                        }
                    }
                }
                StepProj::Refresh(held, token) => {
                    let token = ready!(token.as_mut().poll(cx));
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    let held = held.take();
                    match call.refreshed(token) {
                        true => Step::Kept(held),
                        false => return done(this.call, held.expect(POLLED_AGAIN)),
                    }
                }
                StepProj::Kept(held) => {
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    let body = ready!(call.replay.poll_body(cx));
                    match (body, call.token.take()) {
                        (Some(body), Some(token)) => {
                            call.prepare(token, body);
                            call.outcome.set_replayed();
                            Step::Ready
                        }
                        _ => {
                            call.not_replayed(NotReplayed::BodyNotKept);
                            return done(this.call, held.take().expect(POLLED_AGAIN));
                        }
                    }
                }
            };
            this.step.set(next);
        }
    }
}

const AUTHORIZED: &str = "only a request that gets a token comes here, and once";
const POLLED_AGAIN: &str = "`ResponseFuture` polled after it was ready";

/// The reply as the caller gets it.
fn done<S, B, R>(
    call: &mut Option<Call<S, B>>,
    mut reply: Response<ReplyBody<R>>,
) -> Poll<Result<Response<ReplyBody<R>>, Error>>
where
    R: Body,
{
    let outcome = call.take().map(|call| call.outcome).unwrap_or_default();
    reply.extensions_mut().insert(outcome);
    Poll::Ready(Ok(reply))
}

impl<S, B> Call<S, B> {
    fn prepare(&mut self, token: AccessToken, body: B) {
        let mut request = Request::new(body);
        self.head.write(&mut request, &token);
        self.outgoing = Some(request);
        self.token = Some(token);
    }

    /// `None` where the reply cannot be a rejection, or cannot be read.
    fn inspector<R: Body>(&self, reply: &Response<R>) -> Option<Inspector> {
        let Some(coding) = Coding::of(reply.headers()) else {
            self.config.warn_of_coding();
            return None;
        };
        let hint = reply.body().size_hint();
        Inspector::new(coding, &hint, self.config.inspect_limit)
    }

    fn refresh(&mut self, rejection: Rejection) -> TokenFuture {
        tracing::debug!(
            errcode = rejection.errcode(),
            rid = rejection.rid(),
            path = self.head.uri.path(),
            "the access_token was rejected"
        );
        self.outcome = AuthOutcome::rejected(rejection);
        let (tokens, rejected) = (self.tokens.clone(), self.token.clone());
        Box::pin(async move {
            match rejected {
                Some(rejected) => tokens.refresh(&rejected).await,
                None => tokens.token().await,
            }
        })
    }

    /// Whether there is another token now.
    fn refreshed(&mut self, token: Result<AccessToken, TokenError>) -> bool {
        match token {
            Ok(token) if self.token.as_ref() != Some(&token) => {
                self.outcome.set_refreshed();
                self.token = Some(token);
                true
            }
            Ok(_) => {
                self.not_replayed(NotReplayed::SameToken);
                false
            }
            Err(error) => {
                self.not_replayed(NotReplayed::NoToken(error));
                false
            }
        }
    }

    fn not_replayed(&mut self, why: NotReplayed) {
        let path = self.head.uri.path();
        match &why {
            // The manager has warned already, once for all calls.
            NotReplayed::NoToken(error) => {
                tracing::debug!(path, %error, "the rejection is handed on");
            }
            NotReplayed::SameToken => tracing::warn!(
                path,
                "the rejection is handed on: the source gives the rejected token again"
            ),
            NotReplayed::BodyNotKept => tracing::warn!(
                path,
                "the rejection is handed on: the request's body could not be kept for a replay"
            ),
        }
        self.outcome.set_not_replayed(why);
    }

    fn rejected_again(&mut self, rejection: &Rejection) {
        tracing::warn!(
            errcode = rejection.errcode(),
            rid = rejection.rid(),
            path = self.head.uri.path(),
            "the new access_token was rejected as well"
        );
        self.outcome.set_rejected_again();
    }
}

impl Head {
    fn of(parts: &Parts) -> Head {
        let headers = parts.headers.iter();
        Head {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            headers: headers.map(|(n, v)| (n.clone(), v.clone())).collect(),
            extensions: parts.extensions.clone(),
        }
    }

    fn uri_with(&self, token: &AccessToken) -> Uri {
        with_token(&self.uri, token).unwrap_or_else(|| {
            tracing::warn!(
                path_bytes = self.uri.path().len(),
                "sent without a token: with one the URI would be too long"
            );
            self.uri.clone()
        })
    }

    fn write<B>(&mut self, request: &mut Request<B>, token: &AccessToken) {
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri_with(token);
        *request.version_mut() = self.version;
        *request.headers_mut() = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        *request.extensions_mut() = self.extensions.clone();
    }
}

/// A token in the form in which WeChat gives it.
fn made_reply<R: Body>(
    token: Result<AccessToken, TokenError>,
    platform: Platform,
) -> Result<Response<ReplyBody<R>>, Error> {
    let mut fields = match token {
        Ok(token) => json!({
            "access_token": token.secret(),
            "expires_in": token.expires_in().as_secs(),
        }),
        Err(TokenError::Api { errcode, errmsg }) => {
            json!({ "errcode": errcode, "errmsg": errmsg })
        }
        Err(error) => return Err(Error::token(error)),
    };
    if platform == Platform::WeCom && fields.get("errcode").is_none() {
        fields["errcode"] = 0.into();
        fields["errmsg"] = "ok".into();
    }
    let body = Bytes::from(fields.to_string());
    let mut reply = Response::new(ReplyBody::made(body));
    reply.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    reply
        .extensions_mut()
        .insert(AuthOutcome::made_by_the_layer());
    Ok(reply)
}

impl<S, B, R> fmt::Debug for ResponseFuture<S, B, R>
where
    S: Service<Request<B>>,
    R: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field(
                "step",
                &match &self.step {
                    Step::Token(_) => "waiting for a token",
                    Step::Ready => "waiting for the service",
                    Step::Sent(_) => "waiting for the reply",
                    Step::Inspect(..) => "reading the reply",
                    Step::Refresh(..) => "waiting for another token",
                    Step::Kept(_) => "waiting for the request's body",
                    Step::Answer(..) => "waiting for the token asked for",
                },
            )
            .finish_non_exhaustive()
    }
}
