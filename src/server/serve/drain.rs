//! The rest of a request's body that nobody wants, thrown away.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use tokio::time::{Instant, Sleep, sleep_until};

use super::bounds::Bounds;
use super::standing::Standing;

/// A client that sends comes on; one that waits for something does not.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Drain {
    body: Incoming,
    left: u64,
    end: Instant,
    came: Instant,
    timer: Pin<Box<Sleep>>,
    standing: Arc<Standing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// The connection can be kept.
    Whole,
    TooMuch,
}

impl Drain {
    pub(super) fn new(body: Incoming, bounds: &Bounds, standing: Arc<Standing>) -> Self {
        let now = Instant::now();
        let end = now + bounds.drain_timeout;
        Drain {
            body,
            left: bounds.drained_bytes,
            end,
            came: now,
            timer: Box::pin(sleep_until(end.min(now + PAUSE))),
            standing,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Drained> {
        // It says how much there is to come.
        if self.body.size_hint().lower() > self.left {
            return Poll::Ready(Drained::TooMuch);
        }
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.standing.body_came();
                    self.came = Instant::now();
                    let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                    match self.left.checked_sub(bytes) {
                        Some(left) if self.came < self.end => self.left = left,
                        _ => return Poll::Ready(Drained::TooMuch),
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Drained::TooMuch),
                Poll::Ready(None) => return Poll::Ready(Drained::Whole),
                Poll::Pending => break,
            }
        }
        self.standing.waits_for_body();
        while self.timer.as_mut().poll(cx).is_ready() {
            let deadline = self.end.min(self.came + PAUSE);
            if Instant::now() >= deadline {
                return Poll::Ready(Drained::TooMuch);
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.standing.body_came();
        // No other call comes before its end.
        self.standing.body_ends(self.standing.calls());
    }
}
