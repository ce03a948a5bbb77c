//! A body of unknown length, read before it is sent.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use http_body::Body;

use super::budget::{Room, Taken};
use super::captured::Length;
use super::recording::Recording;
use super::{Captured, Keep, Replay, ReplayBody};
use crate::token::BoxError;

/// After so many frames others get their turn: a body whose frames are all there, and empty, would
/// otherwise hold its thread for ever, and no timeout of its caller's would ever run.
const FRAMES_AT_A_TIME: usize = 64;

/// Reads `body` to its end, or to the limit. Of one that ends before it the length is known then;
/// the other is sent as a stream.
pub(super) async fn collect<B>(
    mut body: ReplayBody<B>,
    keep: Keep,
) -> Result<Captured<ReplayBody<B>>, BoxError>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    let limit = keep.limit();
    let mut copy = Recording::default();
    let mut room = SetAside::begin(&keep).await?;
    let mut frames = 0_usize;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(Into::into)?;
        // Trailers are not kept: beside a Content-Length there are none.
        if let Some(data) = frame.data_ref() {
            let bytes = copy.bytes().saturating_add(data.len());
            if bytes > limit {
                let mut frames = copy.frames();
                frames.push_back(frame);
                body.put_back(frames, room.whole());
                return Ok(Captured::now(body, Replay::unavailable()).sized(Length::PastLimit));
            }
            room.make(bytes, limit).await?;
            copy.copy(&frame);
        }
        frames = frames.wrapping_add(1);
        if frames % FRAMES_AT_A_TIME == 0 {
            tokio::task::yield_now().await;
        }
    }
    let bytes = copy.bytes();
    let room = room.for_no_more_than(bytes);
    let (body, again) = ReplayBody::in_memory(copy, room);
    let captured = Captured::now(body, Replay::ready(again));
    Ok(captured.sized(Length::Collected(bytes as u64)))
}

/// What a body that is collected has taken of its budget.
struct SetAside<'a> {
    keep: &'a Keep,
    taken: Option<Taken>,
    bytes: usize,
}

impl<'a> SetAside<'a> {
    /// Room for a small body. Nearly all are small, and need no more.
    async fn begin(keep: &'a Keep) -> Result<Self, BoxError> {
        let (taken, bytes) = match keep.budget() {
            Some(budget) => {
                let bytes = budget.small_body().min(keep.limit());
                (Some(budget.take(bytes).await?), bytes)
            }
            None => (None, usize::MAX),
        };
        Ok(SetAside { keep, taken, bytes })
    }

    /// Room for `bytes`. What is more than a small body takes the whole limit at once; see `Pools`.
    ///
    /// One frame is in memory while this waits, beside the small body: that is as large as the
    /// client's buffer.
    async fn make(&mut self, bytes: usize, limit: usize) -> Result<(), BoxError> {
        let Some(budget) = self.keep.budget() else {
            return Ok(());
        };
        if bytes > self.bytes {
            self.taken = Some(budget.take(limit).await?);
            self.bytes = limit;
        }
        Ok(())
    }

    fn whole(self) -> Option<Room> {
        self.taken.map(Taken::into_room)
    }

    fn for_no_more_than(mut self, bytes: usize) -> Option<Room> {
        if let Some(taken) = &mut self.taken {
            taken.shrink_to(bytes);
        }
        self.whole()
    }
}
