//! The calls of a gateway: everything that is not a token request, passed on to WeChat.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;
use tower::{Layer, ServiceExt};

use super::body::{BodyError, WatchedBody};
use super::clients::Client;
use super::headers;
use super::http::{BoxFuture, Http, OnBehalf};
use super::limits::Limits;
use super::metrics;
use super::opaque::{Seal, Unsealed};
use super::places::{Held, Places};
use super::query::parameters;
use super::redirect;
use super::refusal::Refusal;
use super::registry::{Account, Registry};
use super::room::{Room, longest};
use super::target::Upstream;
use crate::body::{ReplayBudget, ReplyBody};
use crate::error::{Error, ErrorKind};
use crate::layer::WechatAuthLayer;
use crate::outcome::{AuthOutcome, NotReplayed};
use crate::platform;
use crate::service::WechatAuth;
use crate::warnings::Seldom;

/// What all calls of a gateway share.
pub(super) struct Calls {
    registry: Arc<Registry>,
    seal: Arc<Seal>,
    upstream: Upstream,
    limits: Limits,
    places: Places,
    room: Room,
    wechat: WechatAuth<Http>,
    failing: Seldom,
}

impl Calls {
    pub(super) fn new(
        registry: Arc<Registry>,
        seal: Arc<Seal>,
        upstream: Upstream,
        limits: Limits,
        http: Http,
    ) -> Self {
        let select =
            |call: &http::request::Parts| Some(call.extensions.get::<OnBehalf>()?.tokens.clone());
        let layer = WechatAuthLayer::select(select)
            .api_origin(upstream.origin())
            .replay_limit(limits.replay_bytes);
        Calls {
            places: Places::new(limits.calls, registry.clients()),
            room: Room::new(&limits, registry.clients()),
            registry,
            seal,
            upstream,
            limits,
            wechat: layer.layer(http),
            failing: Seldom::default(),
        }
    }

    pub(super) async fn answer(self: Arc<Self>, request: Request) -> Result<Response, Infallible> {
        let reply = self.pass_on(request).await;
        Ok(reply.unwrap_or_else(IntoResponse::into_response))
    }

    async fn pass_on(&self, request: Request) -> Result<Response, Refusal> {
        let (target, own) = self
            .read(&request)
            .inspect_err(|_| metrics::call_refused("malformed"))?;
        let (client, account) = self.open(&own)?;
        let told = |result| metrics::call(client, account, result);
        let held = self.places.take(client).ok_or_else(|| {
            told("overloaded");
            overloaded()
        })?;

        let sent_to = target.clone();
        let call = self.call(
            request,
            target,
            self.room.of(client),
            OnBehalf {
                tokens: match client.is_believed() {
                    true => account.tokens.clone(),
                    false => account.tokens.without_refresh(),
                },
                own: own.as_str().into(),
            },
        );
        let call = call.inspect_err(|_| told("body_failed"))?;
        let reply = timeout(self.limits.timeout, self.send(call))
            .await
            .map_err(|_| {
                told("timeout");
                timed_out()
            })?;
        let reply = reply.map_err(|error| self.failed(client, account, sent_to.path(), &error))?;
        if let Some(refusal) = rejected(client, &reply) {
            told("rejected");
            return Err(refusal);
        }
        told("ok");
        tracing::debug!(
            client = &*client.name,
            account = &*account.appid,
            path = sent_to.path(),
            "passed on"
        );
        Ok(self.hand_on(reply, &own, held))
    }

    /// Where the call is to go, and the token that it came with.
    fn read(&self, request: &Request) -> Result<(Uri, String), Refusal> {
        let uri = request.uri();
        let target_bytes = uri
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        if target_bytes + headers::size(request.headers()) > self.limits.header_bytes {
            return Err(Refusal::with_status(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                48001,
                "the headers are too large for the gateway",
            ));
        }
        let target = self.upstream.target(request)?;
        let mut tokens = parameters(uri.query().unwrap_or_default())
            .filter(|(name, _)| name == "access_token")
            .map(|(_, token)| token);
        let token = tokens.next().filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| Refusal::new(41001, "access_token missing"))?;
        if tokens.next().is_some() {
            // It would be up to the server which of them counts.
            return Err(Refusal::new(
                40001,
                "invalid credential, there is more than one access_token",
            ));
        }
        Ok((target, token.into_owned()))
    }

    fn open(&self, token: &str) -> Result<(&Client, &Account), Refusal> {
        self.seal.open(token, &self.registry).map_err(|unsealed| match unsealed {
            Unsealed::Invalid => {
                metrics::call_refused("invalid_token");
                Refusal::new(
                    40001,
                    "invalid credential, access_token is invalid or not latest: get one from this gateway",
                )
            }
            Unsealed::Expired => {
                metrics::call_refused("expired_token");
                Refusal::new(42001, "access_token expired")
            }
        })
    }

    /// The call as WeChat gets it: made anew, so that nothing goes along that is not meant to.
    fn call(
        &self,
        request: Request,
        target: Uri,
        room: ReplayBudget,
        on_behalf: OnBehalf,
    ) -> Result<Request, Refusal> {
        let (head, body) = request.into_parts();
        let limits = &self.limits;
        if body.size_hint().lower() > limits.body_bytes as u64 {
            return Err(body_failed(&BodyError::TooLarge));
        }
        let (exact, longest) = (body.size_hint().exact(), longest(&body, limits, &room));
        let body = match body.is_end_stream() {
            true => Body::empty(),
            false => Body::new(WatchedBody::of_call(body, limits.body_pause, longest)),
        };
        let mut call = Request::new(body);
        *call.method_mut() = head.method;
        *call.uri_mut() = target;
        *call.headers_mut() = head.headers;
        headers::clean_request(call.headers_mut());
        if exact.is_none() {
            // Beside chunks it is nobody's word for the length (RFC 9112, 6.3).
            call.headers_mut().remove(header::CONTENT_LENGTH);
        }
        call.extensions_mut().insert(on_behalf);
        call.extensions_mut().insert(room);
        Ok(call)
    }

    /// Boxed, as the compiler does not see that the future can go to another thread where it is awaited.
    fn send(&self, call: Request) -> BoxFuture<Result<http::Response<ReplyBody<Body>>, Error>> {
        Box::pin(self.wechat.clone().oneshot(call))
    }

    fn failed(&self, client: &Client, account: &Account, path: &str, error: &Error) -> Refusal {
        let (name, appid) = (&*client.name, &*account.appid);
        if let Some(why) = error.token_error() {
            // The manager has told of it already.
            tracing::debug!(client = name, account = appid, path, %error, "not passed on");
            metrics::call(client, account, "no_token");
            return Refusal::no_token(why);
        }
        if error.kind() == ErrorKind::NoRoom {
            tracing::debug!(client = name, account = appid, path, %error, "not passed on");
            metrics::call(client, account, "overloaded");
            return no_room();
        }
        let mut causes =
            std::iter::successors(Some(error.get_ref() as &dyn std::error::Error), |error| {
                error.source()
            });
        if let Some(why) = causes.find_map(|error| error.downcast_ref::<BodyError>()) {
            tracing::debug!(client = name, account = appid, path, %why, "not passed on");
            metrics::call(client, account, "body_failed");
            return body_failed(why);
        }
        metrics::call(client, account, "failed");
        if self.failing.is_due() {
            tracing::warn!(client = name, account = appid, path, %error, "a call did not get through to WeChat");
        } else {
            tracing::debug!(client = name, account = appid, path, %error, "a call did not get through to WeChat");
        }
        Refusal::with_status(
            StatusCode::BAD_GATEWAY,
            platform::BUSY,
            format!("system error: {error}"),
        )
    }

    fn hand_on(&self, reply: http::Response<ReplyBody<Body>>, own: &str, held: Held) -> Response {
        let (mut head, body) = reply.into_parts();
        headers::clean_reply(&mut head.headers);
        redirect::lead_here(&mut head.headers, &self.upstream, own);
        let body = WatchedBody::of_reply(body, self.limits.body_pause, held);
        let mut reply = Response::new(Body::new(body));
        *reply.status_mut() = head.status;
        *reply.headers_mut() = head.headers;
        // Of what the client leaves there, only this tells no token.
        if let Some(outcome) = head.extensions.remove::<AuthOutcome>() {
            reply.extensions_mut().insert(outcome);
        }
        reply
    }
}

/// Where WeChat's last word is that it does not want its own token. The client would take that for a word about the
/// client's, get another and send the call again; all that is wrong with it may be that it came at a bad time.
fn rejected(client: &Client, reply: &http::Response<ReplyBody<Body>>) -> Option<Refusal> {
    let outcome = reply.extensions().get::<AuthOutcome>()?;
    let errcode = outcome.errcode()?;
    if outcome.replayed() && !outcome.rejected_again() {
        return None;
    }
    if outcome.rejected_again() {
        client.refreshed_in_vain();
    }
    let why = match outcome.not_replayed() {
        Some(NotReplayed::BodyNotKept) => {
            "the call is too large to be sent again: send it once more"
        }
        Some(_) => "there is no other yet",
        None => "another one, too: does the body hold an access_token of its own?",
    };
    let rid = outcome.rid().unwrap_or("none");
    Some(Refusal::new(
        platform::BUSY,
        format!(
            "system error: WeChat rejected the gateway's own token with errcode {errcode}, and {why} rid: {rid}"
        ),
    ))
}

fn overloaded() -> Refusal {
    Refusal::with_status(
        StatusCode::SERVICE_UNAVAILABLE,
        platform::BUSY,
        "system busy: too many calls are under way at the gateway",
    )
}

/// The call was not sent, and there may be room the next moment.
fn no_room() -> Refusal {
    Refusal::with_status(
        StatusCode::SERVICE_UNAVAILABLE,
        platform::BUSY,
        "system busy: the gateway has no room for a body whose length is not told before: send a Content-Length",
    )
}

fn timed_out() -> Refusal {
    Refusal::with_status(
        StatusCode::GATEWAY_TIMEOUT,
        platform::BUSY,
        "system error: WeChat did not answer the gateway in time",
    )
}

fn body_failed(why: &BodyError) -> Refusal {
    let (status, errcode) = match why {
        BodyError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 45001),
        BodyError::Paused => (StatusCode::REQUEST_TIMEOUT, 44002),
        BodyError::Broken(_) => (StatusCode::BAD_REQUEST, 44002),
    };
    Refusal::with_status(status, errcode, format!("invalid post data: {why}"))
}
