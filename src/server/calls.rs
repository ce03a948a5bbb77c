//! The calls of a gateway: everything that is not a token request, passed on to WeChat.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout_at};
use tower::{Layer, ServiceExt};

use super::body::{BodyError, WatchedBody};
use super::clients::Client;
use super::headers;
use super::http::{BoxFuture, Http, OnBehalf};
use super::incoming::{presented, without_data};
use super::limits::Limits;
use super::metrics;
use super::opaque::{Seal, Unsealed};
use super::places::Places;
use super::query::parameters;
use super::refusal::Refusal;
use super::registry::{Account, Registry};
use super::reply::{self, Asked};
use super::room::{Room, longest};
use super::searched::End;
use super::secrets::{Secrets, Sent};
use super::target::{NoTarget, Upstream};
use super::teller::{Teller, Warnings};
use crate::body::{ReplayBudget, ReplyBody};
use crate::error::{Error, ErrorKind};
use crate::layer::WechatAuthLayer;
use crate::platform;
use crate::service::WechatAuth;
use crate::token::causes;

/// Longer limits than this are cut, so that adding them to an instant cannot overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// What all calls of a gateway share.
pub(super) struct Calls {
    registry: Arc<Registry>,
    seal: Arc<Seal>,
    upstream: Upstream,
    limits: Limits,
    places: Places,
    room: Room,
    wechat: WechatAuth<Http>,
    warnings: Arc<Warnings>,
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
            warnings: Arc::default(),
        }
    }

    pub(super) async fn answer(self: Arc<Self>, request: Request) -> Result<Response, Infallible> {
        let reply = self.pass_on(request).await;
        Ok(reply.unwrap_or_else(IntoResponse::into_response))
    }

    async fn pass_on(&self, request: Request) -> Result<Response, Refusal> {
        let target = self.target(&request)?;
        let own = presented(request.uri())?;
        let (client, account) = self.open(&own)?;
        let teller = Teller {
            warnings: Arc::clone(&self.warnings),
            client: Arc::clone(&client.name),
            account: Arc::clone(&account.appid),
            sent_to: target.clone(),
        };
        let held = self.places.take(client).ok_or_else(|| {
            teller.count("overloaded");
            overloaded()
        })?;

        let is_head = request.method() == Method::HEAD;
        let sent = Sent::default();
        let call = self.call(
            request,
            target,
            self.room.of(client),
            OnBehalf {
                tokens: account.tokens_for(client).clone(),
                sent: sent.clone(),
                pause: self.limits.body_pause,
            },
        );
        let call = call.await.inspect_err(|_| teller.count("body_failed"))?;
        let until = Instant::now() + self.limits.timeout.min(LONGEST_TIMEOUT);
        let late = |_| {
            teller.count("timeout");
            teller.warn(&self.warnings.timeout, "WeChat did not answer in time");
            timed_out(&sent)
        };
        let reply = timeout_at(until, self.send(call)).await.map_err(late)?;
        let reply = reply.map_err(|error| self.failed(&teller, &sent, &error))?;
        if let Some(refusal) = reply::rejected(&reply) {
            teller.count("rejected");
            return Err(refusal);
        }
        let asked = Asked {
            upstream: &self.upstream,
            secrets: Secrets::of_call(&sent, &account.tokens),
            own: &own,
            is_head,
        };
        let tell = {
            let teller = teller.clone();
            move |end: End<'_>| {
                teller.ended(end);
                // Its place is taken as long as its reply is under way.
                drop(held);
            }
        };
        let reply = timeout_at(until, reply::hand_on(reply, asked, tell));
        let reply = reply.await.map_err(late)?.map_err(|why| {
            teller.unfit(&why);
            Refusal::may_have_acted(why)
        })?;
        tracing::debug!(
            client = &*client.name,
            account = &*account.appid,
            path = teller.sent_to.path(),
            "passed on"
        );
        Ok(reply)
    }

    /// Where the call is to go.
    fn target(&self, request: &Request) -> Result<Uri, Refusal> {
        let uri = request.uri();
        let target_bytes = uri
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        if target_bytes + headers::size(request.headers()) > self.limits.header_bytes {
            metrics::call_refused("malformed");
            return Err(Refusal::with_status(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                48001,
                "the headers are too large for the gateway",
            ));
        }
        self.upstream.target(request).map_err(|no_target| {
            match &no_target {
                NoTarget::Mistake(_) => metrics::call_refused("malformed"),
                NoTarget::NotServed(_) => {
                    metrics::call_refused("not_served");
                    self.tell_of_not_served(uri);
                }
            }
            no_target.into_refusal()
        })
    }

    /// Whoever runs the gateway wants to know whom to give another base URL.
    fn tell_of_not_served(&self, uri: &Uri) {
        if !self.warnings.not_served.is_due() {
            return;
        }
        let query = uri.query().unwrap_or_default();
        let mut clients = parameters(query).filter_map(|(name, value)| match &*name {
            "access_token" => Some(self.seal.open(&value, &self.registry).ok()?.0),
            "secret" => self.registry.client_with(&value),
            _ => None,
        });
        let client = clients.next().map(|client| &*client.name);
        let path = uri.path();
        tracing::info!(
            client,
            path,
            "a path of WeChat's was asked for that the gateway does not pass on: errcode 48001"
        );
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
    async fn call(
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
        let length = length(&body, &head.headers);
        let longest = longest(length, limits, &room);
        let watched = |body| Body::new(WatchedBody::of_call(body, limits.body_pause, longest));
        let body = match body.is_end_stream() {
            true => Body::empty(),
            false if head.method == Method::POST => watched(body),
            false => without_data(watched(body)).await?,
        };
        let mut call = Request::new(body);
        *call.uri_mut() = target;
        *call.headers_mut() = head.headers;
        headers::clean_request(call.headers_mut());
        call.headers_mut().remove(header::CONTENT_LENGTH);
        if let Some(length) = length.filter(|_| head.method == Method::POST) {
            call.headers_mut()
                .insert(header::CONTENT_LENGTH, length.into());
        }
        *call.method_mut() = head.method;
        call.extensions_mut().insert(on_behalf);
        call.extensions_mut().insert(room);
        Ok(call)
    }

    /// Boxed, as the compiler does not see that the future can go to another thread where it is
    /// awaited.
    fn send(&self, call: Request) -> BoxFuture<Result<http::Response<ReplyBody<Body>>, Error>> {
        Box::pin(self.wechat.clone().oneshot(call))
    }

    fn failed(&self, teller: &Teller, sent: &Sent, error: &Error) -> Refusal {
        let (client, account) = (&*teller.client, &*teller.account);
        let path = teller.sent_to.path();
        if let Some(why) = error.token_error() {
            // The manager has told of it already.
            tracing::debug!(client, account, path, %error, "not passed on");
            teller.count("no_token");
            return Refusal::no_token(why);
        }
        if error.kind() == ErrorKind::UriTooLong {
            teller.count("malformed");
            return Refusal::with_status(
                StatusCode::URI_TOO_LONG,
                48001,
                "the target is too long with WeChat's access_token in it",
            );
        }
        if error.kind() == ErrorKind::NoRoom {
            tracing::debug!(client, account, path, %error, "not passed on");
            teller.count("overloaded");
            return no_room();
        }
        let causes = || causes(error.get_ref());
        if let Some(why) = causes().find_map(|error| error.downcast_ref::<BodyError>()) {
            tracing::debug!(client, account, path, %why, "not passed on");
            teller.count("body_failed");
            return body_failed(why);
        }
        if !sent.is_any() {
            tracing::debug!(client, account, path, %error, "not passed on");
            teller.count("not_sent");
            return Refusal::not_sent(error);
        }
        let unsent = causes().any(is_of_connecting);
        teller.count(if unsent { "not_sent" } else { "failed" });
        if self.warnings.failing.is_due() {
            tracing::warn!(client, account, path, %error, "a call did not get through to WeChat");
        } else {
            tracing::debug!(client, account, path, %error, "a call did not get through to WeChat");
        }
        match unsent {
            true => Refusal::with_status(
                StatusCode::BAD_GATEWAY,
                platform::BUSY,
                format!("system error: not sent, {error}"),
            ),
            false => Refusal::may_have_acted(error),
        }
    }
}

/// How long the body of a call is, for WeChat wants to know it.
fn length(body: &Body, headers: &HeaderMap) -> Option<u64> {
    body.size_hint()
        .exact()
        .or_else(|| headers::length(headers))
}

/// Whether a client failed before it had a connection, so that nothing was sent. Its own types are
/// not known here: hyper-util's, which reqwest's has within, is known by what it says.
fn is_of_connecting(error: &(dyn StdError + 'static)) -> bool {
    let refused = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    refused || error.to_string() == "client error (Connect)"
}

fn overloaded() -> Refusal {
    Refusal::with_status(
        StatusCode::SERVICE_UNAVAILABLE,
        platform::BUSY,
        "system busy: not sent, too many calls are under way at the gateway",
    )
}

/// The call was not sent, and there may be room the next moment.
fn no_room() -> Refusal {
    Refusal::with_status(
        StatusCode::SERVICE_UNAVAILABLE,
        platform::BUSY,
        "system busy: not sent, the gateway has no room for a body of unknown length: send a Content-Length",
    )
}

fn timed_out(sent: &Sent) -> Refusal {
    match sent.is_any() {
        true => Refusal::may_have_acted("it did not answer the gateway in time"),
        false => Refusal::with_status(
            StatusCode::GATEWAY_TIMEOUT,
            platform::BUSY,
            "system error: not sent, there was no access_token in time",
        ),
    }
}

pub(super) fn body_failed(why: &BodyError) -> Refusal {
    let (status, errcode) = match why {
        BodyError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 45001),
        BodyError::Paused => (StatusCode::REQUEST_TIMEOUT, 44002),
        BodyError::Broken(_) => (StatusCode::BAD_REQUEST, 44002),
    };
    Refusal::with_status(status, errcode, format!("invalid post data: {why}"))
}
