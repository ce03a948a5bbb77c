use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http_body::Body as _;
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{Either, Empty, Full};

use super::{Captured, Keep, Peek, Replay, ReplayBody};
use crate::token::BoxError;

/// A request body that the layer can send, and send again.
///
/// - Bodies that are in memory are cloned, whatever their size: `Bytes` and `Full<Bytes>` without
///   copying, `String` and `Vec<u8>` byte for byte.
/// - `BoxBody`, `UnsyncBoxBody` and, with their features, axum's and reqwest's `Body` flow on as
///   they come when their length is known, by their exact size hint or by the request's
///   Content-Length. A copy is kept meanwhile, up to `replay_limit` bytes; what is there already is
///   not copied, whatever the box holds.
/// - The same of unknown length are collected before the call is sent, up to `replay_limit`, and
///   sent with their length: WeChat answers 412 to a body in chunks. A longer one is sent in
///   chunks, once.
///
/// For a stream type of your own make [`ReplayBody`] the body of your client, or write `capture`
/// yourself:
///
/// ```
/// use tower_wechat::{Captured, Keep, Replay, RequestBody};
///
/// /// A text that is the same for everybody.
/// struct Notice(&'static str);
///
/// impl RequestBody for Notice {
///     fn capture(self, _: &Keep) -> Captured<Self> {
///         let again = Replay::ready(Notice(self.0));
///         let bytes = self.0.len() as u64;
///         Captured::now(self, again).of_length(bytes)
///     }
/// }
/// ```
pub trait RequestBody: Sized {
    /// Splits the body into what is sent now and what can be sent again; `keep` says how much may
    /// be kept for it.
    ///
    /// What it makes of the body depends on the body and on `keep`, not on what of it is there
    /// already: else one upload goes out with a length and the next in chunks.
    fn capture(self, keep: &Keep) -> Captured<Self>;

    /// Looks into the body before it is sent, for a request that says there what it is about; at
    /// most `limit` bytes and what comes along with them.
    ///
    /// The body that it gives back is sent like the one it took: the same bytes, and the same
    /// knowledge of how many. What is in memory is there at once. The bytes need not be all of a
    /// stream: no more than an object of JSON. By default nothing is known.
    fn peek(self, limit: usize) -> Peek<Self> {
        let _ = limit;
        Peek::unknown(self)
    }
}

/// Bodies that are in memory already.
macro_rules! cloned {
    ($([$($generics:tt)*] $body:ty: $bytes:expr),+ $(,)?) => {$(
        impl<$($generics)*> RequestBody for $body {
            fn capture(self, _: &Keep) -> Captured<Self> {
                let bytes: fn(&Self) -> &[u8] = $bytes;
                let (again, length) = (Replay::ready(self.clone()), bytes(&self).len());
                Captured::now(self, again).of_length(length as u64)
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
    fn capture(self, _: &Keep) -> Captured<Self> {
        let bytes = self.size_hint().exact().unwrap_or(0);
        let again = Replay::ready(self.clone());
        Captured::now(self, again).of_length(bytes)
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
    fn capture(self, keep: &Keep) -> Captured<Self> {
        match self {
            Some(body) => body.capture(keep).map(Some),
            None => Captured::now(None, Replay::ready(None)),
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
    fn capture(self, keep: &Keep) -> Captured<Self> {
        match self {
            Either::Left(body) => body.capture(keep).map(Either::Left),
            Either::Right(body) => body.capture(keep).map(Either::Right),
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
            fn capture(self, keep: &Keep) -> Captured<Self> {
                ReplayBody::new(self).capture(keep).map(Self::new)
            }

            fn peek(self, limit: usize) -> Peek<Self> {
                ReplayBody::new(self).peek(limit).map(Self::new)
            }
        }
    )+};
}

boxed! {
    [E: Into<BoxError> + Send + Sync + 'static] BoxBody<Bytes, E>,
    [E: Into<BoxError> + Send + 'static] UnsyncBoxBody<Bytes, E>,
    #[cfg(feature = "axum")]
    [] axum_core::body::Body,
}
