//! Bodies: what is sent, what is kept of it for a replay, what comes back.

mod budget;
mod captured;
mod collect;
mod peek;
mod recording;
mod replay_body;
mod reply_body;
mod request_body;
mod tee;

pub(crate) use self::budget::NoRoom;
pub use self::budget::ReplayBudget;
pub use self::captured::{Captured, Keep, Replay};
pub(crate) use self::captured::{Collecting, Length, Sendable};
pub use self::peek::Peek;
pub(crate) use self::peek::PeekLater;
pub use self::replay_body::ReplayBody;
pub use self::reply_body::ReplyBody;
pub use self::request_body::RequestBody;

#[cfg(test)]
mod collect_tests;
#[cfg(test)]
mod tests;
