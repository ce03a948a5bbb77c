//! A request for a token whose body says whose: it is read before the layer knows what to do.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http::request::Parts;

use crate::account_id::{Asked, InJson};
use crate::body::PeekLater;
use crate::config::{Aside, Config};

/// So much of a body is read: token requests are about 200 bytes.
pub(crate) const READ_AT_MOST: usize = 64 * 1024;

/// Waits for the body of a token request. The wrapped service is not ready meanwhile.
pub(crate) struct Asking<S, B> {
    pub(crate) inner: S,
    pub(crate) config: Arc<Config>,
    parts: Option<Parts>,
    body: Coming<B>,
}

enum Coming<B> {
    Read(PeekLater<B>),
    Here(Option<B>),
}

impl<S, B> Asking<S, B> {
    pub(crate) fn new(inner: S, config: Arc<Config>, parts: Parts, body: PeekLater<B>) -> Self {
        Asking {
            inner,
            config,
            parts: Some(parts),
            body: Coming::Read(body),
        }
    }

    /// What becomes of the request. Not to be polled after that.
    pub(crate) fn poll_aside(&mut self, cx: &mut Context<'_>) -> Poll<Option<Aside>> {
        let Coming::Read(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let (body, bytes) = ready!(body.as_mut().poll(cx));
        self.body = Coming::Here(Some(body));
        let parts = self.parts.as_ref();
        Poll::Ready(parts.map(|parts| aside(&self.config, parts, bytes)))
    }

    pub(crate) fn head(&self) -> Option<&Parts> {
        self.parts.as_ref()
    }

    /// The request as it came; `None` when it was taken already.
    pub(crate) fn request(&mut self) -> Option<Request<B>> {
        let Coming::Here(body) = &mut self.body else {
            return None;
        };
        Some(Request::from_parts(self.parts.take()?, body.take()?))
    }
}

/// What becomes of a token request with this body.
pub(crate) fn aside(config: &Config, parts: &Parts, body: Option<Bytes>) -> Aside {
    let asked = body.and_then(|text| match InJson::look(&text) {
        InJson::Known(appid) => appid.map(Asked::Appid),
        InJson::More => None,
    });
    config.answer(parts, asked)
}
