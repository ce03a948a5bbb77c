//! Bodies: what is sent, what is kept of it for a replay, what comes back.

mod peek;
mod replay_body;
mod reply_body;
mod request_body;

pub use self::peek::Peek;
pub(crate) use self::peek::PeekLater;
pub use self::replay_body::ReplayBody;
pub use self::reply_body::ReplyBody;
pub use self::request_body::{Replay, RequestBody};

#[cfg(test)]
mod tests;
