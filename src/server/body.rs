//! The bodies that go through a gateway, watched: how large they are, and how long they pause.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::token::BoxError;

/// tower-http's `TimeoutBody` counts the time in which nobody asks for more, too, and hides how
/// long a body is.
pub(super) struct WatchedBody<B> {
    body: B,
    pause: Duration,
    /// Runs while there is nothing.
    timer: Option<Pin<Box<Sleep>>>,
    /// How many bytes may still come.
    left: u64,
}

/// Why a body ended before its end.
#[derive(Debug)]
pub(super) enum BodyError {
    TooLarge,
    Paused,
    Broken(BoxError),
}

impl<B> WatchedBody<B> {
    /// That of a call, of at most `limit` bytes.
    pub(super) fn of_call(body: B, pause: Duration, limit: usize) -> Self {
        WatchedBody {
            body,
            pause,
            timer: None,
            left: limit as u64,
        }
    }

    /// That of a reply.
    pub(super) fn of_reply(body: B, pause: Duration) -> Self {
        WatchedBody {
            body,
            pause,
            timer: None,
            left: u64::MAX,
        }
    }
}

impl<B> HttpBody for WatchedBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // First what there is: then it has not paused, whenever it was asked for.
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let pause = self.pause;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(pause)));
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(Some(Err(BodyError::Paused)));
        };
        self.timer = None;
        let Some(frame) = frame else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(|error| BodyError::Broken(error.into()));
        let bytes = frame
            .as_ref()
            .ok()
            .and_then(Frame::data_ref)
            .map_or(0, Bytes::len);
        match self.left.checked_sub(bytes as u64) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Some(frame))
            }
            None => Poll::Ready(Some(Err(BodyError::TooLarge))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BodyError::TooLarge => "the body is too large",
            BodyError::Paused => "the body stopped coming",
            BodyError::Broken(_) => "the body broke off",
        })
    }
}

impl StdError for BodyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            BodyError::TooLarge | BodyError::Paused => None,
            BodyError::Broken(error) => Some(&**error),
        }
    }
}
