use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::budget::Room;
use super::captured::Length;
use super::collect::collect;
use super::recording::Recording;
use super::tee::Tee;
use super::{Captured, Keep, Peek, Replay, RequestBody};
use crate::account_id::InJson;
use crate::token::BoxError;

/// How many frames are read before the body is sent. More are a stream, even if all are ready: each
/// costs a hundred bytes, however small it is, and empty ones never reach `replay_limit`.
const READ_AHEAD: usize = 1024;

/// How many bytes are read on after the frame that exceeds `replay_limit`. Only the last frame of a
/// form in memory says that it is, and one large part may come before it; a stream whose frames are
/// made as they are read looks the same till then, and must not fill the memory.
const READ_PAST_LIMIT: usize = 16 * 1024 * 1024;

/// A body of any stream type, in a form that can be sent again.
///
/// Make it the body type of your client where your own type is no [`RequestBody`]. What is in
/// memory already is captured without copying, whatever its size. What is still to come flows on,
/// if its length is known, and a copy is kept as it flows by, up to `replay_limit` bytes; else it
/// is collected first, up to the same limit. A body of known length and of several frames counts as
/// in memory when all are there at once, and no more than 16 MiB after the one that exceeds the
/// limit.
///
/// A frame larger than what is left of the limit ends the copy, and with it the hope of a replay;
/// the first sending is not held up by it.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_wechat::ReplayBody;
///
/// let http = Client::builder(TokioExecutor::new()).build_http::<ReplayBody<Full<Bytes>>>();
/// let request = http::Request::post("http://127.0.0.1:8080/cgi-bin/media/upload")
///     .body(ReplayBody::new(Full::new(Bytes::from("…"))))?;
/// # drop((http, request));
/// # Ok::<(), http::Error>(())
/// ```
pub struct ReplayBody<B>
where
    B: Body,
{
    /// What was read from `rest` before it was asked for.
    ahead: VecDeque<Frame<Bytes>>,
    failed: Option<B::Error>,
    rest: Option<B>,
    /// The end was read ahead, and nobody knew the size before: so it stays.
    open_end: bool,
    tee: Option<Arc<Tee<B>>>,
    /// What `ahead` counts for.
    room: Option<Room>,
}

impl<B> ReplayBody<B>
where
    B: Body<Data = Bytes>,
{
    /// Wraps `body`. Nothing is read from it before it is sent.
    pub fn new(body: B) -> Self {
        ReplayBody {
            ahead: VecDeque::new(),
            failed: None,
            rest: Some(body),
            open_end: false,
            tee: None,
            room: None,
        }
    }

    /// What was sent, and then what was not.
    pub(super) fn again(mut copy: Recording, rest: Option<B>, room: Option<Room>) -> Self {
        ReplayBody {
            ahead: copy.frames(),
            failed: None,
            rest,
            open_end: false,
            tee: None,
            room,
        }
    }

    /// All that was read of a body, twice.
    pub(super) fn in_memory(mut copy: Recording, room: Option<Room>) -> (Self, Self) {
        let body = ReplayBody {
            ahead: copy.frames(),
            failed: None,
            rest: None,
            open_end: false,
            tee: None,
            room: room.clone(),
        };
        (body, ReplayBody::again(copy, None, room))
    }

    /// What was read of it, and is sent before the rest.
    pub(super) fn put_back(&mut self, frames: VecDeque<Frame<Bytes>>, room: Option<Room>) {
        self.ahead = frames;
        self.room = room;
    }
}

/// So that a client with this body serves token sources as well.
impl<B> From<Bytes> for ReplayBody<B>
where
    B: Body<Data = Bytes> + From<Bytes>,
{
    fn from(body: Bytes) -> Self {
        ReplayBody::new(B::from(body))
    }
}

impl<B> RequestBody for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    fn capture(self, keep: &Keep) -> Captured<Self> {
        let ended = Body::is_end_stream(&self);
        let exact = match ended {
            true => Some(0),
            false => self.size_hint().exact(),
        };
        if exact == Some(0) && !ended {
            // It says that nothing comes, but not that it has ended. Clients tell a length of 0
            // then, or none if they ask once more and it has.
            return Captured::later(collect(self, keep.clone()));
        }
        match exact.or(keep.length()) {
            // What was there when somebody looked must not decide how it is sent.
            None => Captured::later(collect(self, keep.clone())),
            Some(length) => {
                let (body, again) = self.flowing(length, keep);
                let captured = Captured::now(body, again);
                match exact {
                    Some(exact) => captured.sized(Length::Known(exact)),
                    None => captured,
                }
            }
        }
    }

    fn peek(mut self, limit: usize) -> Peek<Self> {
        if self.tee.is_some() || self.failed.is_some() {
            return Peek::unknown(self);
        }
        Peek::later(async move {
            let bytes = self.read_object(limit).await;
            (self, bytes)
        })
    }
}

impl<B> ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Send,
{
    /// A body of which it is known how long it is, or said to be: it is sent as it comes.
    fn flowing(mut self, length: u64, keep: &Keep) -> (Self, Replay<Self>) {
        let limit = keep.limit();
        if self.tee.is_some() || self.failed.is_some() {
            return (self, Replay::unavailable());
        }
        // All that it will take, before it has taken any: with as much as has come, many slow
        // bodies would share the budget among them, and in the end none would have the whole of its
        // copy.
        let fits = usize::try_from(length)
            .ok()
            .filter(|length| *length <= limit);
        let room = match (keep.budget(), fits) {
            (Some(budget), Some(length)) => match budget.take_now(length) {
                Some(taken) => Some(taken.into_room()),
                None => return (self, Replay::unavailable()),
            },
            (Some(_), None) if self.size_hint().exact().is_none() => {
                return (self, Replay::unavailable());
            }
            _ => None,
        };
        let mut copy = Recording::default();
        for frame in &self.ahead {
            copy.keep(frame);
        }
        let Some(rest) = &mut self.rest else {
            self.room.clone_from(&room);
            return (self, Replay::ready(ReplayBody::again(copy, None, room)));
        };
        let declared = usize::try_from(rest.size_hint().lower()).unwrap_or(usize::MAX);
        let declared = copy.bytes().saturating_add(declared);
        let mut past_limit = 0_usize;
        // Whoever polls the body next brings a waker of its own.
        let mut cx = Context::from_waker(Waker::noop());
        let in_memory = loop {
            match Pin::new(&mut *rest).poll_frame(&mut cx) {
                Poll::Ready(None) => break true,
                Poll::Ready(Some(Ok(frame))) => {
                    if copy.bytes() > limit {
                        past_limit =
                            past_limit.saturating_add(frame.data_ref().map_or(0, Bytes::len));
                    }
                    copy.keep(&frame);
                    self.ahead.push_back(frame);
                    // All of it was there already, so that keeping it takes no more memory.
                    if rest.is_end_stream() {
                        break true;
                    }
                    if declared > limit
                        || past_limit > READ_PAST_LIMIT
                        || self.ahead.len() >= READ_AHEAD
                    {
                        break false;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.failed = Some(error);
                    return (self, Replay::unavailable());
                }
                Poll::Pending => break false,
            }
        };
        if in_memory {
            self.rest = None;
            if (copy.bytes() as u64) < length {
                // A Content-Length promises more. hyper fails such a call when it asks for a frame
                // and there is none; at a body that says beforehand that it has ended it takes the
                // request for complete, waits for the reply, and what is sent next on the
                // connection would be taken for the body.
                self.ahead.push_back(Frame::data(Bytes::new()));
                return (self, Replay::unavailable());
            }
            self.room.clone_from(&room);
            return (self, Replay::ready(ReplayBody::again(copy, None, room)));
        }
        if declared.max(copy.bytes()) > limit {
            return (self, Replay::unavailable());
        }
        let tee = Arc::new(Tee::new(limit, copy, room));
        self.tee = Some(Arc::clone(&tee));
        (self, Replay::later(tee.into_body()))
    }
}

impl<B> ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Reads ahead until a whole object of JSON is there, or what is there can be none. What was
    /// read is sent on in the same frames, and the rest tells its size as before.
    async fn read_object(&mut self, limit: usize) -> Option<Bytes> {
        let mut text: Vec<u8> = self.data_ahead().flatten().copied().collect();
        let mut looked = 0;
        poll_fn(|cx| {
            loop {
                let hint = self.rest.as_ref().map(Body::size_hint);
                let rest = self.rest.as_mut().map(|rest| Pin::new(rest).poll_frame(cx));
                let (at_hand, ended) = match rest {
                    Some(Poll::Ready(Some(Ok(frame)))) => {
                        text.extend(frame.data_ref().into_iter().flatten());
                        self.ahead.push_back(frame);
                        (true, false)
                    }
                    Some(Poll::Ready(Some(Err(error)))) => {
                        (self.failed, self.rest) = (Some(error), None);
                        return Poll::Ready(false);
                    }
                    Some(Poll::Ready(None)) | None => {
                        self.open_end |= hint.is_some_and(|hint| hint.exact().is_none());
                        self.rest = None;
                        (false, true)
                    }
                    Some(Poll::Pending) => (false, false),
                };
                if text.len() > limit || self.ahead.len() > limit {
                    text.truncate(limit);
                    return Poll::Ready(InJson::look(&text) != InJson::More);
                }
                // Not at each of many frames that are there, or a body of small ones would be read
                // again for each of them.
                if !at_hand || text.len() >= 2 * looked {
                    looked = text.len();
                    if ended || InJson::look(&text) != InJson::More {
                        return Poll::Ready(true);
                    }
                }
                if !at_hand {
                    return Poll::Pending;
                }
            }
        })
        .await
        .then(|| text.into())
    }

    fn data_ahead(&self) -> impl Iterator<Item = &Bytes> {
        self.ahead.iter().filter_map(Frame::data_ref)
    }
}

/// Nothing in it is pinned in its place: `rest` is polled only where it is `Unpin` itself.
impl<B> Unpin for ReplayBody<B> where B: Body + Unpin {}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if let Some(frame) = this.ahead.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(rest) = &mut this.rest else {
            this.open_end = false;
            return Poll::Ready(None);
        };
        let polled = Pin::new(rest).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => match &this.tee {
                Some(tee) if Arc::strong_count(tee) > 1 => tee.keep(frame),
                // Nobody wants a copy, or the call is over and nobody is left to ask for it.
                _ => this.tee = None,
            },
            Poll::Ready(Some(Err(_))) => {
                // An error cannot be cloned, so the body cannot be told again as it was.
                if let Some(tee) = &this.tee {
                    tee.give_up();
                }
            }
            Poll::Ready(None) => {
                this.rest = None;
                if let Some(tee) = this.tee.take() {
                    tee.release(None);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty()
            && self.failed.is_none()
            && !self.open_end
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match self.open_end {
            true => Some(SizeHint::default()),
            false => self.rest.as_ref().map(Body::size_hint),
        };
        add_ahead(rest, self.data_ahead())
    }
}

impl<B> Drop for ReplayBody<B>
where
    B: Body,
{
    fn drop(&mut self) {
        if let Some(tee) = self.tee.take() {
            tee.release(self.rest.take());
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B>
where
    B: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").finish_non_exhaustive()
    }
}

/// The size of a body of which some data has been read already.
pub(super) fn add_ahead<'a>(
    rest: Option<SizeHint>,
    ahead: impl Iterator<Item = &'a Bytes>,
) -> SizeHint {
    let ahead: u64 = ahead.map(|data| data.len() as u64).sum();
    let rest = rest.unwrap_or_else(|| SizeHint::with_exact(0));
    let mut hint = SizeHint::new();
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper.saturating_add(ahead));
    }
    hint.set_lower(rest.lower().saturating_add(ahead));
    hint
}
