//! The body of a request, as handlers get it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::bounds::PACE;
use super::standing::Standing;
use crate::token::BoxError;

/// Its rest is not lost when it is dropped: whoever ends the connection needs it.
pub(super) struct RequestBody {
    body: Option<Incoming>,
    call: u32,
    /// The client sends it when it is asked to, by `100 Continue`.
    expects: bool,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waits_since: Option<Instant>,
    /// How long it has been waited for, and how much has come meanwhile.
    waited: Duration,
    came: usize,
    standing: Arc<Standing>,
}

/// It comes too slowly.
#[derive(Debug)]
struct Stalled;

impl RequestBody {
    pub(super) fn new(
        body: Incoming,
        expects: bool,
        timeout: Duration,
        standing: Arc<Standing>,
    ) -> Self {
        standing.body_begins();
        RequestBody {
            body: Some(body),
            call: standing.calls(),
            expects,
            timeout,
            timer: None,
            waits_since: None,
            waited: Duration::ZERO,
            came: 0,
            standing,
        }
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.timeout.saturating_sub(self.waited);
        match (&mut self.timer, self.waits_since) {
            (Some(_), Some(_)) => {}
            (Some(timer), None) => timer.as_mut().reset(Instant::now() + left),
            (timer @ None, _) => *timer = Some(Box::pin(sleep(left))),
        }
        if self.waits_since.is_none() {
            self.waits_since = Some(Instant::now());
            self.standing.waits_for_body();
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn note(&mut self, bytes: usize) {
        if let Some(since) = self.waits_since.take() {
            self.waited += since.elapsed();
            self.standing.body_came();
        }
        self.came += bytes;
        if self.came >= PACE {
            (self.came, self.waited) = (0, Duration::ZERO);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.expects = false;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            ready!(self.poll_stalled(cx));
            return Poll::Ready(Some(Err(Stalled.into())));
        };
        match frame {
            Some(Ok(frame)) => {
                self.note(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            end => {
                self.note(0);
                self.body = None;
                self.standing.body_ends(self.call);
                Poll::Ready(end.map(|end| end.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.waits_since.is_some() {
            self.standing.body_came();
        }
        match self.body.take() {
            // To read it is to ask for it.
            Some(body) if self.expects && !body.is_end_stream() => {
                self.standing.left_body.leave_unasked();
            }
            // It ends when it is drained.
            Some(body) if !body.is_end_stream() => return self.standing.leave(body),
            _ => {}
        }
        self.standing.body_ends(self.call);
    }
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body of the request comes too slowly")
    }
}

impl std::error::Error for Stalled {}
