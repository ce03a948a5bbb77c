use std::borrow::Cow;

use bytes::{Buf, Bytes};
use http_body::Body as _;
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{Either, Empty, Full};

use super::{Captured, Keep, Replay, ReplayBody};
use crate::token::BoxError;

/// A request body that the layer can send, and send again.
///
/// - Bodies that are in memory are cloned, whatever their size: `Bytes` and `Full<Bytes>` without
///   copying, `String` and `Vec<u8>` byte for byte.
/// - `BoxBody`, `UnsyncBoxBody` and, with their features, axum's and reqwest's `Body` flow on as they come when their
///   length is known, by their exact size hint or by the request's Content-Length. A copy is kept meanwhile, up
///   to `replay_limit` bytes; what is there already is not copied, whatever the box holds.
/// - The same of unknown length are collected before the call is sent, up to `replay_limit`, and sent with their length:
///   WeChat answers 412 to a body in chunks. A longer one is sent in chunks, once.
///
/// For a stream type of your own make [`ReplayBody`] the body of your client, or write `capture` yourself:
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
    /// Splits the body into what is sent now and what can be sent again; `keep` says how much may be kept for it.
    ///
    /// What it makes of the body depends on the body and on `keep`, not on what of it is there already: else one
    /// upload goes out with a length and the next in chunks.
    fn capture(self, keep: &Keep) -> Captured<Self>;
}

/// Bodies that are in memory already.
macro_rules! cloned {
    ($([$($generics:tt)*] $body:ty: $length:expr),+ $(,)?) => {$(
        impl<$($generics)*> RequestBody for $body {
            fn capture(self, _: &Keep) -> Captured<Self> {
                let length: fn(&Self) -> usize = $length;
                let (again, bytes) = (Replay::ready(self.clone()), length(&self));
                Captured::now(self, again).of_length(bytes as u64)
            }
        }
    )+};
}

cloned! {
    [D: Buf + Clone] Full<D>: |body| body.size_hint().exact().map_or(0, |bytes| bytes as usize),
    [D: Buf] Empty<D>: |_| 0,
    [] String: |body| body.len(),
    [] Vec<u8>: |body| body.len(),
    [] Bytes: |body| body.len(),
    [] &'static str: |body| body.len(),
    [] &'static [u8]: |body| body.len(),
    [] Cow<'static, str>: |body| body.len(),
    [] (): |_| 0,
}

impl<B: RequestBody + 'static> RequestBody for Option<B> {
    fn capture(self, keep: &Keep) -> Captured<Self> {
        match self {
            Some(body) => body.capture(keep).map(Some),
            None => Captured::now(None, Replay::ready(None)),
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
}

/// Boxes: whatever they hold goes through a [`ReplayBody`] and into a box again.
macro_rules! boxed {
    ($($(#[$meta:meta])* [$($generics:tt)*] $body:ty),+ $(,)?) => {$(
        $(#[$meta])*
        impl<$($generics)*> RequestBody for $body {
            fn capture(self, keep: &Keep) -> Captured<Self> {
                ReplayBody::new(self).capture(keep).map(Self::new)
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
