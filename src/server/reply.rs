//! What becomes of a reply: handed on, or answered with what the gateway has to say of it.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::response::Parts;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::headers;
use super::redirect;
use super::refusal::{OF_THE_SERVER, Refusal};
use super::searched::{End, Searched, Unfit};
use super::secrets::Secrets;
use super::target::Upstream;
use crate::body::ReplyBody;
use crate::outcome::{AuthOutcome, NotReplayed};
use crate::platform;

/// What a reply is an answer to.
pub(super) struct Asked<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) secrets: Secrets,
    /// The token that the client presented.
    pub(super) own: &'a str,
    pub(super) is_head: bool,
}

/// The reply as the client gets it. `tell` learns how its body ended.
pub(super) async fn hand_on(
    reply: http::Response<ReplyBody<Body>>,
    asked: Asked<'_>,
    tell: impl FnOnce(End<'_>) + Send + 'static,
) -> Result<Response, Unfit> {
    let (mut head, body) = reply.into_parts();
    let length = headers::length(&head.headers);
    check(&head)?;
    headers::clean_reply(&mut head.headers);
    redirect::clean(&mut head.headers, &asked.secrets, asked.upstream, asked.own);
    let body = if asked.is_head {
        length_alone(&mut head.headers, length)
    } else if head.status.is_redirection() {
        // It says where the call went, in some page of a server's.
        headers::forget_body(&mut head.headers);
        Body::empty()
    } else {
        let body = Searched::begin(body, &head.headers, asked.secrets).await?;
        return Ok(reply_of(head, Body::new(body.telling(tell))));
    };
    tell(End::Whole);
    Ok(reply_of(head, body))
}

/// Whether the head can be passed on.
fn check(head: &Parts) -> Result<(), Unfit> {
    if head.status.is_informational() {
        // The client has asked for no upgrade, and nothing comes after it (nghttp2#2867).
        return Err(Unfit::Head(
            "the reply is none: its status is of the class 1xx",
        ));
    }
    if !headers::is_plainly_framed(&head.headers) {
        return Err(Unfit::Head(
            "the reply comes in a transfer coding that is not understood here",
        ));
    }
    Ok(())
}

fn reply_of(mut head: Parts, body: Body) -> Response {
    let mut reply = Response::new(body);
    *reply.status_mut() = head.status;
    *reply.headers_mut() = head.headers;
    // Of what the client leaves there, only this tells no token.
    if let Some(outcome) = head.extensions.remove::<AuthOutcome>() {
        reply.extensions_mut().insert(outcome);
    }
    reply
}

/// What a reply to HEAD says of the body that GET would have.
fn length_alone(headers: &mut HeaderMap, length: Option<u64>) -> Body {
    match length {
        Some(length) => {
            headers.insert(header::CONTENT_LENGTH, length.into());
            Body::empty()
        }
        // Of an empty one axum would say that its length is 0.
        None => Body::new(OfAnyLength),
    }
}

/// Nothing, and no word about how much that is.
struct OfAnyLength;

impl http_body::Body for OfAnyLength {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

/// Where WeChat's last word is that it does not want its own token. The client would take that for
/// a word about the client's, get another and send the call again; all that is wrong with it may be
/// that it came at a bad time.
pub(super) fn rejected(reply: &http::Response<ReplyBody<Body>>) -> Option<Refusal> {
    let outcome = reply.extensions().get::<AuthOutcome>()?;
    let errcode = outcome.errcode()?;
    if outcome.replayed() && !outcome.rejected_again() {
        return None;
    }
    let rid = outcome.rid().unwrap_or("none");
    let rejection = format!(
        "WeChat has not acted on it: it rejected the gateway's own token with errcode {errcode} rid: {rid}"
    );
    // A call that was rejected was not carried out, and where the next one may well have another
    // token -1 says so.
    let soon = |why| {
        Refusal::new(
            platform::BUSY,
            format!("system error: {rejection}, and {why}"),
        )
    };
    Some(match outcome.not_replayed() {
        Some(NotReplayed::BodyNotKept) => {
            soon("the call is too large to be sent again: send it once more")
        }
        Some(NotReplayed::SameToken) => soon("there is no other yet"),
        Some(NotReplayed::NoToken(why)) => match Refusal::no_token(why) {
            refusal if refusal.errcode() == platform::BUSY => soon("there is no other yet"),
            refusal if refusal.errcode() == OF_THE_SERVER => {
                Refusal::of_server(format_args!("{rejection}, and there is no other: {why}"))
            }
            refusal => refusal,
        },
        Some(why @ NotReplayed::UriTooLong) => {
            Refusal::of_server(format_args!("{rejection}, and {why}"))
        }
        None => Refusal::of_server(format_args!(
            "{rejection}, and another one, too: does the body hold an access_token of its own?"
        )),
    })
}
