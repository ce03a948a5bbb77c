//! How a token is come by: what [`RedisTokens`] does when it is asked.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use tokio::time::Instant;

use super::announcements::Announcements;
use super::connection::text;
use super::layout::Layout;
use super::lease::Lease;
use super::outage::Outage;
use super::scripts::{self, Answer, Found, Price, Terms};
use super::tokens::RedisTokens;
use crate::metrics;
use crate::token::{AccessToken, ClientError, TokenError, TokenSource};

/// In milliseconds. What ends sooner would end on its way to WeChat.
const SHORTEST_LIFE: u64 = 1000;

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
        let Some(layout) = &self.layout else {
            return Err(TokenError::other(
                "the source does not say whose token it gives: name its place in Redis with \
                 RedisTokens::layout(Layout::new(…))",
            ));
        };
        let shared = {
            let _closing = self.server.closing();
            self.get_shared(layout, want).await
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
        let mut seen = Found::Nothing;
        let started_at = Instant::now();
        let mut claimed_at = started_at;
        let mut claimed_twice = false;
        let mut answer = self.server.run(&scripts::read(layout)).await?;
        loop {
            match answer {
                Answer::Found(found, milliseconds) => {
                    if let Some(token) = self.usable(layout, want, &found, milliseconds) {
                        self.count("shared");
                        tracing::debug!(account = self.account(), "the shared access_token");
                        return Ok(token);
                    }
                    seen = found;
                }
                Answer::Taken(left) => match &mut announcements {
                    // Then it looks again: it may have been announced before anybody listened.
                    None => {
                        let channel = layout.channel_name();
                        announcements = Some(Announcements::listen(&self.server, channel).await);
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
                },
                Answer::Spent => {
                    self.count("over_budget");
                    return Err(Failure::Token(TokenError::OverBudget));
                }
                // Halted since it was asked for, it may be over by now. Once is enough: Redis may be slow.
                Answer::Leased if !claimed_twice && claimed_at.elapsed() >= self.lease => {
                    claimed_twice = true;
                }
                Answer::Leased | Answer::Stored => {
                    return self.get_with(lease, price, layout, &seen, want).await;
                }
            }
            let terms = Terms {
                owner: lease.owner(),
                lease: self.lease,
                price,
            };
            let claim = scripts::claim(layout, &seen, &terms);
            claimed_at = Instant::now();
            // From here on, as the answer may be lost.
            lease.hold(true);
            answer = self.server.run(&claim).await?;
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
        let token = match lease.kept_during(self.ask_source(want)).await {
            Ok(token) => {
                self.known.keep_pending(&token);
                token
            }
            Err(error) => {
                // The manager will try again, for the same cause.
                lease
                    .give_back(price.filter(|_| error.is_transient()))
                    .await;
                self.count("failed");
                return Err(Failure::Token(error));
            }
        };
        let (value, life) = layout.written(&token);
        let told = match layout.token_in(value.as_bytes()) {
            // The manager says what is wrong with an empty one.
            _ if token.expires_in().is_zero() => Err("it has expired already"),
            Some(read) if *read == token.secret() => Ok(()),
            _ => Err("it would not be read as it is written"),
        };
        if let Err(why) = told {
            lease.give_back(None).await;
            self.count("not_stored");
            tracing::warn!(
                account = self.account(),
                why,
                "the source's token is not shared in Redis"
            );
            return Ok(token);
        }
        let store = scripts::store(layout, seen, lease.owner(), &value, life);
        let stored = self.server.run(&store).await;
        match stored {
            Ok(Answer::Found(found, milliseconds)) => {
                lease.hold(false);
                // Somebody else took over. What they have written is newer; what they have not yet written will void ours.
                self.count("superseded");
                let newer = self.usable(layout, want, &found, milliseconds);
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
                self.count("issued");
                Ok(token)
            }
            Err(error) => {
                // It is good all the same, and the only one that is known to be.
                self.count("not_stored");
                self.warn_of_outage(&error, "the new access_token is not shared");
                self.known.keep_alone(&token);
                Ok(token)
            }
        }
    }

    /// Without Redis, which is away.
    async fn get_alone(
        &self,
        want: Want<'_>,
        error: RedisError,
    ) -> Result<AccessToken, TokenError> {
        let still_good = matches!(want, Want::After(current) if !current.expires_in().is_zero());
        if still_good || self.outage == Outage::Fail {
            self.count("outage");
            self.warn_of_outage(&error, "no new access_token is asked for");
            let text = text(&error);
            return Err(TokenError::Transport(ClientError::told(error, &text)));
        }
        self.count("local");
        self.warn_of_outage(&error, "this process asks for an access_token of its own");
        let token = self.ask_source(want).await?;
        self.known.keep_alone(&token);
        Ok(token)
    }

    async fn ask_source(&self, want: Want<'_>) -> Result<AccessToken, TokenError> {
        if let Some(pending) = self.known.pending(want) {
            return Ok(pending);
        }
        match want {
            Want::Any => self.source.issue(None).await,
            Want::Instead(rejected) => self.source.issue(Some(rejected)).await,
            Want::After(current) => self.source.renew(current).await,
        }
    }

    /// The token that stands in Redis, if it is one to use.
    fn usable(
        &self,
        layout: &Layout,
        want: Want<'_>,
        found: &Found,
        milliseconds: i64,
    ) -> Option<AccessToken> {
        let warn = |what| {
            let path = layout.token_key();
            self.warned_of_value.tell(self.account(), path, what);
        };
        let value = match found {
            Found::Nothing => return None,
            Found::Foreign => {
                warn(
                    "the key of the access_token in Redis has another type than a string, and is replaced",
                );
                return None;
            }
            Found::Value(value) => value,
        };
        let Some(secret) = layout.token_in(value) else {
            warn("the value in Redis is no access_token, and is replaced");
            return None;
        };
        let Ok(milliseconds) = u64::try_from(milliseconds) else {
            warn("the access_token in Redis has no TTL, and is replaced");
            return None;
        };
        let life = Duration::from_millis(milliseconds).saturating_add(layout.early());
        let token = AccessToken::shared(secret.as_str(), life);
        let useless = self.known.useless(&token, want);
        (milliseconds >= SHORTEST_LIFE && !useless).then_some(token)
    }

    fn warn_of_outage(&self, error: &RedisError, what: &str) {
        let (account, error) = (self.account(), text(error));
        if self.warned_of_outage.is_due() {
            tracing::warn!(account, error, "Redis cannot be used: {what}");
        } else {
            tracing::debug!(account, error, "Redis cannot be used: {what}");
        }
    }

    fn count(&self, result: &'static str) {
        metrics::shared(self.account.as_ref(), result);
    }
}
