//! What holds token requests back: the memory of refusals, and pauses after failures.

use std::time::Duration;

use tokio::time::Instant;

use super::flight::backoff;
use super::{AccessToken, TokenError, Why};
use crate::platform;

/// How long a refusal is remembered at first. It doubles while the same errcode comes again.
const REFUSAL: Duration = Duration::from_secs(30);
const LONGEST_REFUSAL: Duration = Duration::from_secs(600);

/// For 45011, "too many requests this minute".
const ONE_MINUTE: Duration = Duration::from_secs(60);

/// A source that gives the rejected token again has not heard of the new one yet.
const SAME_TOKEN: Duration = Duration::from_secs(1);
const LONGEST_SAME_TOKEN: Duration = Duration::from_secs(30);

/// What a question gets in place of a token request.
pub(super) enum Held {
    Error(TokenError),
    /// The rejected token, which is all that the source has.
    SameToken,
}

#[derive(Default)]
pub(super) struct Holds {
    /// Holds everybody back.
    all: Lane,
    /// Holds back the replacement of a rejected token only. `stable_token` refuses a forced request
    /// whose quota is used up, and goes on giving tokens without force.
    forced: Lane,
    failures: u32,
    renewals_until: Option<Instant>,
    /// The source's own budget is used up.
    source_budget_until: Option<Instant>,
    same_token: Option<SameToken>,
}

#[derive(Default)]
struct Lane {
    held: Option<(TokenError, Instant)>,
    errcode: Option<i64>,
    times: u32,
    failures: u32,
}

struct SameToken {
    token: AccessToken,
    times: u32,
    until: Instant,
}

impl Holds {
    /// What holds a request back; `forced` if it is to replace a live token.
    pub(super) fn hold(&self, why: &Why, forced: bool, now: Instant) -> Option<Held> {
        let lanes = [Some(&self.all), forced.then_some(&self.forced)];
        let held = lanes
            .into_iter()
            .flatten()
            .find_map(|lane| lane.error_at(now));
        if let Some(error) = held {
            return Some(Held::Error(error.clone()));
        }
        if !forced {
            return None;
        }
        if self.source_budget_until.is_some_and(|until| now < until) {
            return Some(Held::Error(TokenError::OverBudget));
        }
        let same = self.same_token.as_ref()?;
        let rests = now < same.until && why.rejected() == Some(&same.token);
        rests.then_some(Held::SameToken)
    }

    pub(super) fn renewals_until(&self) -> Option<Instant> {
        self.renewals_until
    }

    /// `again` if the token is the rejected one.
    pub(super) fn succeed(&mut self, token: &AccessToken, forced: bool, again: bool, now: Instant) {
        self.all = Lane::default();
        self.failures = 0;
        self.renewals_until = None;
        self.source_budget_until = None;
        if !again {
            self.same_token = None;
            // A quota of forced requests is not refilled by a token that came without force.
            if forced {
                self.forced = Lane::default();
            }
            return;
        }
        let before = self.same_token.take().filter(|same| same.token == *token);
        let times = before.map_or(0, |same| same.times).saturating_add(1);
        let pause = doubled(SAME_TOKEN, times, LONGEST_SAME_TOKEN);
        self.same_token = Some(SameToken {
            token: token.clone(),
            times,
            until: now + pause,
        });
    }

    pub(super) fn fail(
        &mut self,
        error: &TokenError,
        why: &Why,
        forced: bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) {
        if matches!(error, TokenError::OverBudget) {
            // It is about rejected tokens only, and another process may have a new one any moment.
            self.source_budget_until = Some(now + Duration::from_secs(1));
            return;
        }
        if forced {
            // There is a token that lives, and is renewed without force: neither waits for this.
            if error.is_refusal() {
                self.forced.refuse(error, now);
            } else {
                self.forced.rest(error, now, rng);
            }
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let rest = backoff(
            Duration::from_secs(2),
            self.failures,
            Duration::from_secs(60),
            rng,
        );
        let mut renewals = now + rest;
        if error.is_refusal() {
            renewals = renewals.max(self.all.refuse(error, now));
        } else if self.failures > 1 && !why.is_renewal() {
            // After one failure the next caller may try at once. An outage is another matter: with
            // callers one after the other it would cost a quota of requests in ten minutes. A
            // renewal that fails rests the renewals, and holds back nobody who has no token.
            let pause = pause_after(self.failures, rng);
            self.all.held = Some((error.clone(), now + pause));
            renewals = renewals.max(now + pause);
        }
        self.renewals_until = Some(renewals);
    }
}

impl Lane {
    fn error_at(&self, now: Instant) -> Option<&TokenError> {
        let (error, until) = self.held.as_ref()?;
        (now < *until).then_some(error)
    }

    /// Rests after a failure that is no refusal. After one the next caller may try at once.
    fn rest(&mut self, error: &TokenError, now: Instant, rng: &mut fastrand::Rng) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > 1 {
            let pause = pause_after(self.failures, rng);
            self.held = Some((error.clone(), now + pause));
        }
    }

    /// Remembers a refusal; until when.
    fn refuse(&mut self, error: &TokenError, now: Instant) -> Instant {
        let errcode = error.errcode();
        self.times = match errcode == self.errcode {
            true => self.times.saturating_add(1),
            false => 1,
        };
        self.errcode = errcode;
        let pause = match errcode {
            Some(platform::TOO_MANY_THIS_MINUTE) => ONE_MINUTE,
            _ => doubled(REFUSAL, self.times, LONGEST_REFUSAL),
        };
        self.held = Some((error.clone(), now + pause));
        now + pause
    }
}

/// Between the second failure and the next request, and so on.
fn pause_after(failures: u32, rng: &mut fastrand::Rng) -> Duration {
    let longest = Duration::from_secs(10);
    backoff(Duration::from_secs(1), failures - 1, longest, rng)
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    let doubled = first.saturating_mul(1 << times.saturating_sub(1).min(16));
    doubled.min(longest)
}
