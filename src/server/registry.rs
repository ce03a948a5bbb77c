//! The accounts and the clients, and which of the two a request speaks for.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::charges::{Ledger, Share};
use super::clients::{Client, Clients};
use super::error::BuildError;
use super::failures::Failures;
use super::metrics;
use super::refusal::Refusal;
use super::token_request::TokenRequest;
use crate::token::{KeepFresh, TokenManager};

/// What all requests of one server share.
pub(super) struct Registry {
    accounts: HashMap<Arc<str>, Account>,
    clients: Clients,
    failures: Failures,
}

/// An account, whose token is renewed as long as the server lives.
pub(super) struct Account {
    pub(super) appid: Arc<str>,
    pub(super) tokens: TokenManager,
    /// By client, the same tokens: each client pays for the refreshes that it causes.
    by_client: HashMap<Arc<str>, TokenManager>,
    _fresh: KeepFresh,
}

impl Account {
    fn new(appid: &Arc<str>, tokens: TokenManager, clients: &Clients) -> Self {
        tokens.call_it(appid);
        let of_all = tokens.refresh_limit();
        let clients: Vec<_> = clients
            .iter()
            .filter(|client| client.may_use(appid))
            .collect();
        let ledger = Arc::new(Ledger::new(of_all, clients.len()));
        let by_client = clients.iter().map(|client| {
            let limit = client.refresh_limit(of_all, clients.len());
            let share = Share::new(&client.name, appid, &ledger, limit);
            (Arc::clone(&client.name), tokens.with_gate(share))
        });
        Account {
            appid: Arc::clone(appid),
            by_client: by_client.collect(),
            _fresh: tokens.keep_fresh(),
            tokens,
        }
    }

    /// The tokens, as `client` uses them.
    pub(super) fn tokens_for(&self, client: &Client) -> &TokenManager {
        self.by_client.get(&client.name).unwrap_or(&self.tokens)
    }
}

impl Registry {
    pub(super) fn new(
        accounts: Vec<(String, TokenManager)>,
        clients: Vec<Client>,
    ) -> Result<Self, BuildError> {
        if accounts.is_empty() {
            return Err(BuildError::new(
                "there is no account: give each with its tokens",
            ));
        }
        let is_known = |appid: &str| accounts.iter().any(|(known, _)| known == appid);
        let clients = Clients::new(clients, is_known)?;
        for (number, (appid, _)) in accounts.iter().enumerate() {
            if appid.is_empty() || appid.len() > 64 {
                return Err(BuildError::new(
                    "an account needs an appid of 1 to 64 bytes",
                ));
            }
            if accounts[..number].iter().any(|(other, _)| other == appid) {
                return Err(BuildError::new(format!(
                    "the account \"{appid}\" is there twice"
                )));
            }
        }
        // Last, as it starts to ask WeChat.
        let accounts = accounts.into_iter().map(|(appid, tokens)| {
            let appid = Arc::<str>::from(appid);
            let account = Account::new(&appid, tokens, &clients);
            (appid, account)
        });
        let accounts = accounts.collect();
        Ok(Registry {
            accounts,
            clients,
            failures: Failures::new(),
        })
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    pub(super) fn clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter()
    }

    pub(super) fn account(&self, appid: &str) -> Option<&Account> {
        self.accounts.get(appid)
    }

    pub(super) fn client(&self, name: &str) -> Option<&Client> {
        self.clients.named(name)
    }

    /// Whose secret it is.
    pub(super) fn client_with(&self, secret: &str) -> Option<&Client> {
        self.clients.with_secret(secret)
    }

    /// Who asks for a token, and for which account. A wrong secret is told so late, and in the log.
    pub(super) async fn admit(
        &self,
        request: &TokenRequest,
        address: Option<IpAddr>,
    ) -> Result<(&Client, &Account), Refusal> {
        let admitted = self.look_up(request);
        if let Err((refusal, failure)) = &admitted {
            metrics::token_request_refused(refusal.errcode());
            if let Some(Failure { client, why }) = failure {
                let appid = request.appid.as_deref().unwrap_or_default();
                self.failures.suffer(address, appid, *client, why).await;
            }
        }
        let (client, account) = admitted.map_err(|(refusal, _)| refusal)?;
        if !client.keeps_to_its_rate() {
            tracing::debug!(client = &*client.name, "asks for tokens too often");
            metrics::token_request(client, account, 45009);
            return Err(Refusal::new(
                45009,
                "reach max api daily quota limit: this client asks for tokens too often",
            ));
        }
        Ok((client, account))
    }

    /// In the order of WeChat's own checks.
    fn look_up(
        &self,
        request: &TokenRequest,
    ) -> Result<(&Client, &Account), (Refusal, Option<Failure<'_>>)> {
        let mistake = |errcode, errmsg: &str| Err((Refusal::new(errcode, errmsg), None));
        let failed = |errcode, errmsg: &str, client, why| {
            Err((Refusal::new(errcode, errmsg), Some(Failure { client, why })))
        };
        let Some(appid) = request.appid.as_deref().filter(|appid| !appid.is_empty()) else {
            return mistake(41002, "appid missing");
        };
        let Some(secret) = request.secret.as_ref().filter(|secret| !secret.is_empty()) else {
            return mistake(41004, "appsecret missing");
        };
        if request.grant_type.as_deref() != Some("client_credential") {
            return mistake(40002, "invalid grant_type: it must be client_credential");
        }
        let client = self.clients.with_secret(secret);
        let name = client.map(|client| &*client.name);
        let Some(account) = self.accounts.get(appid) else {
            return failed(40013, "invalid appid", name, "unknown appid");
        };
        match client {
            Some(client) if client.may_use(appid) => Ok((client, account)),
            Some(_) => failed(
                40125,
                "invalid appsecret",
                name,
                "the account is not one of this client's",
            ),
            None => failed(
                40125,
                "invalid appsecret: this server wants a client's own secret",
                None,
                "wrong secret",
            ),
        }
    }
}

/// An attempt that looks like guessing.
struct Failure<'a> {
    client: Option<&'a str>,
    why: &'static str,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("accounts", &self.accounts.keys())
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}
