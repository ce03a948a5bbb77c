use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::RedisError;
use tokio::time::Instant;

use super::share::Want;
use crate::token::{AccessToken, TokenError};

/// What this process knows of tokens, and Redis does not: what it did while Redis was away has not
/// reached it.
#[derive(Default)]
pub(super) struct Known {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    given_up: VecDeque<AccessToken>,
    /// The last token that this process got and could not share.
    alone: Option<AccessToken>,
    /// A token that the source gave, and that nobody has had yet.
    pending: Option<AccessToken>,
    /// What Redis was last asked in vain, until when not to ask it again.
    silence: Option<(RedisError, Instant)>,
    /// Whether the log says that Redis cannot be used.
    trouble: bool,
}

impl Known {
    /// Whether `token`, out of Redis, will not do for `want`.
    pub(super) fn useless(&self, token: &AccessToken, want: Want<'_>) -> bool {
        let former = want.former();
        let state = self.lock();
        if former == Some(token) || state.given_up.contains(token) {
            return true;
        }
        // All are made for the same time, so what ends sooner is older. It is no renewal; and where
        // Redis has never known the former, that one may have voided it.
        let newest = match want {
            Want::Any => None,
            Want::Instead(rejected) => state.alone.as_ref().filter(|alone| *alone == rejected),
            Want::After(current) => Some(current),
        };
        newest.is_some_and(|newest| token.expires_at() < newest.expires_at())
    }

    /// This process goes from `former` to `token`.
    pub(super) fn give_up(&self, former: &AccessToken, token: &AccessToken) {
        /// Each was good for a while, so old ones are no longer in Redis.
        const MOST: usize = 8;

        let given_up = &mut self.lock().given_up;
        // `stable_token` may give one again, and means it.
        given_up.retain(|other| other != former && other != token);
        if former != token {
            given_up.truncate(MOST - 1);
            given_up.push_front(former.clone());
        }
    }

    /// In case that what is to be done with it takes too long: WeChat has voided the one before.
    pub(super) fn keep_pending(&self, token: &AccessToken) {
        self.lock().pending = Some(token.clone());
    }

    /// The token that is still to be delivered.
    pub(super) fn pending(&self, want: Want<'_>) -> Option<AccessToken> {
        let pending = self.lock().pending.take()?;
        let good = !pending.expires_in().is_zero() && want.former() != Some(&pending);
        good.then_some(pending)
    }

    /// Somebody has a token.
    pub(super) fn delivered(&self) {
        let mut state = self.lock();
        state.pending = None;
        state.silence = None;
    }

    /// Redis cannot be used, and neither could the source, which the manager asks again if it is
    /// worth it.
    pub(super) fn keep_silence(&self, failed: &TokenError, silence: RedisError) {
        /// The longest pause between two attempts of the manager's, and a bit.
        const UNTIL_REPEATED: Duration = Duration::from_secs(3);

        if failed.is_transient() {
            self.lock().silence = Some((silence, Instant::now() + UNTIL_REPEATED));
        }
    }

    /// Why Redis need not be asked just now.
    pub(super) fn silence(&self) -> Option<RedisError> {
        let state = self.lock();
        let (error, until) = state.silence.as_ref()?;
        (Instant::now() < *until).then(|| error.clone())
    }

    /// Whether there was trouble before.
    pub(super) fn trouble(&self, now: bool) -> bool {
        std::mem::replace(&mut self.lock().trouble, now)
    }

    pub(super) fn keep_alone(&self, token: &AccessToken) {
        self.lock().alone = Some(token.clone());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
