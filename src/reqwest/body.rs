//! reqwest's body as one that can be sent again.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http_body::Body as _;

use super::reqwest::Body;
use crate::body::{Peek, Replay, ReplayBody, RequestBody};

impl RequestBody for Body {
    fn capture(mut self, limit: usize) -> (Self, Replay<Self>) {
        if self.as_bytes().is_none() {
            let (body, again) = ReplayBody::new(self).capture(limit);
            return (Body::wrap(body), again.map(Body::wrap));
        }
        // Taken out by a poll, for `Body` is not `Clone` and lends only a slice. Made of `Bytes` both
        // stay what reqwest itself can send again, after a redirect or a lost connection.
        let mut cx = Context::from_waker(Waker::noop());
        let bytes = match Pin::new(&mut self).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            _ => Default::default(),
        };
        (Body::from(bytes.clone()), Replay::ready(Body::from(bytes)))
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
