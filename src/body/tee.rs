//! Where the first sending of a body leaves a copy for the second.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::timeout;

use super::ReplayBody;
use super::budget::Room;
use super::recording::Recording;

/// How long a replay waits for the first sending to let go of a body that is still streaming.
///
/// WeChat may answer before it has read the body. The client goes on sending it then, or gives up
/// when the server closes the connection; both end soon, or the body is a stream without an end.
const RELEASED_WITHIN: Duration = Duration::from_secs(10);

/// Where the first sending leaves a copy of what it sends, and in the end what it has not sent.
pub(super) struct Tee<B> {
    limit: usize,
    state: Mutex<TeeState<B>>,
}

struct TeeState<B> {
    /// `None` once it cannot be whole any more.
    copy: Option<Recording>,
    /// Given back with `copy`.
    room: Option<Room>,
    rest: Option<B>,
    released: bool,
    waiting: Option<Waker>,
}

impl<B> Tee<B> {
    pub(super) fn new(limit: usize, copy: Recording, room: Option<Room>) -> Self {
        Tee {
            limit,
            state: Mutex::new(TeeState {
                copy: Some(copy),
                room,
                rest: None,
                released: false,
                waiting: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, TeeState<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keep(&self, frame: &Frame<Bytes>) {
        let mut state = self.state();
        if let Some(copy) = &mut state.copy {
            copy.copy(frame);
            if copy.bytes() > self.limit {
                drop(state);
                self.give_up();
            }
        }
    }

    pub(super) fn give_up(&self) {
        self.tell(|state| {
            state.copy = None;
            state.room = None;
        });
    }

    pub(super) fn release(&self, rest: Option<B>) {
        self.tell(|state| {
            state.released = true;
            // Without a copy it is of no use, and it may hold a file or a connection.
            if state.copy.is_some() {
                state.rest = rest;
            }
        });
    }

    fn tell(&self, change: impl FnOnce(&mut TeeState<B>)) {
        let mut state = self.state();
        change(&mut state);
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

impl<B> Tee<B>
where
    B: Body<Data = Bytes>,
{
    pub(super) async fn into_body(self: Arc<Self>) -> Option<ReplayBody<B>> {
        let released = poll_fn(|cx| self.poll_released(cx));
        timeout(RELEASED_WITHIN, released).await.ok().flatten()
    }

    fn poll_released(&self, cx: &mut Context<'_>) -> Poll<Option<ReplayBody<B>>> {
        let mut state = self.state();
        if state.copy.is_none() {
            return Poll::Ready(None);
        }
        if !state.released {
            state.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (rest, room) = (state.rest.take(), state.room.take());
        let copy = state.copy.take();
        Poll::Ready(copy.map(|copy| ReplayBody::again(copy, rest, room)))
    }
}
