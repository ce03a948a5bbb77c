//! The accounts of one server: who they are, and what each of them has.

use serde_json::Value;
use tokio::time::Instant;

use super::tokens::{Terms, Tokens};
use crate::platform::Platform;

/// Whom tokens are for. A company of WeCom has one for each application: the same id, another
/// secret.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) appid: String,
    pub(super) secret: String,
}

/// What one account has.
pub(super) struct Account {
    pub(super) tokens: Tokens,
    pub(super) deny_address: bool,
    pub(super) menu: Option<Value>,
    pub(super) messages: Vec<Value>,
}

impl Account {
    pub(super) fn new(terms: &Terms) -> Account {
        Account {
            tokens: Tokens::new(terms),
            deny_address: false,
            menu: None,
            messages: Vec::new(),
        }
    }
}

/// Whose token a call carries, and whether it is good.
#[derive(Clone, Copy)]
pub(super) struct Bearer {
    /// The account's place; `None` for a token that no account has.
    pub(super) account: Option<usize>,
    /// In whose words the call is refused, whatever for.
    pub(super) platform: Platform,
    pub(super) good: Result<(), i64>,
}

impl Bearer {
    /// A call without an account's token that is refused, or that needs none.
    pub(super) fn nobody(good: Result<(), i64>) -> Bearer {
        Bearer {
            account: None,
            platform: Platform::OfficialAccount,
            good,
        }
    }

    pub(super) fn of(accounts: &[Account], token: &str) -> Bearer {
        let known = accounts.iter().enumerate().find_map(|(at, account)| {
            let platform = account.tokens.platform_of(token)?;
            Some(Bearer {
                account: Some(at),
                platform,
                good: account.tokens.check(token, Instant::now()),
            })
        });
        known.unwrap_or(Bearer::nobody(Err(40001)))
    }
}
