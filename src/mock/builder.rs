use std::fmt;
use std::time::Duration;

use super::account::Identity;
use super::server::Server;
use super::state::{Settings, State};
use super::tokens::Terms;
use super::wechat::MockWechat;

/// What a [`MockWechat`] is to be like; made by [`MockWechat::builder`].
///
/// ```
/// # use tower_wechat::mock::MockWechat;
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let wechat = MockWechat::builder()
///     .account("wx1", "hush")
///     .expires_in(Duration::from_secs(600))
///     .start()
///     .await;
/// assert_eq!(wechat.appid(), "wx1");
/// # }
/// ```
#[derive(Clone)]
pub struct MockBuilder {
    first: Identity,
    others: Vec<Identity>,
    terms: Terms,
    token_delay: Duration,
    api_delay: Duration,
}

impl MockBuilder {
    pub(super) fn new() -> MockBuilder {
        MockBuilder {
            first: Identity {
                appid: "wx0123456789abcdef".to_owned(),
                secret: "0123456789abcdef0123456789abcdef".to_owned(),
            },
            others: Vec::new(),
            terms: Terms {
                expires_in: Duration::from_secs(7200),
                grace: Duration::from_secs(300),
                quota: 2000,
                token_len: 136,
                refuse_excess_forces: false,
            },
            token_delay: Duration::ZERO,
            api_delay: Duration::ZERO,
        }
    }

    /// The account that gets tokens; for WeCom's gettoken its CorpID and CorpSecret.
    pub fn account(mut self, appid: impl Into<String>, secret: impl Into<String>) -> MockBuilder {
        self.first = Identity {
            appid: appid.into(),
            secret: secret.into(),
        };
        self
    }

    /// One account more, with tokens, a quota, a menu and messages of its own; see
    /// [`MockWechat::account`].
    ///
    /// ```
    /// # use tower_wechat::mock::MockWechat;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let wechat = MockWechat::builder()
    ///     .account("wx1", "hush")
    ///     .another_account("wx2", "hush too")
    ///     .start()
    ///     .await;
    /// wechat.account("wx2").revoke();
    /// # }
    /// ```
    pub fn another_account(
        mut self,
        appid: impl Into<String>,
        secret: impl Into<String>,
    ) -> MockBuilder {
        self.others.push(Identity {
            appid: appid.into(),
            secret: secret.into(),
        });
        self
    }

    /// How long a token lives; default 7200 s, as WeChat's.
    ///
    /// Told to clients in whole seconds, rounded down, but as 1 for what is left of the last
    /// second.
    pub fn expires_in(mut self, expires_in: Duration) -> MockBuilder {
        self.terms.expires_in = expires_in;
        self
    }

    /// How long a `cgi-bin/token` token stays good once a newer one exists; default 5 min, as
    /// WeChat's.
    pub fn grace(mut self, grace: Duration) -> MockBuilder {
        self.terms.grace = grace;
        self
    }

    /// How many `cgi-bin/token` requests a day are served; default 2000, as WeChat's.
    pub fn daily_quota(mut self, quota: u32) -> MockBuilder {
        self.terms.quota = quota;
        self
    }

    /// As [`MockWechat::refuse_excess_forces`]; default no.
    pub fn refuse_excess_forces(mut self, refuse: bool) -> MockBuilder {
        self.terms.refuse_excess_forces = refuse;
        self
    }

    /// How many characters a token has; default 136, never fewer than 16.
    ///
    /// WeChat asks clients to make room for 512.
    pub fn token_len(mut self, token_len: usize) -> MockBuilder {
        self.terms.token_len = token_len.max(16);
        self
    }

    /// As [`MockWechat::set_token_delay`]; default none.
    pub fn token_delay(mut self, delay: Duration) -> MockBuilder {
        self.token_delay = delay;
        self
    }

    /// As [`MockWechat::set_api_delay`], the same for each call; default none.
    pub fn api_delay(mut self, delay: Duration) -> MockBuilder {
        self.api_delay = delay;
        self
    }

    /// Starts the server on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// When no port can be bound on 127.0.0.1, or outside a tokio runtime.
    pub async fn start(self) -> MockWechat {
        let settings = Settings {
            token_delay: self.token_delay,
            api_delay: self.api_delay..=self.api_delay,
            reject_every_token: None,
            answer_early: false,
            accept_chunked: false,
        };
        let accounts = std::iter::once(self.first).chain(self.others).collect();
        let state = State::new(accounts, &self.terms, settings);
        MockWechat::new(Server::start(state).await)
    }
}

impl fmt::Debug for MockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockBuilder")
            .field("appid", &self.first.appid)
            .field("other_accounts", &self.others.len())
            .field("tokens", &self.terms)
            .field("token_delay", &self.token_delay)
            .field("api_delay", &self.api_delay)
            .finish_non_exhaustive()
    }
}
