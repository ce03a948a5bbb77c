use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::replay_body::add_ahead;
use crate::reply::{Inspector, Look};
use crate::watch::Watch;

/// The body of a reply: the wrapped service's own, of which the layer may have read the beginning.
///
/// Frames, trailers, errors and the size come as the service gives them; nothing is merged, put in
/// another order or waited for.
pub struct ReplyBody<R>
where
    R: Body,
{
    /// What was read ahead. Nearly always one frame, for which there is room without a queue.
    first: Option<Item<R::Error>>,
    more: VecDeque<Item<R::Error>>,
    rest: Option<R>,
    watch: Option<Box<Watch>>,
}

/// Errors are kept like frames, in their place.
type Item<E> = Result<Frame<Bytes>, E>;

impl<R> ReplyBody<R>
where
    R: Body,
{
    pub(crate) fn new(body: R) -> Self {
        ReplyBody {
            first: None,
            more: VecDeque::new(),
            rest: Some(body),
            watch: None,
        }
    }

    /// Lets `watch` see what flows by.
    pub(crate) fn watch(&mut self, watch: Box<Watch>) {
        self.watch = Some(watch);
    }

    /// A body that the layer made.
    pub(crate) fn made(body: Bytes) -> Self {
        ReplyBody {
            first: Some(Ok(Frame::data(body))),
            more: VecDeque::new(),
            rest: None,
            watch: None,
        }
    }

    fn push(&mut self, item: Item<R::Error>) {
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(item);
        } else {
            self.more.push_back(item);
        }
    }

    fn data_ahead(&self) -> impl Iterator<Item = &Bytes> {
        let items = self.first.iter().chain(&self.more);
        items.filter_map(|item| item.as_ref().ok().and_then(Frame::data_ref))
    }
}

impl<R> ReplyBody<R>
where
    R: Body + Unpin,
{
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item<R::Error>>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let item = ready!(Pin::new(rest).poll_frame(cx));
        if item.is_none() {
            self.rest = None;
        }
        // No copy where the data is `Bytes` already, as it is with hyper and reqwest.
        let to_bytes = |mut data: R::Data| data.copy_to_bytes(data.remaining());
        Poll::Ready(item.map(|item| item.map(|frame| frame.map_data(to_bytes))))
    }

    /// Reads ahead until it is known whether the reply is a rejection; then it is read to its end,
    /// so that its connection can be used again.
    pub(crate) fn poll_inspect(
        &mut self,
        cx: &mut Context<'_>,
        inspector: &mut Inspector,
        refresh_on: &[i64],
    ) -> Poll<Look> {
        let mut seen: usize = self.data_ahead().map(Bytes::len).sum();
        loop {
            let more_at_hand = match self.poll_rest(cx) {
                Poll::Ready(None) => return Poll::Ready(self.look(inspector, true, refresh_on)),
                Poll::Ready(Some(Err(error))) => {
                    self.push(Err(error));
                    return Poll::Ready(Look::Pass);
                }
                Poll::Ready(Some(Ok(frame))) => {
                    seen += frame.data_ref().map_or(0, Bytes::len);
                    self.push(Ok(frame));
                    // Empty frames never reach the limit, and a peer may send them without end.
                    if self.more.len() > inspector.limit() {
                        return Poll::Ready(Look::Pass);
                    }
                    true
                }
                Poll::Pending => false,
            };
            let ended = self.rest.as_ref().is_none_or(Body::is_end_stream);
            if ended {
                // It may hold a place in the client, which the request for another token needs.
                self.rest = None;
            }
            if ended || inspector.is_due(seen, more_at_hand) {
                match self.look(inspector, ended, refresh_on) {
                    Look::More => {}
                    known => return Poll::Ready(known),
                }
            }
            if !more_at_hand {
                return Poll::Pending;
            }
        }
    }

    fn look(&self, inspector: &mut Inspector, ended: bool, refresh_on: &[i64]) -> Look {
        let mut data = self.data_ahead();
        let one = data.next();
        if data.next().is_none() {
            return inspector.look(one.map_or(&[], |data| &data[..]), ended, refresh_on);
        }
        let all: Vec<u8> = self.data_ahead().flatten().copied().collect();
        inspector.look(&all, ended, refresh_on)
    }
}

/// Nothing in it is pinned in its place: `rest` is polled only where it is `Unpin` itself.
impl<R> Unpin for ReplyBody<R> where R: Body + Unpin {}

impl<R> Body for ReplyBody<R>
where
    R: Body + Unpin,
{
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        if let Some(item) = self.first.take() {
            return Poll::Ready(Some(item));
        }
        if let Some(item) = self.more.pop_front() {
            return Poll::Ready(Some(item));
        }
        let polled = ready!(self.poll_rest(cx));
        let data = polled
            .as_ref()
            .and_then(|item| item.as_ref().ok()?.data_ref());
        if let (Some(watch), Some(data)) = (&mut self.watch, data) {
            if watch.has_seen_enough(data) {
                self.watch = None;
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none()
            && self.more.is_empty()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        add_ahead(self.rest.as_ref().map(Body::size_hint), self.data_ahead())
    }
}

impl<R> fmt::Debug for ReplyBody<R>
where
    R: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody").finish_non_exhaustive()
    }
}
