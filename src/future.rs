//! The future of one call: the one state machine.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::request::Parts;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
};
use http_body::Body;
use pin_project::pin_project;
use tower_service::Service;

use crate::body::{Collecting, Length, Replay, ReplyBody, RequestBody, Sendable};
use crate::config::Config;
use crate::error::Error;
use crate::framing;
use crate::made_reply;
use crate::metrics;
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
    step: Step<S::Future, B, R>,
    /// `None` where the request is sent as it is.
    call: Option<Call<S, B>>,
}

type TokenFuture = Pin<Box<dyn Future<Output = Result<AccessToken, TokenError>> + Send>>;

/// (Collect →) Token → Ready → Sent → Inspect, and after a rejection Refresh → Kept → Ready → Sent → Inspect.
#[pin_project(project = StepProj)]
enum Step<F, B, R>
where
    R: Body,
{
    /// Reads the request's body, for its length.
    Collect(Collecting<B>),
    /// Waits for the first token.
    Token(TokenFuture),
    /// Waits for the service to be ready for `Call::body`.
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

/// Taken when it is handed on. In a box, for few replies are held, and every future would have room
/// for one.
type Held<R> = Option<Box<Response<ReplyBody<R>>>>;

/// What is needed to send a request, and to send it again.
struct Call<S, B> {
    inner: S,
    config: Arc<Config>,
    tokens: TokenManager,
    /// The one that the request was sent with.
    token: Option<AccessToken>,
    head: Head,
    /// The body of the next sending.
    body: Option<B>,
    replay: Replay<B>,
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
    /// The request is sent with `token`, at once where there is one: `inner` is ready then, and the body captured.
    pub(crate) fn authorize(
        inner: S,
        config: Arc<Config>,
        tokens: TokenManager,
        token: Option<AccessToken>,
        mut parts: Parts,
        captured: Result<Sendable<B>, Collecting<B>>,
    ) -> Self {
        if let Ok(sendable) = &captured {
            framing::settle(&mut parts.headers, &parts.method, sendable.length);
        }
        let mut call = Call {
            inner,
            config,
            tokens,
            token: None,
            head: Head::take(&mut parts),
            body: None,
            replay: Replay::unavailable(),
            outcome: AuthOutcome::default(),
        };
        let step = match (captured, token) {
            (Err(collecting), _) => Step::Collect(collecting),
            (Ok(sendable), Some(token)) => {
                parts.uri = call.head.uri_with(&token);
                call.token = Some(token);
                call.replay = sendable.again;
                Step::Sent(call.inner.call(Request::from_parts(parts, sendable.body)))
            }
            (Ok(sendable), None) => {
                call.set_body(sendable);
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
                    return Poll::Ready(made_reply::token(token, *platform));
                }
                StepProj::Collect(collecting) => {
                    let collected = ready!(collecting.as_mut().poll(cx));
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    match collected
                        .map_err(|error| call.not_collected(error))?
                        .into_result()
                    {
                        Ok(sendable) => {
                            call.collected(sendable);
                            Step::Token(first_token(call.tokens.clone()))
                        }
                        Err(collecting) => Step::Collect(collecting),
                    }
                }
                StepProj::Token(token) => {
                    let token = ready!(token.as_mut().poll(cx));
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    call.token = Some(token.map_err(|error| call.without_token(error))?);
                    Step::Ready
                }
                StepProj::Ready => {
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    let ready = ready!(call.inner.poll_ready(cx));
                    ready.map_err(|error| failed(Some(call), error))?;
                    let request = call.request().expect(AUTHORIZED);
                    Step::Sent(call.inner.call(request))
                }
                StepProj::Sent(reply) => {
                    let reply = ready!(reply.poll(cx));
                    let reply = reply.map_err(|error| failed(this.call.as_ref(), error))?;
                    let mut reply = reply.map(ReplyBody::new);
                    let call = this.call.as_mut();
                    let Some((call, mut inspector)) = call.and_then(|call| {
                        let inspector = call.inspector(&reply)?;
                        Some((call, inspector))
                    }) else {
                        return done(this.call, reply);
                    };
                    // Nearly every reply is known by what is there already, and is not moved again.
                    match call.poll_inspect(cx, &mut reply, &mut inspector) {
                        Poll::Pending => Step::Inspect(Some(Box::new(reply)), inspector),
                        Poll::Ready(look) => match call.judge(look) {
                            Some(token) => Step::Refresh(Some(Box::new(reply)), token),
                            None => return done(this.call, reply),
                        },
                    }
                }
                StepProj::Inspect(held, inspector) => {
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    let reply = held.as_mut().expect(POLLED_AGAIN);
                    let look = ready!(call.poll_inspect(cx, reply, inspector));
                    let reply = held.take().expect(POLLED_AGAIN);
                    match call.judge(look) {
                        Some(token) => Step::Refresh(Some(reply), token),
                        None => return done(this.call, *reply),
                    }
                }
                StepProj::Refresh(held, token) => {
                    let token = ready!(token.as_mut().poll(cx));
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    let held = held.take();
                    match call.refreshed(token) {
                        true => Step::Kept(held),
                        false => return done(this.call, *held.expect(POLLED_AGAIN)),
                    }
                }
                StepProj::Kept(held) => {
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    let body = ready!(call.replay.poll_body(cx));
                    match body {
                        Some(body) => {
                            call.body = Some(body);
                            call.outcome.set_replayed();
                            Step::Ready
                        }
                        None => {
                            call.not_replayed(NotReplayed::BodyNotKept);
                            return done(this.call, *held.take().expect(POLLED_AGAIN));
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

fn failed<S, B>(call: Option<&Call<S, B>>, error: impl Into<BoxError>) -> Error {
    if let Some(call) = call {
        metrics::failed(call.tokens.label());
    }
    Error::service(error)
}

/// The reply as the caller gets it.
fn done<S, B, R>(
    call: &mut Option<Call<S, B>>,
    mut reply: Response<ReplyBody<R>>,
) -> Poll<Result<Response<ReplyBody<R>>, Error>>
where
    R: Body,
{
    // Only the outcome is taken: the call is large to move, and dropped with the future.
    let outcome = call.as_mut().map(|call| {
        metrics::answered(call.tokens.label(), &call.outcome);
        mem::take(&mut call.outcome)
    });
    let outcome = outcome.unwrap_or_default();
    let extensions = reply.extensions_mut();
    // Where nothing was to be done here, a layer inside, for another account, may have done something.
    if outcome.errcode().is_some() || extensions.get::<AuthOutcome>().is_none() {
        extensions.insert(outcome);
    }
    Poll::Ready(Ok(reply))
}

impl<S, B> Call<S, B> {
    fn without_token(&self, error: TokenError) -> Error {
        metrics::without_token(self.tokens.label());
        Error::token(error)
    }

    fn not_collected(&self, error: BoxError) -> Error {
        metrics::failed(self.tokens.label());
        Error::body(error)
    }

    fn collected(&mut self, sendable: Sendable<B>) {
        if sendable.length == Length::PastLimit {
            self.config.warnings.of_chunked();
        }
        self.head.settle(sendable.length);
        self.set_body(sendable);
    }

    fn set_body(&mut self, sendable: Sendable<B>) {
        self.body = Some(sendable.body);
        self.replay = sendable.again;
    }

    fn request(&mut self) -> Option<Request<B>> {
        let request = Request::new(self.body.take()?);
        Some(self.head.write(request, self.token.as_ref()?))
    }

    /// `None` where the reply cannot be a rejection, or cannot be read.
    fn inspector<R: Body + Unpin>(&self, reply: &Response<ReplyBody<R>>) -> Option<Inspector> {
        let Some(coding) = Coding::of(reply.headers()) else {
            self.config.warnings.of_coding();
            return None;
        };
        let hint = reply.body().size_hint();
        Inspector::new(coding, &hint, self.config.inspect_limit)
    }

    fn poll_inspect<R: Body + Unpin>(
        &self,
        cx: &mut Context<'_>,
        reply: &mut Response<ReplyBody<R>>,
        inspector: &mut Inspector,
    ) -> Poll<Look> {
        let refresh_on = self.config.refresh_on();
        reply.body_mut().poll_inspect(cx, inspector, refresh_on)
    }

    /// Another token to come, where the reply asks for it and the call has not had one yet.
    fn judge(&mut self, look: Look) -> Option<TokenFuture> {
        let Look::Rejected(rejection) = look else {
            return None;
        };
        if self.outcome.errcode().is_some() {
            self.rejected_again(&rejection);
            return None;
        }
        tracing::debug!(
            account = self.tokens.account(),
            errcode = rejection.errcode(),
            rid = rejection.rid(),
            path = self.head.uri.path(),
            "the access_token was rejected"
        );
        metrics::rejected(self.tokens.label(), rejection.errcode());
        self.outcome = AuthOutcome::rejected(rejection);
        let (tokens, rejected) = (self.tokens.clone(), self.token.clone()?);
        Some(Box::pin(async move { tokens.refresh(&rejected).await }))
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
        let (account, path) = (self.tokens.account(), self.head.uri.path());
        let warnings = &self.config.warnings;
        let handed_on = format!("the rejection is handed on: {why}");
        match &why {
            // The manager has warned already, once for all calls.
            NotReplayed::NoToken(_) => tracing::debug!(account, path, "{handed_on}"),
            NotReplayed::SameToken => warnings.same_token.tell(account, path, &handed_on),
            NotReplayed::BodyNotKept => warnings.body_not_kept.tell(account, path, &handed_on),
        }
        self.outcome.set_not_replayed(why);
    }

    fn rejected_again(&mut self, rejection: &Rejection) {
        tracing::debug!(
            account = self.tokens.account(),
            errcode = rejection.errcode(),
            rid = rejection.rid(),
            "rejected again"
        );
        metrics::rejected(self.tokens.label(), rejection.errcode());
        self.config.warnings.rejected_again.tell(
            self.tokens.account(),
            self.head.uri.path(),
            "the new access_token was rejected as well",
        );
        self.outcome.set_rejected_again();
    }
}

impl Head {
    /// Leaves `parts` as they are, but for the URI, which is another in what is sent.
    fn take(parts: &mut Parts) -> Head {
        let headers = parts.headers.iter();
        Head {
            method: parts.method.clone(),
            uri: mem::take(&mut parts.uri),
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

    /// As [`framing::settle`], for a request whose body was not known when it was taken apart.
    fn settle(&mut self, length: Length) {
        let mut headers: HeaderMap = self.headers.drain(..).collect();
        framing::settle(&mut headers, &self.method, length);
        let headers = headers.iter();
        self.headers = headers.map(|(n, v)| (n.clone(), v.clone())).collect();
    }

    fn write<B>(&self, mut request: Request<B>, token: &AccessToken) -> Request<B> {
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri_with(token);
        *request.version_mut() = self.version;
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        *request.extensions_mut() = self.extensions.clone();
        request
    }
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
                    Step::Collect(_) => "waiting for the request's body",
                    Step::Token(_) => "waiting for a token",
                    Step::Ready => "waiting for the service",
                    Step::Sent(_) => "waiting for the reply",
                    Step::Inspect(..) => "reading the reply",
                    Step::Refresh(..) => "waiting for another token",
                    Step::Kept(_) => "waiting for the body to be sent again",
                    Step::Answer(..) => "waiting for the token asked for",
                },
            )
            .finish_non_exhaustive()
    }
}
