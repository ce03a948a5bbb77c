//! The manager's decisions (M2 to M8), and nothing else: no clock, no task, no lock and no log.
//!
//! It is asked with a time, and answers with what to do and what to tell.

use std::time::Duration;

use tokio::time::Instant;

use super::budget::{Budget, RateLimit};
use super::evidence::Standing;
use super::flight::Outcome;
use super::holds::{Held, Holds};
use super::{AccessToken, TokenError, Why};

/// A token that is rejected at a lower age than this was most likely voided by somebody else's
/// refresh: WeChat keeps the former token good for about five minutes.
const SUSPICIOUS_AGE: Duration = Duration::from_secs(600);

/// How much longer than `issue_timeout` a flight may stay: its task keeps that limit by itself, but
/// a runtime that nobody drives any more keeps none.
const OVERDUE: Duration = Duration::from_secs(1);

pub(super) struct Settings {
    pub(super) refresh_before: Option<Duration>,
    pub(super) issue_timeout: Duration,
    pub(super) refresh_limit: RateLimit,
}

/// The token in use, and when to renew it.
pub(super) struct Cached {
    pub(super) token: AccessToken,
    pub(super) renew_at: Instant,
}

/// Who asks, as far as it matters.
#[derive(Clone, Copy, Default)]
pub(super) struct Asker {
    pub(super) standing: Standing,
    pub(super) gate: Gate,
}

/// Whether the asker's own gate has been asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Gate {
    /// There is no gate.
    #[default]
    Open,
    Unasked,
    Granted,
    Refused,
}

/// What to do about a question.
#[derive(Debug)]
pub(super) enum Decision {
    /// This token will do.
    Have(AccessToken),
    /// Wait for the flight in the air.
    Join,
    Refuse(TokenError),
    /// A refresh would take off: ask the asker's gate, and then ask again.
    AskGate,
    TakeOff(Departure),
}

/// A token request that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Departure {
    pub(super) id: u64,
    pub(super) why: Why,
    /// Whether it is to replace a token that lives.
    pub(super) forced: bool,
    pub(super) overdue: Instant,
}

/// What to log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The budget of refreshes is used up; once until it has recovered.
    BudgetSpent,
    /// A token was rejected at this age, soon after its issue.
    Rival(Duration),
    /// The token request failed.
    Failed,
    /// There is a token again, after failures.
    Recovered,
    /// There is a new token.
    Renewed,
}

/// What became of a flight.
#[derive(Debug, Default)]
pub(super) struct Landed {
    /// The token to use from now on, and when to renew it.
    pub(super) renew_at: Option<Instant>,
    /// Whether it cost nothing, here or elsewhere.
    pub(super) free: bool,
    pub(super) event: Option<Event>,
}

pub(super) struct Policy {
    settings: Settings,
    rng: fastrand::Rng,
    flight: Option<InAir>,
    flights: u64,
    holds: Holds,
    budget: Budget,
    /// Whether somebody was told that it is used up.
    budget_told: bool,
    source_budget_told: bool,
    /// Why the last token request failed, if none has succeeded since.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    failing: Option<TokenError>,
}

struct InAir {
    id: u64,
    why: Why,
    overdue: Instant,
    /// Whether it replaces a token that lives, and took a unit of the budget for that.
    forced: bool,
}

impl Policy {
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        Policy {
            budget: Budget::new(settings.refresh_limit),
            settings,
            rng: fastrand::Rng::with_seed(seed),
            flight: None,
            flights: 0,
            holds: Holds::default(),
            budget_told: false,
            source_budget_told: false,
            failing: None,
        }
    }

    #[cfg(feature = "server")]
    pub(super) fn refresh_limit(&self) -> RateLimit {
        self.settings.refresh_limit
    }

    pub(super) fn issue_timeout(&self) -> Duration {
        self.settings.issue_timeout
    }

    #[cfg(any(feature = "server", test))]
    pub(super) fn last_error(&self) -> Option<&TokenError> {
        self.failing.as_ref()
    }

    /// Compares what is wanted with what there is; `current` is the last token, alive or not.
    pub(super) fn ask(
        &mut self,
        why: &Why,
        current: Option<&Cached>,
        asker: Asker,
        now: Instant,
    ) -> (Decision, Option<Event>) {
        let live = current.filter(|current| current.token.lives_at(now));
        if let Some(live) = live {
            let will_do = match why {
                Why::Missing => true,
                Why::Rejected(rejected) => live.token != *rejected,
                Why::Expiring(expiring) => {
                    live.token != *expiring || now < self.renewal_due(Some(live), now)
                }
            };
            if will_do {
                return (Decision::Have(live.token.clone()), None);
            }
        }
        if self.flight.as_ref().is_some_and(|f| now < f.overdue) {
            return (Decision::Join, None);
        }
        let forced = live.filter(|_| why.rejected().is_some());
        match self.holds.hold(why, forced.is_some(), now) {
            Some(Held::Error(error)) => return (Decision::Refuse(error), None),
            Some(Held::SameToken) => {
                if let Some(live) = forced {
                    return (Decision::Have(live.token.clone()), None);
                }
            }
            None => {}
        }
        let mut event = None;
        if let Some(live) = forced {
            match self.may_force(asker, now) {
                Ok(()) => {}
                Err((decision, event)) => return (decision, event),
            }
            let age = live.token.age_at(now);
            if age < SUSPICIOUS_AGE && asker.standing == Standing::Plain {
                event = Some(Event::Rival(age));
            }
        }
        let departure = self.take_off(why, live, forced.is_some(), now);
        (Decision::TakeOff(departure), event)
    }

    /// Takes a unit of the budget, unless the asker may not have one.
    fn may_force(&mut self, asker: Asker, now: Instant) -> Result<(), (Decision, Option<Event>)> {
        let refuse = |error, event| Err((Decision::Refuse(error), event));
        let keep = match asker.standing {
            Standing::Plain => 0,
            // What is left belongs to those whose rejections are worth more.
            Standing::Suspect => self.reserve(asker.gate),
            Standing::Marked => return refuse(TokenError::Futile, None),
        };
        if self.budget.left(now) <= keep {
            let told = std::mem::replace(&mut self.budget_told, true);
            return refuse(
                TokenError::OverBudget,
                (!told).then_some(Event::BudgetSpent),
            );
        }
        match asker.gate {
            Gate::Unasked => return Err((Decision::AskGate, None)),
            Gate::Refused => return refuse(TokenError::OverBudget, None),
            Gate::Open | Gate::Granted => {}
        }
        self.budget.take(now);
        if asker.standing == Standing::Plain {
            self.budget_told = false;
        }
        Ok(())
    }

    /// What is not for suspects. A gate bounds its own handle besides: what one handle leaves of
    /// the budget, which is half of it, must be enough for the others, of whom some are suspect for
    /// one bad call of the day.
    fn reserve(&self, gate: Gate) -> u32 {
        let burst = self.settings.refresh_limit.burst();
        match gate {
            Gate::Open => burst / 2,
            Gate::Unasked | Gate::Granted | Gate::Refused => burst / 4,
        }
    }

    fn take_off(
        &mut self,
        why: &Why,
        live: Option<&Cached>,
        forced: bool,
        now: Instant,
    ) -> Departure {
        self.flights += 1;
        let why = match why {
            // It has expired since.
            Why::Expiring(_) if live.is_none() => Why::Missing,
            why => why.clone(),
        };
        let departure = Departure {
            id: self.flights,
            why,
            forced,
            overdue: now + self.settings.issue_timeout + OVERDUE,
        };
        self.flight = Some(InAir {
            id: departure.id,
            why: departure.why.clone(),
            overdue: departure.overdue,
            forced,
        });
        departure
    }

    /// The flight `id` ended; `None` if another has taken its place, which may not be disturbed.
    pub(super) fn landed(&mut self, id: u64, outcome: &Outcome, now: Instant) -> Option<Landed> {
        let flight = self.flight.take_if(|flight| flight.id == id)?;
        let over_budget = matches!(outcome, Err(TokenError::OverBudget));
        let told_before = std::mem::replace(&mut self.source_budget_told, over_budget);
        let counts = outcome.as_ref().is_ok_and(AccessToken::counts_here);
        let landed = match outcome {
            Ok(token) => {
                let again = flight.why.rejected() == Some(token);
                self.holds.succeed(token, flight.forced, again, now);
                let event = match self.failing.take() {
                    Some(_) => Event::Recovered,
                    None => Event::Renewed,
                };
                Landed {
                    renew_at: Some(self.renew_at(token, now)),
                    free: again || token.came_free(),
                    event: Some(event),
                }
            }
            Err(error) => {
                self.holds
                    .fail(error, &flight.why, flight.forced, now, &mut self.rng);
                let event = match over_budget {
                    true => (!told_before).then_some(Event::BudgetSpent),
                    false => Some(Event::Failed),
                };
                if !over_budget {
                    self.failing = Some(error.clone());
                }
                Landed {
                    renew_at: None,
                    // Whatever it was, there is no token that was counted.
                    free: true,
                    event,
                }
            }
        };
        if flight.forced && (landed.free || !counts) {
            self.budget.give_back();
        }
        Some(landed)
    }

    /// The flight `id` went down with its task or its runtime.
    pub(super) fn lost(&mut self, id: u64) {
        self.flight.take_if(|flight| flight.id == id);
    }

    pub(super) fn is_in_air(&self, id: u64) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.id == id)
    }

    /// When the next renewal, or the first token, is to be asked for.
    pub(super) fn renewal_due(&self, current: Option<&Cached>, now: Instant) -> Instant {
        let due = match current {
            Some(current) if current.token.lives_at(now) => current.renew_at,
            _ => now,
        };
        self.holds.renewals_until().map_or(due, |at| due.max(at))
    }

    fn renew_at(&mut self, token: &AccessToken, now: Instant) -> Instant {
        let life = token.expires_at().saturating_duration_since(now);
        let margin = match self.settings.refresh_before {
            Some(before) => before.min(life / 2),
            // Under the 300 s in which `stable_token` gives a new token.
            None => Duration::from_secs(270).min(life / 10),
        };
        // Less by chance, so that machines which fetched together do not renew together.
        token.expires_at() - margin.mul_f64(1.0 - self.rng.f64() / 5.0)
    }
}

#[cfg(test)]
mod tests;
