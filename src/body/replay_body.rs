use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::timeout;

use super::{Peek, Replay, RequestBody};
use crate::account_id::InJson;

/// How long a replay waits for the first sending to let go of a body that is still streaming.
///
/// WeChat may answer before it has read the body. The client goes on sending it then, or gives up
/// when the server closes the connection; both end soon, or the body is a stream without an end.
const RELEASED_WITHIN: Duration = Duration::from_secs(10);

/// How many frames are read before the body is sent. More are a stream, even if all are ready: each
/// costs a hundred bytes, however small it is, and empty ones never reach `replay_limit`.
const READ_AHEAD: usize = 1024;

/// How many bytes are read on after the frame that exceeds `replay_limit`. Only the last frame of a form
/// in memory says that it is, and one large part may come before it; a stream whose frames are made as they
/// are read looks the same till then, and must not fill the memory.
const READ_PAST_LIMIT: usize = 16 * 1024 * 1024;

/// A body of any stream type, in a form that can be sent again.
///
/// Make it the body type of your client where your own type is no
/// [`RequestBody`]. What is in memory already is captured without copying, whatever its size; of
/// what is still to come a copy is kept as it flows by, up to `replay_limit` bytes. A body of several frames
/// counts as in memory when all are there at once, and no more than 16 MiB after the one that exceeds the
/// limit.
///
/// A frame larger than what is left of the limit ends the copy, and with it the hope of a replay;
/// the first sending is never held up.
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
}

/// Where the first sending leaves a copy of what it sends, and in the end what it has not sent.
struct Tee<B> {
    limit: usize,
    state: Mutex<TeeState<B>>,
}

struct TeeState<B> {
    /// `None` once it cannot be whole any more.
    copy: Option<Recording>,
    rest: Option<B>,
    released: bool,
    waiting: Option<Waker>,
}

/// Frames that went by.
#[derive(Default)]
struct Recording {
    data: Vec<Bytes>,
    small: BytesMut,
    trailers: Option<HeaderMap>,
    bytes: usize,
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
        }
    }

    /// What was sent, and then what was not.
    fn again(copy: Recording, rest: Option<B>) -> Self {
        ReplayBody {
            ahead: copy.into_frames(),
            failed: None,
            rest,
            open_end: false,
            tee: None,
        }
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
    B::Error: Send,
{
    fn capture(mut self, limit: usize) -> (Self, Replay<Self>) {
        if self.tee.is_some() || self.failed.is_some() {
            return (self, Replay::unavailable());
        }
        let mut copy = Recording::default();
        for frame in &self.ahead {
            copy.keep(frame);
        }
        let Some(rest) = &mut self.rest else {
            return (self, Replay::ready(ReplayBody::again(copy, None)));
        };
        let declared = usize::try_from(rest.size_hint().lower()).unwrap_or(usize::MAX);
        let declared = copy.bytes.saturating_add(declared);
        let mut past_limit = 0_usize;
        // Whoever polls the body next brings a waker of its own.
        let mut cx = Context::from_waker(Waker::noop());
        let in_memory = loop {
            match Pin::new(&mut *rest).poll_frame(&mut cx) {
                Poll::Ready(None) => break true,
                Poll::Ready(Some(Ok(frame))) => {
                    if copy.bytes > limit {
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
            return (self, Replay::ready(ReplayBody::again(copy, None)));
        }
        if declared.max(copy.bytes) > limit {
            return (self, Replay::unavailable());
        }
        let tee = Arc::new(Tee::new(limit, copy));
        self.tee = Some(Arc::clone(&tee));
        (self, Replay::later(tee.into_body()))
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
    B: Body<Data = Bytes> + Unpin,
{
    /// Reads ahead until a whole object of JSON is there, or what is there can be none. What was read is
    /// sent on in the same frames, and the rest tells its size as before.
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
                // Not at each of many frames that are there, or a body of small ones would be read again
                // for each of them.
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

impl<B> Tee<B> {
    fn new(limit: usize, copy: Recording) -> Self {
        Tee {
            limit,
            state: Mutex::new(TeeState {
                copy: Some(copy),
                rest: None,
                released: false,
                waiting: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, TeeState<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        let mut state = self.state();
        if let Some(copy) = &mut state.copy {
            copy.keep(frame);
            if copy.bytes > self.limit {
                drop(state);
                self.give_up();
            }
        }
    }

    fn give_up(&self) {
        self.tell(|state| state.copy = None);
    }

    fn release(&self, rest: Option<B>) {
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
    async fn into_body(self: Arc<Self>) -> Option<ReplayBody<B>> {
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
        let rest = state.rest.take();
        Poll::Ready(state.copy.take().map(|copy| ReplayBody::again(copy, rest)))
    }
}

impl Recording {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        /// From here on small frames are put together: a body in frames of one byte would
        /// otherwise take thirty times its size.
        const FRAMES: usize = 32;
        const SMALL: usize = 512;
        const JOINED: usize = 16 * 1024;

        if let Some(data) = frame.data_ref() {
            self.bytes = self.bytes.saturating_add(data.len());
            if self.data.len() >= FRAMES && data.len() < SMALL {
                self.small.extend_from_slice(data);
                if self.small.len() >= JOINED {
                    self.flush();
                }
            } else if !data.is_empty() {
                self.flush();
                self.data.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.data.push(mem::take(&mut self.small).freeze());
        }
    }

    fn into_frames(mut self) -> VecDeque<Frame<Bytes>> {
        self.flush();
        let data = self.data.into_iter().map(Frame::data);
        data.chain(self.trailers.map(Frame::trailers)).collect()
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
