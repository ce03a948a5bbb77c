use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http_body::Body as _;
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{Either, Empty, Full};

use super::{Peek, ReplayBody};

/// A request body that the layer can send, and send again.
///
/// Bodies that are in memory are cloned, whatever their size: `Bytes` and `Full<Bytes>` without
/// copying, `String` and `Vec<u8>` byte for byte. `BoxBody`, `UnsyncBoxBody` and, with their features,
/// axum's and reqwest's `Body` are polled once: what is there already is captured without copying,
/// whatever the box holds, and what is still to come flows on while a copy is kept up to
/// `replay_limit` bytes. For a stream type of your own make [`ReplayBody`] the body of your client.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower_wechat::RequestBody;
///
/// let (_sent_now, _sent_again) = Full::new(Bytes::from("{}")).capture(16);
/// ```
pub trait RequestBody: Sized {
    /// Splits the body into what is sent now and what can be sent again, keeping at most `limit`
    /// bytes of what is not in memory yet.
    fn capture(self, limit: usize) -> (Self, Replay<Self>);

    /// Looks into the body before it is sent, for a request that says there what it is about; at most
    /// `limit` bytes and what comes along with them.
    ///
    /// The body that it gives back is sent like the one it took: the same bytes, and the same
    /// knowledge of how many. What is in memory is there at once. The bytes need not be all of a
    /// stream: no more than an object of JSON. By default nothing is known.
    fn peek(self, limit: usize) -> Peek<Self> {
        let _ = limit;
        Peek::unknown(self)
    }
}

/// The body for a second sending, if there is one.
pub struct Replay<B> {
    kept: Kept<B>,
}

enum Kept<B> {
    Ready(B),
    Later(Pin<Box<dyn Future<Output = Option<B>> + Send>>),
    Nothing,
}

impl<B> Replay<B> {
    /// The body is here.
    pub fn ready(body: B) -> Self {
        Replay {
            kept: Kept::Ready(body),
        }
    }

    /// The body will be known when the first sending is over. Polled only if it is needed.
    pub fn later(body: impl Future<Output = Option<B>> + Send + 'static) -> Self {
        Replay {
            kept: Kept::Later(Box::pin(body)),
        }
    }

    /// The body can be sent only once.
    pub fn unavailable() -> Self {
        Replay {
            kept: Kept::Nothing,
        }
    }

    /// The same in another wrapping.
    pub fn map<C>(self, wrap: impl FnOnce(B) -> C + Send + 'static) -> Replay<C>
    where
        B: 'static,
    {
        match self.kept {
            Kept::Ready(body) => Replay::ready(wrap(body)),
            Kept::Later(body) => Replay::later(async move { body.await.map(wrap) }),
            Kept::Nothing => Replay::unavailable(),
        }
    }

    /// The body, or `None` when it cannot be sent again. Not to be polled after that.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<B>> {
        match &mut self.kept {
            Kept::Later(body) => body.as_mut().poll(cx),
            Kept::Ready(_) | Kept::Nothing => {
                match std::mem::replace(&mut self.kept, Kept::Nothing) {
                    Kept::Ready(body) => Poll::Ready(Some(body)),
                    _ => Poll::Ready(None),
                }
            }
        }
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kept {
            Kept::Ready(_) => "Replay::ready(…)",
            Kept::Later(_) => "Replay::later(…)",
            Kept::Nothing => "Replay::unavailable()",
        })
    }
}

/// Bodies that are in memory already.
macro_rules! cloned {
    ($([$($generics:tt)*] $body:ty: $bytes:expr),+ $(,)?) => {$(
        impl<$($generics)*> RequestBody for $body {
            fn capture(self, _limit: usize) -> (Self, Replay<Self>) {
                let again = Replay::ready(self.clone());
                (self, again)
            }

            fn peek(self, limit: usize) -> Peek<Self> {
                Peek::of_memory(self, limit, $bytes)
            }
        }
    )+};
}

cloned! {
    [D] Empty<D>: |_| &[],
    [] String: |body| body.as_bytes(),
    [] Vec<u8>: |body| body,
    [] Bytes: |body| body,
    [] &'static str: |body| body.as_bytes(),
    [] &'static [u8]: |body| body,
    [] Cow<'static, str>: |body| body.as_bytes(),
    [] (): |_| &[],
}

impl<D: Buf + Clone> RequestBody for Full<D> {
    fn capture(self, _limit: usize) -> (Self, Replay<Self>) {
        let again = Replay::ready(self.clone());
        (self, again)
    }

    fn peek(self, limit: usize) -> Peek<Self> {
        let mut cx = Context::from_waker(Waker::noop());
        let data = match Pin::new(&mut self.clone()).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
            _ => None,
        };
        let bytes = match data {
            Some(data) if data.remaining() > limit => None,
            Some(mut data) => Some(data.copy_to_bytes(data.remaining())),
            None => Some(Bytes::new()),
        };
        Peek::now(self, bytes)
    }
}

impl<B: RequestBody + 'static> RequestBody for Option<B> {
    fn capture(self, limit: usize) -> (Self, Replay<Self>) {
        match self {
            Some(body) => {
                let (body, again) = body.capture(limit);
                (Some(body), again.map(Some))
            }
            None => (None, Replay::ready(None)),
        }
    }

    fn peek(self, limit: usize) -> Peek<Self> {
        match self {
            Some(body) => body.peek(limit).map(Some),
            None => Peek::now(None, Some(Bytes::new())),
        }
    }
}

impl<L, R> RequestBody for Either<L, R>
where
    L: RequestBody + 'static,
    R: RequestBody + 'static,
{
    fn capture(self, limit: usize) -> (Self, Replay<Self>) {
        match self {
            Either::Left(body) => {
                let (body, again) = body.capture(limit);
                (Either::Left(body), again.map(Either::Left))
            }
            Either::Right(body) => {
                let (body, again) = body.capture(limit);
                (Either::Right(body), again.map(Either::Right))
            }
        }
    }

    fn peek(self, limit: usize) -> Peek<Self> {
        match self {
            Either::Left(body) => body.peek(limit).map(Either::Left),
            Either::Right(body) => body.peek(limit).map(Either::Right),
        }
    }
}

/// Boxes: whatever they hold goes through a [`ReplayBody`] and into a box again.
macro_rules! boxed {
    ($($(#[$meta:meta])* [$($generics:tt)*] $body:ty),+ $(,)?) => {$(
        $(#[$meta])*
        impl<$($generics)*> RequestBody for $body {
            fn capture(self, limit: usize) -> (Self, Replay<Self>) {
                let (body, again) = ReplayBody::new(self).capture(limit);
                (Self::new(body), again.map(Self::new))
            }

            fn peek(self, limit: usize) -> Peek<Self> {
                ReplayBody::new(self).peek(limit).map(Self::new)
            }
        }
    )+};
}

boxed! {
    [E: Send + Sync + 'static] BoxBody<Bytes, E>,
    [E: Send + 'static] UnsyncBoxBody<Bytes, E>,
    #[cfg(feature = "axum")]
    [] axum_core::body::Body,
}
