use std::fmt;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::TokenManager;

/// Keeps a token fresh while it lives; made by [`TokenManager::keep_fresh`].
#[must_use = "the token is kept fresh only while this lives: bind it to a name, for `_` drops it"]
pub struct KeepFresh {
    timer: AbortHandle,
}

impl KeepFresh {
    pub(super) fn start(tokens: TokenManager) -> Self {
        let timer = tokio::spawn(keep_fresh(tokens)).abort_handle();
        KeepFresh { timer }
    }
}

impl Drop for KeepFresh {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl fmt::Debug for KeepFresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepFresh").finish_non_exhaustive()
    }
}

async fn keep_fresh(tokens: TokenManager) {
    loop {
        // A token that came meanwhile, by a refresh, has another time.
        let landed = tokens.landed();
        let due = tokens.renewal_due();
        if due > Instant::now() {
            let _ = timeout_at(due, landed).await;
            continue;
        }
        tokens.renew().await;
        // Never in a tight loop, whatever came of it: not when nothing did, and not when a source
        // gives tokens that live for next to nothing.
        sleep(Duration::from_secs(1)).await;
    }
}
