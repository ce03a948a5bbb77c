//! A look into a body before it is sent.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

/// A body that was looked into, and what is in it; what
/// [`RequestBody::peek`](super::RequestBody::peek) gives.
pub struct Peek<B> {
    inner: Inner<B>,
}

enum Inner<B> {
    Now(B, Option<Bytes>),
    Later(PeekLater<B>),
}

pub(crate) type PeekLater<B> = Pin<Box<dyn Future<Output = (B, Option<Bytes>)> + Send>>;

impl<B> Peek<B> {
    /// These are all of the body's bytes, `None` if there are more than were asked for.
    pub fn now(body: B, bytes: Option<Bytes>) -> Self {
        Peek {
            inner: Inner::Now(body, bytes),
        }
    }

    /// The bytes have to be waited for.
    pub fn later(peek: impl Future<Output = (B, Option<Bytes>)> + Send + 'static) -> Self {
        Peek {
            inner: Inner::Later(Box::pin(peek)),
        }
    }

    /// What is in the body cannot be known before it is sent.
    pub fn unknown(body: B) -> Self {
        Peek::now(body, None)
    }

    /// The same in another wrapping.
    pub fn map<C>(self, wrap: impl FnOnce(B) -> C + Send + 'static) -> Peek<C>
    where
        B: 'static,
    {
        match self.inner {
            Inner::Now(body, bytes) => Peek::now(wrap(body), bytes),
            Inner::Later(peek) => Peek::later(async move {
                let (body, bytes) = peek.await;
                (wrap(body), bytes)
            }),
        }
    }

    /// What is known at once, or what has to be waited for.
    pub(crate) fn ready(self) -> Result<(B, Option<Bytes>), PeekLater<B>> {
        match self.inner {
            Inner::Now(body, bytes) => Ok((body, bytes)),
            Inner::Later(peek) => Err(peek),
        }
    }

    /// A body in memory.
    pub(crate) fn of_memory(body: B, limit: usize, bytes: impl FnOnce(&B) -> &[u8]) -> Self {
        let bytes = bytes(&body);
        let bytes = (bytes.len() <= limit).then(|| Bytes::copy_from_slice(bytes));
        Peek::now(body, bytes)
    }
}

impl<B> fmt::Debug for Peek<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.inner {
            Inner::Now(..) => "Peek::now(…)",
            Inner::Later(_) => "Peek::later(…)",
        })
    }
}

#[cfg(test)]
mod tests;
