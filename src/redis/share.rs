//! How a token is come by: what [`RedisTokens`] does when it is asked.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use tokio::time::Instant;

use super::announcements::Announcements;
use super::layout::Layout;
use super::lease::Lease;
use super::scripts::{self, Answer, Found, Price, Terms};
use super::tokens::RedisTokens;
use crate::metrics;
use crate::token::{AccessToken, TokenError, TokenSource};

/// What the manager wants.
#[derive(Clone, Copy)]
pub(super) enum Want<'a> {
    Any,
    Instead(&'a AccessToken),
    After(&'a AccessToken),
}

impl<'a> Want<'a> {
    /// The token that will not do.
    pub(super) fn former(self) -> Option<&'a AccessToken> {
        match self {
            Want::Any => None,
            Want::Instead(token) | Want::After(token) => Some(token),
        }
    }
}

/// Why there is no token.
enum Failure {
    Redis(RedisError),
    Token(TokenError),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Failure::Redis(error)
    }
}

impl<T> RedisTokens<T>
where
    T: TokenSource,
{
    pub(super) async fn get(&self, want: Want<'_>) -> Result<AccessToken, TokenError> {
        let layout = self.layout_or_why().map_err(TokenError::other)?;
        let shared = match self.known.silence() {
            // The manager repeats at once what failed: once is enough to wait for a Redis that is
            // away.
            Some(error) => Err(Failure::Redis(error)),
            None => {
                let _closing = self.server.closing();
                self.get_shared(layout, want).await
            }
        };
        let token = match shared {
            Ok(token) => token,
            Err(Failure::Token(error)) => return Err(error),
            Err(Failure::Redis(error)) => self.get_alone(want, error).await?,
        };
        self.known.delivered();
        if let Some(former) = want.former() {
            self.known.give_up(former, &token);
        }
        Ok(token)
    }

    async fn get_shared(
        &self,
        layout: &Arc<Layout>,
        want: Want<'_>,
    ) -> Result<AccessToken, Failure> {
        let mut lease = Lease::new(&self.server, layout, self.lease);
        let price = match want {
            Want::Instead(rejected) if !rejected.expires_in().is_zero() => self.price,
            _ => None,
        };
        let mut announcements = None;
        let mut silent = Duration::ZERO;
        let mut seen = Found::Nothing;
        let started_at = Instant::now();
        let mut asked_at = started_at;
        let mut claimed_twice = false;
        let mut answer = self.server.run(&scripts::read(layout)).await?;
        loop {
            match answer {
                Answer::Found(found, milliseconds) => {
                    let token = self.usable(layout, want, &found, milliseconds, asked_at);
                    if let Some(token) = token {
                        self.tell_of_recovery();
                        self.count("shared");
                        tracing::debug!(account = self.account(), "the shared access_token");
                        return Ok(token);
                    }
                    seen = found;
                }
                Answer::Taken { left, cut } => {
                    if cut {
                        self.warned_of_lease.tell(
                            self.account(),
                            layout.lease_key(),
                            "the lease in Redis was to live for longer than any lease does, and is cut",
                        );
                    }
                    match &mut announcements {
                        // Then it looks again: it may have been announced before anybody listened.
                        None => {
                            let channel = layout.channel_name();
                            let listening_since = Instant::now();
                            let heard = Announcements::listen(&self.server, channel).await;
                            if let Announcements::Unheard = heard {
                                silent = listening_since.elapsed();
                            }
                            announcements = Some(heard);
                        }
                        Some(announcements) => {
                            if started_at.elapsed() > self.lease {
                                self.warned_of_wait.tell(
                                    self.account(),
                                    layout.lease_key(),
                                    "another process holds the lease in Redis, and has brought no access_token yet",
                                );
                            }
                            announcements.next(left).await;
                        }
                    }
                }
                Answer::Spent => {
                    self.count("over_budget");
                    return Err(Failure::Token(TokenError::OverBudget));
                }
                // Halted since it was asked for, it may be over by now. Once is enough: Redis may
                // be slow.
                Answer::Leased if !claimed_twice && asked_at.elapsed() >= self.lease => {
                    claimed_twice = true;
                }
                Answer::Leased | Answer::Stored => {
                    return self.get_with(lease, price, layout, &seen, want).await;
                }
            }
            let terms = Terms {
                owner: lease.owner(),
                lease: self.lease,
                longest: layout.longest_lease(self.lease),
                price,
            };
            let claim = scripts::claim(layout, &seen, &terms);
            asked_at = Instant::now();
            // From here on, as the answer may be lost.
            lease.hold(true);
            answer = self.server.run_after(&claim, silent).await?;
            silent = Duration::ZERO;
            lease.hold(matches!(answer, Answer::Leased));
        }
    }

    /// Asks the source, and writes what it gives.
    async fn get_with(
        &self,
        mut lease: Lease,
        price: Option<Price>,
        layout: &Layout,
        seen: &Found,
        want: Want<'_>,
    ) -> Result<AccessToken, Failure> {
        let asked_at = Instant::now();
        let token = match lease.kept_during(self.ask_source(want)).await {
            Ok(token) => {
                self.known.keep_pending(&token);
                token
            }
            Err(error) => {
                // Whatever it was, there is no token that was counted.
                if let Err(silence) = lease.give_back(price).await {
                    self.known.keep_silence(&error, silence);
                }
                self.count("failed");
                return Err(Failure::Token(error));
            }
        };
        let refund = price.filter(|_| self.cost_nothing(&token, want));
        let (value, life) = match self.written(layout, &token, asked_at) {
            Ok(written) => written,
            Err(why) => {
                let _ = lease.give_back(refund).await;
                self.count("not_stored");
                tracing::warn!(
                    account = self.account(),
                    why,
                    "the source's token is not shared in Redis"
                );
                return Ok(token);
            }
        };
        let store = scripts::store(layout, seen, lease.owner(), &value, life, refund);
        let stored_at = Instant::now();
        let stored = self.server.run(&store).await;
        match stored {
            Ok(Answer::Found(found, milliseconds)) => {
                lease.hold(false);
                // Somebody else took over. What they have written is newer; what they have not yet
                // written will void ours.
                self.count("superseded");
                let newer = self.usable(layout, want, &found, milliseconds, stored_at);
                tracing::warn!(
                    account = self.account(),
                    newer = newer.is_some(),
                    "the lease in Redis was lost before the new access_token was there, and another process has taken it over"
                );
                Ok(newer.unwrap_or_else(|| {
                    self.known.keep_alone(&token);
                    token
                }))
            }
            Ok(_) => {
                lease.hold(false);
                self.server.announce(layout.channel_name()).await;
                self.tell_of_recovery();
                self.count("issued");
                Ok(token)
            }
            Err(error) => {
                // It is good all the same, and the only one that is known to be.
                self.count("not_stored");
                self.tell_of(&error, "the new access_token is not shared");
                self.known.keep_alone(&token);
                Ok(token)
            }
        }
    }

    /// Whether `token` cost nothing of the platform's quota for forced requests.
    fn cost_nothing(&self, token: &AccessToken, want: Want<'_>) -> bool {
        // A source with a limit says itself what was free: the rejected token, again, may be what a
        // forced request brought.
        let unlimited = self.source.refresh_limit().is_none();
        token.came_free() || (unlimited && want.former() == Some(token))
    }

    pub(super) async fn ask_source(&self, want: Want<'_>) -> Result<AccessToken, TokenError> {
        if let Some(pending) = self.known.pending(want) {
            // It was paid for when it was asked for.
            return Ok(pending.at_no_cost());
        }
        match want {
            Want::Any => self.source.issue(None).await,
            Want::Instead(rejected) => self.source.issue(Some(rejected)).await,
            Want::After(current) => self.source.renew(current).await,
        }
    }

    pub(super) fn count(&self, result: &'static str) {
        metrics::shared(self.account.as_ref(), result);
    }
}
