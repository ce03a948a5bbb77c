//! What a layer is set up with, and what it does with a request by that.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use crate::body::{Keep, ReplayBudget};
use crate::framing;
use crate::platform::Platform;
use crate::request::{Scope, SkipAuth, Target};
use crate::token::TokenManager;
use crate::warnings::Warnings;

/// What a service needs to know; shared by its clones.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) accounts: Accounts,
    pub(crate) scope: Scope,
    /// Those of the platform, where there are none.
    pub(crate) refresh_on: Option<Vec<i64>>,
    pub(crate) replay_limit: usize,
    pub(crate) replay_budget: Option<ReplayBudget>,
    pub(crate) inspect_limit: usize,
    pub(crate) answer_token_requests: bool,
    pub(crate) warnings: Arc<Warnings>,
}

#[derive(Clone)]
pub(crate) enum Accounts {
    One(TokenManager),
    Selected(Arc<Select>),
}

pub(crate) type Select = dyn Fn(&Parts) -> Option<TokenManager> + Send + Sync;

/// What becomes of a request.
pub(crate) enum Route {
    /// It is sent as it is.
    Pass(Passed),
    /// It gets a token of this manager's.
    Authorize(TokenManager),
    /// It asks for a token and is answered with one of this manager's.
    Answer(TokenManager),
}

/// Why a request is sent as it is.
#[derive(Clone, Copy)]
pub(crate) enum Passed {
    Elsewhere,
    WithoutTls,
    Exempt,
    TokenRequest,
    Skipped,
    NoAccount,
}

impl Passed {
    /// The answer to "why 41001?" is often among these.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Passed::Elsewhere => "the host is not the platform's, nor an api_origin",
            Passed::WithoutTls => "WeChat's host gets the token over https only",
            Passed::Exempt => "the path takes another token, or none",
            Passed::TokenRequest => "it asks for a token, and answer_token_requests is off",
            Passed::Skipped => "it has SkipAuth",
            Passed::NoAccount => "select names no account for it",
        }
    }
}

impl Config {
    pub(crate) fn new(accounts: Accounts) -> Self {
        Config {
            accounts,
            scope: Scope::default(),
            refresh_on: None,
            replay_limit: 16 * 1024 * 1024,
            replay_budget: None,
            inspect_limit: 4 * 1024,
            answer_token_requests: false,
            warnings: Arc::default(),
        }
    }

    pub(crate) fn route(&self, request: &Parts) -> Route {
        let target = self.scope.target(&request.uri);
        let passed = match target {
            Target::Elsewhere if self.scope.lacks_tls(&request.uri) => Some(Passed::WithoutTls),
            Target::Elsewhere => Some(Passed::Elsewhere),
            Target::Exempt => Some(Passed::Exempt),
            _ if request.extensions.get::<SkipAuth>().is_some() => Some(Passed::Skipped),
            Target::Token if !self.answer_token_requests => Some(Passed::TokenRequest),
            Target::Token | Target::Api => None,
        };
        if let Some(passed) = passed {
            return Route::Pass(passed);
        }
        let tokens = match &self.accounts {
            Accounts::One(tokens) => tokens.clone(),
            Accounts::Selected(select) => match select(request) {
                Some(tokens) => tokens,
                None => return Route::Pass(Passed::NoAccount),
            },
        };
        if target == Target::Token {
            Route::Answer(tokens)
        } else {
            Route::Authorize(tokens)
        }
    }

    /// How much of a request's body may be kept. Of its headers those go that would frame it in another way.
    pub(crate) fn keep(&self, request: &mut Parts) -> Keep {
        let mut keep = Keep::up_to(self.replay_limit);
        if let Some(length) = framing::declared(&mut request.headers) {
            keep = keep.of_length(length);
        }
        let own = request.extensions.get::<ReplayBudget>();
        match own.or(self.replay_budget.as_ref()) {
            Some(budget) => keep.within(budget.clone()),
            None => keep,
        }
    }

    pub(crate) fn platform(&self) -> Platform {
        self.scope.platform()
    }

    pub(crate) fn refresh_on(&self) -> &[i64] {
        match &self.refresh_on {
            Some(errcodes) => errcodes,
            None => self.platform().refresh_codes(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("scope", &self.scope)
            .field("replay_limit", &self.replay_limit)
            .field("replay_budget", &self.replay_budget)
            .field("inspect_limit", &self.inspect_limit)
            .field("refresh_on", &self.refresh_on())
            .field("answer_token_requests", &self.answer_token_requests)
            .finish_non_exhaustive()
    }
}
