use std::fmt;
use std::time::Duration;

use super::account::Tokens;
use super::server::Server;
use super::state::{Settings, State};
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
    appid: String,
    secret: String,
    expires_in: Duration,
    grace: Duration,
    quota: u32,
    token_len: usize,
    token_delay: Duration,
    api_delay: Duration,
}

impl MockBuilder {
    pub(super) fn new() -> MockBuilder {
        MockBuilder {
            appid: "wx0123456789abcdef".to_owned(),
            secret: "0123456789abcdef0123456789abcdef".to_owned(),
            expires_in: Duration::from_secs(7200),
            grace: Duration::from_secs(300),
            quota: 2000,
            token_len: 136,
            token_delay: Duration::ZERO,
            api_delay: Duration::ZERO,
        }
    }

    /// The account that gets tokens; for WeCom's gettoken its CorpID and CorpSecret.
    pub fn account(mut self, appid: impl Into<String>, secret: impl Into<String>) -> MockBuilder {
        self.appid = appid.into();
        self.secret = secret.into();
        self
    }

    /// How long a token lives; default 7200 s, as WeChat's.
    ///
    /// Told to clients in whole seconds, rounded down, but as 1 for what is left of the last second.
    pub fn expires_in(mut self, expires_in: Duration) -> MockBuilder {
        self.expires_in = expires_in;
        self
    }

    /// How long a `cgi-bin/token` token stays good once a newer one exists; default 5 min, as WeChat's.
    pub fn grace(mut self, grace: Duration) -> MockBuilder {
        self.grace = grace;
        self
    }

    /// How many `cgi-bin/token` requests a day are served; default 2000, as WeChat's.
    pub fn daily_quota(mut self, quota: u32) -> MockBuilder {
        self.quota = quota;
        self
    }

    /// How many characters a token has; default 136, never fewer than 16.
    ///
    /// WeChat asks clients to make room for 512.
    pub fn token_len(mut self, token_len: usize) -> MockBuilder {
        self.token_len = token_len.max(16);
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
        let tokens = Tokens::new(self.expires_in, self.grace, self.quota, self.token_len);
        let settings = Settings {
            token_delay: self.token_delay,
            api_delay: self.api_delay..=self.api_delay,
            deny_address: false,
            reject_every_token: None,
            answer_early: false,
        };
        let state = State::new(self.appid, self.secret, tokens, settings);
        MockWechat::new(Server::start(state).await)
    }
}

impl fmt::Debug for MockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockBuilder")
            .field("appid", &self.appid)
            .field("expires_in", &self.expires_in)
            .field("grace", &self.grace)
            .field("daily_quota", &self.quota)
            .field("token_len", &self.token_len)
            .field("token_delay", &self.token_delay)
            .field("api_delay", &self.api_delay)
            .finish_non_exhaustive()
    }
}
