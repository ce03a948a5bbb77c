use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::policy::{Policy, Settings};
use super::shared::Shared;
use super::source::ErasedSource;
use super::{RateLimit, TokenManager, TokenSource};
use crate::metrics;

/// Longer limits than this are cut, so that adding them to an instant cannot overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// For a source that does not say what its platform allows.
const REFRESH_LIMIT: RateLimit = RateLimit::new(5, Duration::from_secs(60));

/// Sets a [`TokenManager`] up; made by [`TokenManager::builder`].
pub struct TokenManagerBuilder {
    source: Box<dyn ErasedSource>,
    account: Option<Arc<str>>,
    settings: Settings,
}

impl TokenManagerBuilder {
    pub(super) fn new(source: impl TokenSource) -> Self {
        TokenManagerBuilder {
            account: source.account().map(Arc::from),
            settings: Settings {
                refresh_before: None,
                issue_timeout: Duration::from_secs(10),
                refresh_limit: source.refresh_limit().unwrap_or(REFRESH_LIMIT),
            },
            source: Box::new(source),
        }
    }

    /// What the account is called in logs and metrics; default: what the source says, its appid.
    pub fn account<'a>(mut self, account: impl Into<Cow<'a, str>>) -> Self {
        self.account = Some(Arc::from(&*account.into()));
        self
    }

    /// How long before its expiry a token is renewed, at most; default 270 s.
    ///
    /// Up to a fifth less by chance, and never more than a tenth of the token's life by default, or
    /// a half of it if this is set. `stable_token` goes on giving the same token until 300 s
    /// before its expiry (WeChat's page "Get stable access token"), so with it a longer time only
    /// means asking in vain.
    pub fn refresh_before(mut self, before: Duration) -> Self {
        self.settings.refresh_before = Some(before);
        self
    }

    /// How long a token request may take, all its attempts together; default 10 s, a day at most.
    pub fn issue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.issue_timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// How many refreshes of a rejected token are allowed: `burst` at once, then one more every
    /// `per`; default: what the source says, or 5 and 60 s if it says nothing.
    ///
    /// No refresh cures some rejections (a body that contains `&access_token=` is one), and WeChat
    /// bounds what it gives: 2000 classic tokens a day, and 20 forced stable tokens. A refresh that
    /// costs nothing of that is not counted: one that fails, one without force, and one for which
    /// the source gives the rejected token again.
    pub fn refresh_budget(mut self, burst: u32, per: Duration) -> Self {
        self.settings.refresh_limit = RateLimit::new(burst, per);
        self
    }

    /// The manager.
    pub fn build(self) -> TokenManager {
        metrics::describe();
        let policy = Policy::new(self.settings, fastrand::u64(..));
        TokenManager::of(Arc::new(Shared::new(self.source, self.account, policy)))
    }
}

impl fmt::Debug for TokenManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManagerBuilder")
            .field("account", &self.account)
            .field("refresh_before", &self.settings.refresh_before)
            .field("issue_timeout", &self.settings.issue_timeout)
            .field("refresh_limit", &self.settings.refresh_limit)
            .finish_non_exhaustive()
    }
}
