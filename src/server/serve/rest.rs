//! What is left of a request's body when nobody wants it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::body::Incoming;

/// Where the body leaves it, and the reply looks for it.
#[derive(Default)]
pub(super) struct LeftBody {
    is_there: AtomicBool,
    left: Mutex<Left>,
}

#[derive(Default)]
struct Left {
    body: Option<Incoming>,
    unasked: bool,
    replied: bool,
}

/// The rest of a body when its request's reply is there.
pub(super) enum Rest {
    /// It has been read, or somebody still reads it.
    None,
    Left(Incoming),
    /// The client waits for leave to send it, and gets none.
    Unasked,
}

impl LeftBody {
    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request with a body has come.
    pub(super) fn begin(&self) {
        *self.left() = Left::default();
        self.is_there.store(false, Relaxed);
    }

    /// Whether the reply has looked for it already.
    pub(super) fn leave(&self, body: Incoming) -> bool {
        let mut left = self.left();
        left.body = Some(body);
        self.is_there.store(true, Relaxed);
        left.replied
    }

    pub(super) fn leave_unasked(&self) {
        self.left().unasked = true;
    }

    /// The reply is there.
    pub(super) fn take(&self) -> Rest {
        let mut left = self.left();
        left.replied = true;
        match left.body.take() {
            Some(body) => {
                self.is_there.store(false, Relaxed);
                Rest::Left(body)
            }
            None if left.unasked => Rest::Unasked,
            None => Rest::None,
        }
    }

    /// What was left after the reply.
    pub(super) fn take_late(&self) -> Option<Incoming> {
        if !self.is_there.load(Relaxed) {
            return None;
        }
        let mut left = self.left();
        if !left.replied {
            return None;
        }
        self.is_there.store(false, Relaxed);
        left.body.take()
    }
}
