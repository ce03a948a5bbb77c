//! What a layer is set up with, and what it does with a request by that.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use crate::account_id::{AccountId, Asked};
use crate::body::{Keep, ReplayBudget};
use crate::framing;
use crate::passed::PassedThrough;
use crate::platform::Platform;
use crate::request::{Scope, SkipAuth, Target, names_other_credential};
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
    /// Whose token requests are answered.
    pub(crate) answered: Vec<AccountId>,
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
    /// It gets a token of this manager's.
    Authorize(TokenManager),
    /// It gets none.
    Aside(Aside),
    /// It asks for a token, and its body says whose.
    Ask,
}

/// What becomes of a request that gets no token.
pub(crate) enum Aside {
    /// It is sent as it is.
    Pass(PassedThrough),
    /// It asks for a token and is answered with one of this manager's.
    Answer(TokenManager),
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
            answered: Vec::new(),
            warnings: Arc::default(),
        }
    }

    pub(crate) fn route(&self, request: &Parts) -> Route {
        let uri = &request.uri;
        let why = match self.scope.target(uri) {
            Target::Elsewhere if self.scope.lacks_tls(uri) => PassedThrough::WithoutTls,
            Target::Elsewhere if self.scope.is_other_platforms(uri) => PassedThrough::OtherPlatform,
            Target::Elsewhere => PassedThrough::Elsewhere,
            Target::Exempt => PassedThrough::OtherPath,
            _ if uri.query().is_some_and(names_other_credential) => PassedThrough::OtherCredential,
            _ if request.extensions.get::<SkipAuth>().is_some() => PassedThrough::Skipped,
            Target::Token => return self.route_token_request(request),
            Target::Api => match self.tokens_for(request) {
                Some(tokens) => return Route::Authorize(tokens),
                None => PassedThrough::NoAccount,
            },
        };
        Route::Aside(Aside::Pass(why))
    }

    fn route_token_request(&self, request: &Parts) -> Route {
        if self.answered.is_empty() {
            return Route::Aside(Aside::Pass(PassedThrough::TokenRequest));
        }
        // Whatever prefix and slashes are before it, for it is one of two.
        if request.uri.path().ends_with("/stable_token") {
            return match self.answered.iter().any(AccountId::is_appid) {
                true => Route::Ask,
                false => Route::Aside(Aside::Pass(PassedThrough::TokenRequest)),
            };
        }
        let query = request.uri.query().unwrap_or_default();
        Route::Aside(self.answer(request, Asked::in_query(self.platform(), query)))
    }

    /// What becomes of a request for a token of the account `asked` for.
    pub(crate) fn answer(&self, request: &Parts, asked: Option<Asked>) -> Aside {
        let is_named = |asked| self.answered.iter().any(|account| account.is_meant(asked));
        if !asked.as_ref().is_some_and(is_named) {
            return Aside::Pass(PassedThrough::TokenRequest);
        }
        match self.tokens_for(request) {
            Some(tokens) => Aside::Answer(tokens),
            None => Aside::Pass(PassedThrough::NoAccount),
        }
    }

    fn tokens_for(&self, request: &Parts) -> Option<TokenManager> {
        match &self.accounts {
            Accounts::One(tokens) => Some(tokens.clone()),
            Accounts::Selected(select) => select(request),
        }
    }

    /// How much of a request's body may be kept. Of its headers those go that would frame it in
    /// another way.
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
            .field("answer_token_requests", &self.answered)
            .finish_non_exhaustive()
    }
}
