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

use crate::asking::Asking;
use crate::base_url::single_slashes;
use crate::body::{Collecting, Length, Replay, ReplyBody, RequestBody, Sendable};
use crate::config::{Aside, Config};
use crate::error::Error;
use crate::framing;
use crate::made_reply;
use crate::metrics;
use crate::outcome::{AuthOutcome, NotReplayed, Rejection};
use crate::passed::PassedThrough;
use crate::platform::Platform;
use crate::reply::{Coding, Inspector, Look, may_be_wechats_word};
use crate::request::with_token;
use crate::token::{AccessToken, BoxError, Endpoint, Moment, Refreshed, TokenError, TokenManager};
use crate::watch::{Watch, note_passed};

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
    /// Why the request is sent as it is, and what to watch for.
    passed: Option<(PassedThrough, Option<Box<Watch>>)>,
    /// The request whose body says what becomes of it.
    asking: Option<Box<Asking<S, B>>>,
}

type TokenFuture = Pin<Box<dyn Future<Output = Result<AccessToken, TokenError>> + Send>>;
type RefreshFuture = Pin<Box<dyn Future<Output = Refreshed> + Send>>;

/// (Collect →) Token → Ready → Sent → Inspect, and after a rejection Refresh → Kept → Ready → Sent
/// → Inspect.
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
    Refresh(Held<R>, RefreshFuture),
    /// Holds the rejection and waits for the request's body.
    Kept(Held<R>),
    /// Waits for a token that is itself the reply.
    Answer(TokenFuture, Platform),
    /// Reads the body of a request for a token.
    Ask,
    /// Waits for the service to be ready for that request, which is sent as it is.
    Pass,
    /// There is nothing to wait for.
    Failed(Option<Error>),
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
    /// The one before that, which was rejected.
    rejected: Option<AccessToken>,
    /// Whether the refresh after that was this call's.
    caused_refresh: bool,
    /// Whether its token was waited for.
    token_is_new: bool,
    /// When the request was sent.
    moment: Moment,
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
    /// A list costs one allocation for each call, and a `HeaderMap` two; only a replay needs the
    /// map.
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: Extensions,
}

impl<S, B, R> ResponseFuture<S, B, R>
where
    S: Service<Request<B>>,
    R: Body,
{
    /// The request was sent as it is.
    pub(crate) fn pass(reply: S::Future, why: PassedThrough, watch: Option<Box<Watch>>) -> Self {
        ResponseFuture {
            passed: Some((why, watch)),
            ..ResponseFuture::at(Step::Sent(reply))
        }
    }

    /// The layer itself answers with a token.
    pub(crate) fn answer(tokens: TokenManager, platform: Platform) -> Self {
        ResponseFuture::at(Step::Answer(first_token(tokens), platform))
    }

    /// What becomes of the request is known when its body was read.
    pub(crate) fn ask(asking: Asking<S, B>) -> Self {
        ResponseFuture {
            asking: Some(Box::new(asking)),
            ..ResponseFuture::at(Step::Ask)
        }
    }

    fn at(step: Step<S::Future, B, R>) -> Self {
        ResponseFuture {
            step,
            call: None,
            passed: None,
            asking: None,
        }
    }
}

impl<S, B, R> ResponseFuture<S, B, R>
where
    S: Service<Request<B>>,
    B: RequestBody,
    R: Body,
{
    /// The request is sent with `token`, at once where there is one: `inner` is ready then, and the
    /// body captured.
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
            rejected: None,
            caused_refresh: false,
            token_is_new: false,
            moment: Moment::default(),
            head: Head::take(&mut parts),
            body: None,
            replay: Replay::unavailable(),
            outcome: AuthOutcome::default(),
        };
        let step = match (captured, token) {
            (Err(collecting), _) => Step::Collect(collecting),
            (Ok(sendable), Some(token)) => match call.head.uri_with(&token) {
                Some(uri) => {
                    parts.uri = uri;
                    call.token = Some(token);
                    call.moment = call.tokens.moment();
                    call.replay = sendable.again;
                    Step::Sent(call.inner.call(Request::from_parts(parts, sendable.body)))
                }
                None => Step::Failed(Some(call.uri_too_long())),
            },
            (Ok(sendable), None) => {
                call.set_body(sendable);
                Step::Token(first_token(call.tokens.clone()))
            }
        };
        ResponseFuture {
            call: Some(call),
            ..ResponseFuture::at(step)
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
                StepProj::Ask => {
                    let asking = this.asking.as_mut().expect(POLLED_AGAIN);
                    let aside = ready!(asking.poll_aside(cx)).expect(POLLED_AGAIN);
                    match aside {
                        Aside::Answer(tokens) => {
                            let platform = asking.config.platform();
                            *this.asking = None;
                            Step::Answer(first_token(tokens), platform)
                        }
                        Aside::Pass(why) => {
                            let head = asking.head().expect(POLLED_AGAIN);
                            *this.passed = Some((why, asking.config.pass(why, head)));
                            Step::Pass
                        }
                    }
                }
                StepProj::Pass => {
                    let asking = this.asking.as_mut().expect(POLLED_AGAIN);
                    ready!(asking.inner.poll_ready(cx)).map_err(Error::service)?;
                    let request = asking.request().expect(POLLED_AGAIN);
                    let reply = asking.inner.call(request);
                    *this.asking = None;
                    Step::Sent(reply)
                }
                StepProj::Failed(error) => {
                    return Poll::Ready(Err(error.take().expect(POLLED_AGAIN)));
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
                    let request = call.request().ok_or_else(|| call.uri_too_long())?;
                    call.moment = call.tokens.moment();
                    Step::Sent(call.inner.call(request))
                }
                StepProj::Sent(reply) => {
                    let reply = ready!(reply.poll(cx));
                    let reply = reply.map_err(|error| failed(this.call.as_ref(), error))?;
                    let mut reply = reply.map(ReplyBody::new);
                    if let Some((why, watch)) = this.passed.take() {
                        note_passed(why, watch, &mut reply);
                        return Poll::Ready(Ok(reply));
                    }
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
                    let refreshed = ready!(token.as_mut().poll(cx));
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    let held = held.take();
                    match call.refreshed(refreshed) {
                        true => Step::Kept(held),
                        false => return done(this.call, *held.expect(POLLED_AGAIN)),
                    }
                }
                StepProj::Kept(held) => {
                    let call = this.call.as_mut().expect(AUTHORIZED);
                    let body = ready!(call.replay.poll_body(cx));
                    match body {
                        Some(_) if !call.fits() => {
                            call.not_replayed(NotReplayed::UriTooLong);
                            return done(this.call, *held.take().expect(POLLED_AGAIN));
                        }
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
        call.replay_ended();
        metrics::answered(call.tokens.label(), &call.outcome);
        mem::take(&mut call.outcome)
    });
    let outcome = outcome.unwrap_or_default();
    let extensions = reply.extensions_mut();
    // Where nothing was to be done here, a layer inside, for another account, may have done
    // something.
    let inner = extensions.get::<AuthOutcome>();
    if outcome.errcode().is_some() || inner.is_none_or(|i| i.passed_through().is_some()) {
        extensions.insert(outcome);
    }
    Poll::Ready(Ok(reply))
}

impl<S, B> Call<S, B> {
    fn without_token(&self, error: TokenError) -> Error {
        metrics::without_token(self.tokens.label());
        Error::token(error)
    }

    fn uri_too_long(&self) -> Error {
        metrics::failed(self.tokens.label());
        let (account, path) = (self.tokens.account(), self.head.uri.path());
        let path_bytes = path.len();
        tracing::debug!(
            account,
            path_bytes,
            "not sent: with a token the URI would be too long"
        );
        Error::uri_too_long()
    }

    /// Whether the URI with the token is none too long.
    fn fits(&self) -> bool {
        let uri = self.token.as_ref().map(|token| self.head.uri_with(token));
        uri.is_some_and(|uri| uri.is_some())
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

    /// `None` when the URI is too long with the token.
    fn request(&mut self) -> Option<Request<B>> {
        let uri = self.head.uri_with(self.token.as_ref().expect(AUTHORIZED))?;
        let request = Request::new(self.body.take().expect(AUTHORIZED));
        Some(self.head.write(request, uri))
    }

    /// `None` where the reply cannot be a rejection, or cannot be read.
    fn inspector<R: Body + Unpin>(&self, reply: &Response<ReplyBody<R>>) -> Option<Inspector> {
        if !may_be_wechats_word(&self.head.method, reply) {
            return None;
        }
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
    fn judge(&mut self, look: Look) -> Option<RefreshFuture> {
        let rejection = match look {
            Look::Rejected(rejection) => rejection,
            Look::Accepted => {
                if let Some(token) = &self.token {
                    self.tokens.accepted(token, self.moment);
                }
                return None;
            }
            Look::More | Look::Pass => return None,
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
        let endpoint = self.endpoint();
        Some(Box::pin(async move {
            tokens.refresh_for(&rejected, &endpoint).await
        }))
    }

    /// Whether there is another token now.
    fn refreshed(&mut self, refreshed: Refreshed) -> bool {
        self.caused_refresh = refreshed.caused;
        self.token_is_new = refreshed.is_new;
        match refreshed.token {
            Ok(token) if self.token.as_ref() != Some(&token) => {
                self.outcome.set_refreshed();
                self.rejected = self.token.replace(token);
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
            NotReplayed::UriTooLong => tracing::debug!(account, path, "{handed_on}"),
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

    /// What the reply to the replay says about the refresh (M9).
    fn replay_ended(&self) {
        let (true, Some(rejected)) = (self.outcome.replayed(), &self.rejected) else {
            return;
        };
        let endpoint = self.endpoint();
        match self.outcome.rejected_again() {
            true => self.tokens.replay_rejected(&endpoint, self.token_is_new),
            false => self
                .tokens
                .replay_accepted(rejected, &endpoint, self.caused_refresh),
        }
    }

    /// The path as WeChat's servers read it, so that no call escapes its own record.
    fn endpoint(&self) -> Endpoint {
        let path = single_slashes(self.head.uri.path());
        Endpoint::new(self.head.method.as_str(), &path)
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

    /// `None` when it is too long.
    fn uri_with(&self, token: &AccessToken) -> Option<Uri> {
        with_token(&self.uri, token)
    }

    /// As [`framing::settle`], for a request whose body was not known when it was taken apart.
    fn settle(&mut self, length: Length) {
        let mut headers: HeaderMap = self.headers.drain(..).collect();
        framing::settle(&mut headers, &self.method, length);
        let headers = headers.iter();
        self.headers = headers.map(|(n, v)| (n.clone(), v.clone())).collect();
    }

    fn write<B>(&self, mut request: Request<B>, uri: Uri) -> Request<B> {
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
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
                    Step::Ask => "reading the request's body",
                    Step::Pass => "waiting for the service",
                    Step::Failed(_) => "failed",
                },
            )
            .finish_non_exhaustive()
    }
}
