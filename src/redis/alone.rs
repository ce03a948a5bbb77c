//! What a process does by itself while Redis cannot be used.

use redis::RedisError;

use super::outage::Outage;
use super::share::Want;
use super::tokens::RedisTokens;
use super::trouble::is_refusal;
use crate::token::{AccessToken, ClientError, TokenError, TokenSource};

impl<T> RedisTokens<T>
where
    T: TokenSource,
{
    /// Gets a token without Redis, which is away or refuses.
    pub(super) async fn get_alone(
        &self,
        want: Want<'_>,
        error: RedisError,
    ) -> Result<AccessToken, TokenError> {
        let refused = is_refusal(&error);
        let still_good = matches!(want, Want::After(current) if !current.expires_in().is_zero());
        if still_good || self.outage == Outage::Fail {
            self.count(if refused { "refused" } else { "outage" });
            self.tell_of(&error, "no new access_token is asked for");
            let text = self.server.told(&error);
            // Not a `Transport`: the manager would repeat it at once, and wait for Redis four times over.
            return Err(TokenError::Other(ClientError::told(error, &text)));
        }
        self.count(if refused { "refused" } else { "local" });
        self.tell_of(&error, "this process asks for an access_token of its own");
        let asked = self.ask_source(want).await;
        match &asked {
            Ok(token) => self.known.keep_alone(token),
            Err(failed) => self.known.keep_silence(failed, error),
        }
        asked
    }

    /// Says that Redis cannot be used, and what comes of it; once a minute at most.
    pub(super) fn tell_of(&self, error: &RedisError, what: &str) {
        let (account, told) = (self.account(), self.server.told(error));
        self.known.trouble(true);
        if is_refusal(error) {
            if self.told_of_refusal.is_due() {
                tracing::error!(
                    account,
                    error = told,
                    "Redis cannot be used, and only a person can mend that: {what}"
                );
                return;
            }
        } else if self.warned_of_outage.is_due() {
            tracing::warn!(account, error = told, "Redis cannot be used: {what}");
            return;
        }
        tracing::debug!(account, error = told, "Redis cannot be used: {what}");
    }

    /// Says that Redis can be used again, if the log has it that it cannot.
    pub(super) fn tell_of_recovery(&self) {
        if self.known.trouble(false) {
            tracing::info!(account = self.account(), "Redis can be used again");
        }
    }
}
