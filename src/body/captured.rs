//! What is asked of a body before it is sent, and what comes of it.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::ReplayBudget;
use crate::token::BoxError;

/// How much of a body may be kept, and what its request says of its length.
#[derive(Clone, Debug)]
pub struct Keep {
    limit: usize,
    length: Option<u64>,
    budget: Option<ReplayBudget>,
}

impl Keep {
    /// At most `limit` bytes of what is not in memory yet.
    pub fn up_to(limit: usize) -> Self {
        Keep {
            limit,
            length: None,
            budget: None,
        }
    }

    /// The request has a valid Content-Length.
    pub fn of_length(mut self, bytes: u64) -> Self {
        self.length = Some(bytes);
        self
    }

    /// What is kept counts for `budget`.
    pub fn within(mut self, budget: ReplayBudget) -> Self {
        self.limit = self.limit.min(budget.largest_body());
        self.budget = Some(budget);
        self
    }

    /// How many bytes may be kept of what is not in memory yet.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What the request's Content-Length says.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// What it counts for.
    pub fn budget(&self) -> Option<&ReplayBudget> {
        self.budget.as_ref()
    }
}

/// A body that is ready to be sent, and what can be sent again; or the work that makes it so.
pub struct Captured<B> {
    state: State<B>,
}

enum State<B> {
    Now(Sendable<B>),
    Later(Collecting<B>),
}

/// What can be sent.
pub(crate) struct Sendable<B> {
    pub(crate) body: B,
    pub(crate) again: Replay<B>,
    pub(crate) length: Length,
}

pub(crate) type Collecting<B> = Pin<Box<dyn Future<Output = Result<Captured<B>, BoxError>> + Send>>;

/// How long a body is, as far as it is known to whoever captured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// Not known here: it is as the request's Content-Length says, or as the client makes out.
    Unsaid,
    /// It was known from the beginning.
    Known(u64),
    /// It was made out, and its trailers are gone.
    Collected(u64),
    /// It was collected up to the limit, and there is more.
    PastLimit,
}

impl<B> Captured<B> {
    /// `body` can be sent now, and `again` later.
    pub fn now(body: B, again: Replay<B>) -> Self {
        Captured {
            state: State::Now(Sendable {
                body,
                again,
                length: Length::Unsaid,
            }),
        }
    }

    /// The body must be read before it can be sent. The call fails with the error, and is not sent
    /// then.
    pub fn later(
        body: impl Future<Output = Result<Self, Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static,
    ) -> Self {
        Captured {
            state: State::Later(Box::pin(body)),
        }
    }

    /// The body has so many bytes: a Content-Length that says something else is left out.
    pub fn of_length(self, bytes: u64) -> Self {
        self.sized(Length::Known(bytes))
    }

    pub(super) fn sized(mut self, length: Length) -> Self {
        if let State::Now(sendable) = &mut self.state {
            sendable.length = length;
        }
        self
    }

    /// The same in another wrapping.
    pub fn map<C>(self, wrap: impl Fn(B) -> C + Copy + Send + 'static) -> Captured<C>
    where
        B: 'static,
        C: 'static,
    {
        let state = match self.state {
            State::Now(sendable) => State::Now(Sendable {
                body: wrap(sendable.body),
                again: sendable.again.map(wrap),
                length: sendable.length,
            }),
            State::Later(collecting) => State::Later(Box::pin(async move {
                collecting.await.map(|captured| captured.map(wrap))
            })),
        };
        Captured { state }
    }

    pub(crate) fn into_result(self) -> Result<Sendable<B>, Collecting<B>> {
        match self.state {
            State::Now(sendable) => Ok(sendable),
            State::Later(collecting) => Err(collecting),
        }
    }
}

impl<B> fmt::Debug for Captured<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.state {
            State::Now(_) => "Captured::now(…)",
            State::Later(_) => "Captured::later(…)",
        })
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
            Kept::Ready(_) | Kept::Nothing => match mem::replace(&mut self.kept, Kept::Nothing) {
                Kept::Ready(body) => Poll::Ready(Some(body)),
                _ => Poll::Ready(None),
            },
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
