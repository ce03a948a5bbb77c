//! How many bytes may be kept for replays, in total.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a body that must be collected waits for room.
const ROOM_WITHIN: Duration = Duration::from_secs(10);

/// Up to here a body is small: a message, and no upload.
const SMALL: usize = 64 * 1024;

/// Bytes kept for replays, shared by many calls, with shares.
///
/// A clone is the same budget. What a call takes of it comes back when its copy is dropped: when
/// the call is over, when it is given up, and when a body turns out to be shorter than what was set
/// aside for it.
///
/// Past it, a body whose length is known is sent without a copy, so that it cannot be replayed; and
/// one that must be collected before it is sent waits up to 10 s for room, and then the call fails
/// with [`ErrorKind::NoRoom`](crate::ErrorKind::NoRoom).
///
/// A quarter is set aside for bodies of up to 64 KiB, which come in great number and are soon over;
/// the rest is for larger ones. No body larger than that rest is kept, whatever `replay_limit`
/// says.
///
/// ```
/// use tower_wechat::ReplayBudget;
///
/// let all = ReplayBudget::new(256 * 1024 * 1024);
/// // No customer's uploads can use up what the others need.
/// let of_one_customer = all.share(64 * 1024 * 1024);
/// assert_eq!(of_one_customer.kept(), 0);
/// ```
#[derive(Clone)]
pub struct ReplayBudget {
    pools: Arc<Pools>,
}

/// Two pools, and a body takes all that it needs of one of them at a time, so that no set of calls
/// can stand still with each holding a part of what the others need:
///
/// - A body of known length takes its length, or nothing: it never waits.
/// - A body of unknown length holds nothing while it waits for its first 64 KiB, in the small pool.
///   When it outgrows them it waits for the whole of its limit in the large pool, and not frame by
///   frame: who has that waits for nothing any more, and so do those who wait for it in the end.
///   The price is that more is set aside than is used, while a large body is collected; what it did
///   not need comes back then.
/// - Of a share and its parents the share comes first, always: whoever waits at a parent holds room
///   in its own shares only, and those whom it keeps waiting there hold nothing of the parent's.
struct Pools {
    small: Pool,
    large: Pool,
    parent: Option<ReplayBudget>,
}

struct Pool {
    bytes: usize,
    free: Arc<Semaphore>,
}

/// Room for one body, until the last clone is dropped.
#[derive(Clone)]
pub(super) struct Room(#[allow(dead_code, reason = "held for its drop")] Arc<Taken>);

/// What is taken of a budget and of each of its parents.
#[derive(Default)]
pub(super) struct Taken {
    permits: Vec<OwnedSemaphorePermit>,
}

/// There was no room for a body for ten seconds.
#[derive(Debug)]
pub(crate) struct NoRoom;

impl ReplayBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        ReplayBudget::with(bytes, None)
    }

    /// A part of this one: those who have it take `bytes` of this one's at most, together.
    ///
    /// Shares may be more than the whole when added up.
    pub fn share(&self, bytes: usize) -> Self {
        ReplayBudget::with(bytes, Some(self.clone()))
    }

    fn with(bytes: usize, parent: Option<ReplayBudget>) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        let small = bytes / 4;
        ReplayBudget {
            pools: Arc::new(Pools {
                small: Pool::new(small),
                large: Pool::new(bytes - small),
                parent,
            }),
        }
    }

    /// How many bytes are kept now, or set aside for bodies on their way.
    pub fn kept(&self) -> usize {
        self.pools.small.taken() + self.pools.large.taken()
    }

    /// How many bytes the largest body may have for which there is room in an empty budget.
    pub(crate) fn largest_body(&self) -> usize {
        self.line()
            .map(ReplayBudget::largest_here)
            .min()
            .unwrap_or(0)
    }

    fn largest_here(&self) -> usize {
        // One call takes `u32` permits at most.
        self.pools.large.bytes.min(u32::MAX as usize)
    }

    /// How much of the small pool a body of unknown length begins with.
    pub(super) fn small_body(&self) -> usize {
        let small = self.line().map(|budget| budget.pools.small.bytes).min();
        small.unwrap_or(0).min(SMALL)
    }

    /// This one, its parent, and so on.
    fn line(&self) -> impl Iterator<Item = &ReplayBudget> {
        std::iter::successors(Some(self), |budget| budget.pools.parent.as_ref())
    }

    fn pools_for(&self, bytes: usize) -> impl Iterator<Item = &Pool> {
        let small = bytes <= self.small_body();
        self.line().map(move |budget| match small {
            true => &budget.pools.small,
            false => &budget.pools.large,
        })
    }

    /// Room for a body of just so many bytes, if there is room now.
    pub(super) fn take_now(&self, bytes: usize) -> Option<Taken> {
        let permits = u32::try_from(bytes).ok()?;
        let mut taken = Taken::default();
        for pool in self.pools_for(bytes) {
            let free = Arc::clone(&pool.free);
            taken
                .permits
                .push(free.try_acquire_many_owned(permits).ok()?);
        }
        Some(taken)
    }

    /// Room for a body of at most so many bytes, which fit into the budget.
    pub(super) async fn take(&self, bytes: usize) -> Result<Taken, NoRoom> {
        if let Some(taken) = self.take_now(bytes) {
            return Ok(taken);
        }
        timeout(ROOM_WITHIN, self.wait_for(bytes))
            .await
            .unwrap_or(Err(NoRoom))
    }

    async fn wait_for(&self, bytes: usize) -> Result<Taken, NoRoom> {
        let permits = u32::try_from(bytes).map_err(|_| NoRoom)?;
        let mut taken = Taken::default();
        for pool in self.pools_for(bytes) {
            let free = Arc::clone(&pool.free);
            let permit = free.acquire_many_owned(permits).await;
            taken.permits.push(permit.map_err(|_| NoRoom)?);
        }
        Ok(taken)
    }
}

impl Pool {
    fn new(bytes: usize) -> Self {
        Pool {
            bytes,
            free: Arc::new(Semaphore::new(bytes)),
        }
    }

    fn taken(&self) -> usize {
        self.bytes.saturating_sub(self.free.available_permits())
    }
}

impl Taken {
    /// Gives back what is over: no more than `bytes` are needed.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        for permit in &mut self.permits {
            let over = permit.num_permits().saturating_sub(bytes);
            drop(permit.split(over));
        }
    }

    pub(super) fn into_room(self) -> Room {
        Room(Arc::new(self))
    }
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the replay budget had no room for the request's body for 10 s, and it was not sent: send it again \
             later, with a Content-Length if you can, or allow more for replays",
        )
    }
}

impl std::error::Error for NoRoom {}

impl fmt::Debug for ReplayBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBudget")
            .field("bytes", &(self.pools.small.bytes + self.pools.large.bytes))
            .field("kept", &self.kept())
            .finish()
    }
}
