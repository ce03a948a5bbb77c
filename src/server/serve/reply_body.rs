//! The body of a reply, whose end is noted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::standing::Standing;

/// hyper drops it as soon as it is written, or cannot be any more.
pub(super) struct ReplyBody {
    body: Body,
    /// Why it breaks off, when all before is written.
    broken: Option<axum::Error>,
    standing: Arc<Standing>,
}

impl ReplyBody {
    pub(super) fn new(body: Body, standing: Arc<Standing>) -> Self {
        ReplyBody {
            body,
            broken: None,
            standing,
        }
    }
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = axum::Error;

    /// When a body breaks off, hyper forgets what it has not written yet, if need be with the head.
    /// A connection that is closed without a byte is leave to send again to some clients, though
    /// the call has been made.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.broken.is_some() {
            return match self.standing.is_flushed() {
                true => Poll::Ready(self.broken.take().map(Err)),
                false => Poll::Pending,
            };
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Err(error)) => {
                self.broken = Some(error);
                self.standing.wants_flush();
                // hyper writes before it asks again.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        self.standing.answered();
    }
}
