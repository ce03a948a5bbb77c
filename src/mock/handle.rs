use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

use super::account::{Account, Identity};
use super::record::TokenRequests;
use super::server::Server;

/// One of the accounts of a [`MockWechat`](super::MockWechat): what it has, and what is done to it
/// alone.
///
/// It is a handle, too: the server runs as long as there is one.
#[derive(Clone)]
pub struct MockAccount {
    server: Arc<Server>,
    at: usize,
}

impl MockAccount {
    pub(super) fn new(server: Arc<Server>, at: usize) -> MockAccount {
        MockAccount { server, at }
    }

    fn who(&self) -> &Identity {
        &self.server.state().accounts[self.at]
    }

    fn with<T>(&self, act: impl FnOnce(&mut Account) -> T) -> T {
        act(&mut self.server.state().lock().accounts[self.at])
    }

    /// Its AppID (WeCom: the CorpID).
    pub fn appid(&self) -> &str {
        &self.who().appid
    }

    /// Its AppSecret (WeCom: the CorpSecret).
    pub fn secret(&self) -> &str {
        &self.who().secret
    }

    /// The newest token of `cgi-bin/token`.
    ///
    /// `None` before the first one, and after [`revoke`](MockAccount::revoke) until the next one. A
    /// token that has expired is still the newest one. Stable and WeCom tokens are not told here.
    pub fn current_token(&self) -> Option<String> {
        self.with(|account| account.tokens.current())
    }

    /// Voids its tokens of every kind at once, with no grace.
    ///
    /// Calls with them get 40001 (WeCom tokens: 40014). As with WeChat, a plain stable_token
    /// request goes on handing out the stable token that is now dead, until it would have been
    /// replaced anyhow or `force_refresh` is used.
    pub fn revoke(&self) {
        self.with(|account| account.tokens.revoke());
    }

    /// Lets its tokens expire now: calls with them get 42001.
    pub fn expire(&self) {
        self.with(|account| account.tokens.expire(Instant::now()));
    }

    /// How many `cgi-bin/token` requests a day are served; those past it get 45009.
    ///
    /// The day's count goes on: a quota below it is exhausted at once. The day begins with its
    /// first request. stable_token and gettoken have quotas of their own at WeChat, and none here.
    pub fn set_quota(&self, quota: u32) {
        self.with(|account| account.tokens.set_quota(quota));
    }

    /// Whether a forced stable_token request past the 20 of a day is refused with 45009.
    ///
    /// If not, it gets the same token. Which of the two WeChat does is not documented: a program
    /// should live with both.
    pub fn refuse_excess_forces(&self, refuse: bool) {
        self.with(|account| account.tokens.refuse_excess_forces(refuse));
    }

    /// Whether its token requests get 40164 (gettoken: 60020): the address is not on the account's
    /// allow-list.
    pub fn deny_address(&self, deny: bool) {
        self.with(|account| account.deny_address = deny);
    }

    /// How many token requests named it, of all three kinds.
    pub fn token_requests(&self) -> TokenRequests {
        let inner = self.server.state().lock();
        inner.log.token_requests(Some(self.appid()))
    }

    /// The customer service messages that were accepted with its tokens, in order: one sent twice
    /// is here twice.
    pub fn messages(&self) -> Vec<Value> {
        self.with(|account| account.messages.clone())
    }
}

impl fmt::Debug for MockAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockAccount")
            .field("appid", &self.appid())
            .finish_non_exhaustive()
    }
}
