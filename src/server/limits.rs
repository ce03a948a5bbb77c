//! How much one gateway takes on.

use std::time::Duration;

use super::error::BuildError;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header_bytes: usize,
    pub(super) body_bytes: usize,
    pub(super) replay_bytes: usize,
    pub(super) replay_total: usize,
    pub(super) body_pause: Duration,
    pub(super) calls: usize,
    pub(super) timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: 32 * 1024,
            body_bytes: 32 * 1024 * 1024,
            replay_bytes: 16 * 1024 * 1024,
            replay_total: 256 * 1024 * 1024,
            body_pause: Duration::from_secs(30),
            calls: 1000,
            timeout: Duration::from_secs(120),
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), BuildError> {
        match self.calls {
            0 => Err(BuildError::new(
                "a concurrency limit of 0 lets no call pass",
            )),
            _ => Ok(()),
        }
    }
}

/// One client's share of `all`: half of it, so that the others have as much, or all of it for a
/// single client.
pub(super) fn share_of(all: usize, clients: usize) -> usize {
    match clients {
        0 | 1 => all,
        _ => all.div_ceil(2),
    }
}
