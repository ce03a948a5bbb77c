//! What one connection waits for, and since when.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use hyper::body::Incoming;
use tokio::time::Instant;

use super::bounds::Bounds;
use super::rest::LeftBody;

/// Noted by the connection and its parts, read by the accept loop when it wants a place.
///
/// Times are milliseconds since `epoch`, and 0 is none.
pub(super) struct Standing {
    epoch: Instant,
    phase: AtomicU8,
    /// When the phase began; of lingering, when something came last. None until the connection has
    /// looked at the clock.
    since: AtomicU64,
    /// Since when somebody waits for the request's body.
    body_wait: AtomicU64,
    /// Since when the peer has taken less than it should.
    write_wait: AtomicU64,
    calls: AtomicU32,
    /// The call whose body is still to come, or in somebody's hands.
    body_of: AtomicU32,
    /// A reply is under way whose end is the connection's end.
    ends_by_close: AtomicBool,
    /// A reply breaks off when what was written of it before is sent.
    flush: AtomicU8,
    is_to_stop: AtomicBool,
    is_to_leave: AtomicBool,
    /// Of the connection's task, which is always the same.
    waker: Mutex<Option<Waker>>,
    pub(super) left_body: LeftBody,
}

/// Who has to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// Nobody: the connection is kept for the next request.
    Nobodys,
    /// The peer: it owes a head, a body, or room for a reply.
    Peers,
    /// This server.
    Ours,
}

/// From the connection, or the first byte of a head, to its end.
const HEAD: u8 = 0;
const IDLE: u8 = 1;
/// Until the reply is written.
const CALL: u8 = 2;
/// The reply is written, and the request still comes.
const UPLOAD: u8 = 3;
const LINGERING: u8 = 4;

/// How much longer a peer may take that is known to have sent a request.
const IN_A_CALL: u32 = 10;

/// Of flushing.
const NOT_WANTED: u8 = 0;
const WANTED: u8 = 1;
const DONE: u8 = 2;

impl Standing {
    pub(super) fn new(epoch: Instant) -> Self {
        let standing = Standing {
            epoch,
            phase: AtomicU8::new(HEAD),
            since: AtomicU64::new(0),
            body_wait: AtomicU64::new(0),
            write_wait: AtomicU64::new(0),
            calls: AtomicU32::new(0),
            body_of: AtomicU32::new(0),
            ends_by_close: AtomicBool::new(false),
            flush: AtomicU8::new(NOT_WANTED),
            is_to_stop: AtomicBool::new(false),
            is_to_leave: AtomicBool::new(false),
            waker: Mutex::new(None),
            left_body: LeftBody::default(),
        };
        standing.since.store(standing.now(), Relaxed);
        standing
    }

    pub(super) fn now(&self) -> u64 {
        1 + millis(self.epoch.elapsed())
    }

    pub(super) fn at(&self, time: u64) -> Instant {
        self.epoch + Duration::from_millis(time - 1)
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Relaxed);
        self.since.store(0, Relaxed);
    }

    /// Something has come from the peer.
    pub(super) fn came(&self) {
        match self.phase.load(Relaxed) {
            IDLE => self.enter(HEAD),
            UPLOAD => self.since.store(0, Relaxed),
            _ => {}
        }
    }

    /// A request has come; the number of it.
    pub(super) fn called(&self) -> u32 {
        self.enter(CALL);
        1 + self.calls.fetch_add(1, Relaxed)
    }

    /// It has a body.
    pub(super) fn body_begins(&self) {
        self.left_body.begin();
        self.body_of.store(self.calls(), Relaxed);
    }

    /// The body of that call has been read, or nobody has it any more. Another call may have come
    /// since.
    pub(super) fn body_ends(&self, call: u32) {
        let ends = self.body_of.compare_exchange(call, 0, SeqCst, SeqCst);
        if ends.is_ok() {
            self.upload_ends();
        }
    }

    fn upload_ends(&self) {
        let ends = self.phase.compare_exchange(UPLOAD, IDLE, SeqCst, SeqCst);
        if ends.is_ok() {
            self.since.store(0, Relaxed);
        }
    }

    pub(super) fn calls(&self) -> u32 {
        self.calls.load(Relaxed)
    }

    /// The reply is written, as far as this server is concerned.
    pub(super) fn answered(&self) {
        if self.phase.load(Relaxed) != CALL {
            return;
        }
        if self.body_of.load(Relaxed) == 0 {
            return self.enter(IDLE);
        }
        self.since.store(0, Relaxed);
        self.phase.store(UPLOAD, SeqCst);
        // Somebody else may have ended it just now.
        if self.body_of.load(SeqCst) == 0 {
            self.upload_ends();
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.phase.load(Relaxed) == IDLE
    }

    pub(super) fn lingers(&self) {
        self.phase.store(LINGERING, Relaxed);
        self.since.store(self.now(), Relaxed);
        self.write_wait.store(0, Relaxed);
    }

    pub(super) fn ends_by_close(&self, does: bool) {
        self.ends_by_close.store(does, Relaxed);
    }

    pub(super) fn reply_ends_by_close(&self) -> bool {
        self.ends_by_close.load(Relaxed)
    }

    /// Whether the peer could take what it has got of a reply for all of it, or does not take it.
    pub(super) fn is_cut_short(&self) -> bool {
        let may_pass = self.phase.load(Relaxed) == CALL && self.reply_ends_by_close();
        may_pass || self.waits_for_room()
    }

    pub(super) fn waits_for_body(&self) {
        if self.body_wait.load(Relaxed) == 0 {
            self.body_wait.store(self.now(), Relaxed);
        }
    }

    pub(super) fn body_came(&self) {
        self.body_wait.store(0, Relaxed);
    }

    /// Whether the peer has been waited for.
    pub(super) fn waits_for_room(&self) -> bool {
        self.write_wait.load(Relaxed) != 0
    }

    pub(super) fn wait_for_room(&self) {
        self.write_wait.store(self.now(), Relaxed);
    }

    /// All is written.
    pub(super) fn flushed(&self) {
        if self.write_wait.load(Relaxed) != 0 {
            self.write_wait.store(0, Relaxed);
        }
        if self.flush.load(Relaxed) == WANTED {
            self.flush.store(DONE, Relaxed);
            self.wake();
        }
    }

    pub(super) fn wants_flush(&self) {
        self.flush.store(WANTED, Relaxed);
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.flush.load(Relaxed) == DONE
    }

    /// Whose turn it is, and since when.
    pub(super) fn turn(&self) -> (Turn, u64) {
        let since = self.since.load(Relaxed);
        let owed = match self.write_wait.load(Relaxed) {
            0 => match self.phase.load(Relaxed) {
                CALL => self.body_wait.load(Relaxed),
                IDLE if since != 0 => return (Turn::Nobodys, since),
                _ => since,
            },
            since => since,
        };
        match owed {
            0 => (Turn::Ours, 0),
            since => (Turn::Peers, since),
        }
    }

    /// Whether others may have its place, and since when they might have had it.
    pub(super) fn dispensable(&self, patience: Duration) -> Option<(Turn, u64)> {
        let (turn, since) = self.turn();
        let patience = match self.phase.load(Relaxed) {
            HEAD | LINGERING if !self.waits_for_room() => patience,
            _ => patience.saturating_mul(IN_A_CALL),
        };
        let enough = match turn {
            Turn::Nobodys => true,
            Turn::Peers => self.now().saturating_sub(since) >= millis(patience),
            Turn::Ours => false,
        };
        enough.then_some((turn, since))
    }

    /// When the peer's time is up, if it is its turn; looks at the clock for what has changed since
    /// the last time.
    pub(super) fn deadline(&self, bounds: &Bounds) -> Option<u64> {
        if self.since.load(Relaxed) == 0 {
            self.since.store(self.now(), Relaxed);
        }
        let after = |since: u64, timeout| since.saturating_add(millis(timeout));
        match self.write_wait.load(Relaxed) {
            0 => {}
            since => return Some(after(since, bounds.write_timeout)),
        }
        let since = self.since.load(Relaxed);
        Some(match self.phase.load(Relaxed) {
            HEAD => after(since, bounds.head_timeout),
            IDLE | UPLOAD => after(since, bounds.idle_timeout),
            LINGERING if self.is_to_stop() => after(since, LAST_PAUSE),
            LINGERING => after(since, LINGER_PAUSE),
            _ => return None,
        })
    }

    /// Nobody wants the rest of the request's body.
    pub(super) fn leave(&self, body: Incoming) {
        if self.left_body.leave(body) {
            self.wake();
        }
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake_by(&self, waker: &Waker) {
        *self.waker() = Some(waker.clone());
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker() {
            waker.wake_by_ref();
        }
    }

    /// Tells it to end when what is under way is done.
    pub(super) fn stop(&self) {
        self.tell(&self.is_to_stop);
    }

    pub(super) fn is_to_stop(&self) -> bool {
        self.is_to_stop.load(Relaxed)
    }

    /// Tells it to end if it is still dispensable.
    pub(super) fn make_way(&self) {
        self.tell(&self.is_to_leave);
    }

    pub(super) fn is_to_leave(&self) -> bool {
        self.is_to_leave.load(Relaxed)
    }

    pub(super) fn stays(&self) {
        self.is_to_leave.store(false, Relaxed);
    }

    fn tell(&self, what: &AtomicBool) {
        // Under the lock, so that a connection that notes its waker at this moment finds it.
        let waker = self.waker();
        what.store(true, Relaxed);
        if let Some(waker) = &*waker {
            waker.wake_by_ref();
        }
    }
}

/// How long a peer may be silent that is waited for only so that it reads its reply in peace.
const LINGER_PAUSE: Duration = Duration::from_secs(5);

/// The same, when the server stops.
const LAST_PAUSE: Duration = Duration::from_secs(1);

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
