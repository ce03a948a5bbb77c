//! Who may ask, and for which accounts.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::charges::share_of;
use super::error::BuildError;
use crate::source::Secret;
use crate::token::{Budget, RateLimit};

/// Shorter secrets can be guessed, however slowly a server answers.
const SHORTEST_SECRET: usize = 16;

/// So that a gateway's token stays short enough for every SDK.
const LONGEST_NAME: usize = 64;

/// What each client may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    pub(super) token_requests: RateLimit,
    /// Default: a share of what the account may.
    pub(super) refreshes: Option<RateLimit>,
}

impl Default for Allowed {
    fn default() -> Self {
        Allowed {
            token_requests: RateLimit::new(1000, Duration::from_millis(100)),
            refreshes: None,
        }
    }
}

/// One of those who may ask.
pub(super) struct Client {
    pub(super) name: Arc<str>,
    secret: Secret,
    /// All of them, where there are none.
    accounts: Option<Vec<String>>,
    token_requests: Mutex<Budget>,
    refreshes: Option<RateLimit>,
}

impl Client {
    pub(super) fn new(
        name: String,
        secret: Secret,
        accounts: Option<Vec<String>>,
        allowed: &Allowed,
    ) -> Self {
        Client {
            name: name.into(),
            secret,
            accounts,
            token_requests: Mutex::new(Budget::new(allowed.token_requests)),
            refreshes: allowed.refreshes,
        }
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(super) fn may_use(&self, appid: &str) -> bool {
        let accounts = self.accounts.as_ref();
        accounts.is_none_or(|accounts| accounts.iter().any(|account| account == appid))
    }

    /// Whether it keeps to its rate; counts this request.
    pub(super) fn keeps_to_its_rate(&self) -> bool {
        let mut budget = lock(&self.token_requests);
        budget.take(Instant::now())
    }

    /// How often it may have a rejected token of an account replaced that allows `account` to all
    /// of so many `clients`.
    pub(super) fn refresh_limit(&self, account: RateLimit, clients: usize) -> RateLimit {
        self.refreshes.unwrap_or_else(|| share_of(account, clients))
    }

    fn check(&self, known: impl Fn(&str) -> bool) -> Result<(), BuildError> {
        let name = &*self.name;
        let wrong = |what: &str| {
            Err(BuildError::new(format!(
                "the client \"{}\" {what}",
                name.escape_debug()
            )))
        };
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(char::is_control) {
            return wrong("needs a name of 1 to 64 bytes, without control characters");
        }
        if self.secret.expose().len() < SHORTEST_SECRET {
            return wrong(
                "has a secret of less than 16 bytes: take a random one, as `openssl rand -hex 16` gives",
            );
        }
        if self.accounts.as_ref().is_some_and(Vec::is_empty) {
            return wrong("may use no account: name some, or none for all");
        }
        let mut accounts = self.accounts.iter().flatten();
        if let Some(appid) = accounts.find(|appid| !known(appid)) {
            return wrong(&format!(
                "may use the account \"{}\", which is not one of this server's",
                appid.escape_debug()
            ));
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All of them.
pub(super) struct Clients {
    clients: Vec<Client>,
    by_name: HashMap<Arc<str>, usize>,
}

impl Clients {
    /// `known` says which accounts there are.
    pub(super) fn new(
        clients: Vec<Client>,
        known: impl Fn(&str) -> bool,
    ) -> Result<Self, BuildError> {
        if clients.is_empty() {
            return Err(BuildError::new(
                "there is no client: give each a name and a secret of its own",
            ));
        }
        let mut by_name = HashMap::new();
        let mut by_secret = HashMap::new();
        for (number, client) in clients.iter().enumerate() {
            client.check(&known)?;
            if by_name.insert(Arc::clone(&client.name), number).is_some() {
                let name = &client.name;
                return Err(BuildError::new(format!("there are two clients \"{name}\"")));
            }
            if let Some(other) = by_secret.insert(client.secret.expose(), &client.name) {
                let name = &client.name;
                return Err(BuildError::new(format!(
                    "the clients \"{other}\" and \"{name}\" have the same secret: it is how they are told apart"
                )));
            }
        }
        Ok(Clients { clients, by_name })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter()
    }

    pub(super) fn named(&self, name: &str) -> Option<&Client> {
        Some(&self.clients[*self.by_name.get(name)?])
    }

    /// Whose secret it is. The time it takes tells nothing of any secret but its length.
    pub(super) fn with_secret(&self, secret: &str) -> Option<&Client> {
        let mut found = None;
        for client in &self.clients {
            // No way out of the loop: whose secret is nearly right must not show.
            if bool::from(client.secret.expose().as_bytes().ct_eq(secret.as_bytes())) {
                found = Some(client);
            }
        }
        found
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.clients.iter().map(|client| &client.name))
            .finish()
    }
}
