//! reqwest's body as one that can be sent again.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http_body::Body as _;

use super::reqwest::Body;
use crate::body::{Captured, Keep, Peek, Replay, ReplayBody, RequestBody};

impl RequestBody for Body {
    fn capture(mut self, keep: &Keep) -> Captured<Self> {
        let Some(length) = self.as_bytes().map(<[u8]>::len) else {
            return ReplayBody::new(self).capture(keep).map(Body::wrap);
        };
        // Taken out by a poll, for `Body` is not `Clone` and lends only a slice. Made of `Bytes`
        // both stay what reqwest itself can send again, after a redirect or a lost connection.
        let mut cx = Context::from_waker(Waker::noop());
        let bytes = match Pin::new(&mut self).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            _ => Default::default(),
        };
        let again = Replay::ready(Body::from(bytes.clone()));
        Captured::now(Body::from(bytes), again).of_length(length as u64)
    }

    fn peek(self, limit: usize) -> Peek<Self> {
        match self.as_bytes() {
            Some(_) => Peek::of_memory(self, limit, |body| body.as_bytes().unwrap_or_default()),
            None => ReplayBody::new(self).peek(limit).map(Body::wrap),
        }
    }
}

#[cfg(test)]
mod tests;
