//! The body of a reply as a client gets it: searched for what it may not tell (S5), and never ended
//! as if it were whole when it is not (S2).

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::HttpBody;
use axum::http::HeaderMap;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::body::BodyError;
use super::secrets::Secrets;
use super::text::is_text;
use crate::source::Found;
use crate::token::{BoxError, causes};

/// So much of a text is searched before the head of its reply is sent, and can be answered with an
/// error.
const AHEAD: usize = 16 * 1024;

/// Why a reply is not handed on, or not to its end.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It tells a secret.
    Telling,
    Paused,
    Broken,
    /// It has a head that cannot be passed on.
    Head(&'static str),
}

/// How the body of a reply ended.
#[derive(Debug)]
pub(super) enum End<'a> {
    Whole,
    Unfit(&'a Unfit),
    /// The client went away before.
    Left,
}

type Tell = Box<dyn FnOnce(End<'_>) + Send>;

/// Frames as they come, but for trailers, and for the end of a frame in which a secret may begin.
pub(super) struct Searched<B> {
    /// Searched already.
    ahead: Bytes,
    /// The end of what came, in which a secret may begin.
    held: Vec<u8>,
    /// `None` after its end.
    body: Option<B>,
    /// `None` if it is no text.
    secrets: Option<Secrets>,
    failed: Option<Unfit>,
    /// Whether what came before a failure was given time to get to the client.
    flushed: bool,
    tell: Option<Tell>,
}

impl<B> Searched<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Reads as much as has to be known before the head is sent: of a text its end or [`AHEAD`], of
    /// anything else a first frame.
    pub(super) async fn begin(
        body: B,
        headers: &HeaderMap,
        secrets: Secrets,
    ) -> Result<Self, Unfit> {
        let mut searched = Searched {
            ahead: Bytes::new(),
            held: Vec::new(),
            body: Some(body),
            secrets: None,
            failed: None,
            flushed: false,
            tell: None,
        };
        let mut secrets = Some(secrets);
        let mut frames = Vec::new();
        let mut length = 0;
        while frames.is_empty() || (secrets.is_none() && length < AHEAD) {
            let data = match poll_fn(|cx| searched.poll_data(cx)).await {
                None => break,
                Some(data) => data?,
            };
            if frames.is_empty() {
                if !is_text(headers, &data) {
                    searched.ahead = data;
                    return Ok(searched);
                }
                searched.secrets = secrets.take();
            }
            length += data.len();
            frames.push(data);
        }
        let text = match frames.len() {
            0 | 1 => frames.pop().unwrap_or_default(),
            _ => frames.concat().into(),
        };
        searched.ahead = searched.search(text).ok_or(Unfit::Telling)?;
        Ok(searched)
    }

    /// Has `tell` know how it ends, once.
    pub(super) fn telling(mut self, tell: impl FnOnce(End<'_>) + Send + 'static) -> Self {
        self.tell = Some(Box::new(tell));
        self.tell_of_the_end();
        self
    }

    /// The next data that is not empty. Trailers are dropped: nobody knows what they say before the
    /// body has gone out.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Unfit>>> {
        loop {
            let Some(body) = &mut self.body else {
                return Poll::Ready(None);
            };
            if body.is_end_stream() {
                self.body = None;
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None => self.body = None,
                Some(Err(error)) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(Unfit::of(error.into()))));
                }
                Some(Ok(frame)) => {
                    if body.is_end_stream() {
                        self.body = None;
                    }
                    match frame.into_data() {
                        Ok(data) if !data.is_empty() => return Poll::Ready(Some(Ok(data))),
                        _ => {}
                    }
                }
            }
        }
    }

    /// What can be sent of `data` and of what was held back before it; `None` if there is a secret
    /// in it.
    fn search(&mut self, data: Bytes) -> Option<Bytes> {
        let Some(secrets) = &self.secrets else {
            return Some(data);
        };
        let mut text = data;
        if !self.held.is_empty() {
            let mut whole = std::mem::take(&mut self.held);
            whole.extend_from_slice(&text);
            text = whole.into();
        }
        match secrets.search(&text) {
            Found::Yes => None,
            // Nothing follows in which it could go on.
            Found::NotBefore(_) if self.body.is_none() => Some(text),
            Found::NotBefore(at) => {
                self.held = text.split_off(at).into();
                Some(text)
            }
        }
    }

    fn fail(&mut self, why: Unfit) {
        self.held.clear();
        self.body = None;
        if let Some(tell) = self.tell.take() {
            tell(End::Unfit(&why));
        }
        self.failed = Some(why);
    }

    fn tell_of_the_end(&mut self) {
        let ended = self.body.is_none() && self.held.is_empty() && self.failed.is_none();
        if ended && self.ahead.is_empty() {
            if let Some(tell) = self.tell.take() {
                tell(End::Whole);
            }
        }
    }

    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Unfit>>> {
        loop {
            if !self.ahead.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut self.ahead))));
            }
            if self.failed.is_some() {
                // A server that gets an error at once drops what it has not written yet, the head
                // with it. A client that has not got a byte takes that for leave to send its call
                // again (caddy#7845).
                if !std::mem::replace(&mut self.flushed, true) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                return Poll::Ready(self.failed.take().map(Err));
            }
            match ready!(self.poll_data(cx)) {
                None if self.held.is_empty() => return Poll::Ready(None),
                None => self.ahead = std::mem::take(&mut self.held).into(),
                Some(Err(why)) => self.fail(why),
                Some(Ok(data)) => match self.search(data) {
                    Some(data) => self.ahead = data,
                    None => self.fail(Unfit::Telling),
                },
            }
        }
    }
}

impl<B> HttpBody for Searched<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Unfit;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unfit>>> {
        let data = ready!(self.poll_any(cx));
        self.tell_of_the_end();
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        let searched = self.ahead.is_empty() && self.held.is_empty() && self.failed.is_none();
        searched && self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.as_ref().map(HttpBody::size_hint);
        // What has failed is not as long as what there is of it.
        let rest = match self.failed {
            Some(_) => SizeHint::new(),
            None => rest.unwrap_or_else(|| SizeHint::with_exact(0)),
        };
        let here = (self.ahead.len() + self.held.len()) as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(here));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(here));
        }
        hint
    }
}

impl<B> Drop for Searched<B> {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            tell(End::Left);
        }
    }
}

impl Unfit {
    pub(super) fn of(error: BoxError) -> Self {
        let paused = causes(&*error)
            .any(|error| matches!(error.downcast_ref::<BodyError>(), Some(BodyError::Paused)));
        if paused { Unfit::Paused } else { Unfit::Broken }
    }

    /// For metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Unfit::Telling => "telling",
            Unfit::Paused => "stalled",
            Unfit::Broken => "broken_off",
            Unfit::Head(_) => "bad_reply",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::Telling => {
                "the reply held the account's own token, which stays with the gateway"
            }
            Unfit::Paused => "the reply stopped coming before its end",
            Unfit::Broken => "the reply broke off before its end",
            Unfit::Head(why) => why,
        })
    }
}

impl StdError for Unfit {}

#[cfg(test)]
mod tests;
