use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tower_service::Service;

use super::client::{IncomingReply, OutgoingRequest};
use super::exchange::{Answer, Endpoint};
use super::secret::Secret;
use crate::platform::{FORCES_APART, Platform};
use crate::token::{AccessToken, BoxError, Budget, RateLimit, TokenError, TokenSource};

/// `POST /cgi-bin/stable_token`: a token that several processes can ask for without voiding each
/// other's (WeChat's page "Get stable access token").
///
/// WeChat gives everybody the same token until five minutes before its expiry. It is independent of
/// [`ClientCredential`](crate::ClientCredential)'s: neither kind voids the other.
///
/// A token that was rejected is asked for again first, without force: another process may have
/// renewed it already. Only when WeChat's answer is the rejected token itself is a new one forced,
/// at most once in 30 s, since WeChat allows 20 forced refreshes a day and ignores those that
/// follow each other within 30 s.
///
/// Another server that speaks this protocol is asked by [`base_url`](StableToken::base_url): the
/// token server or gateway of this crate (feature `server`) with a client's secret in place of the
/// AppSecret. Such a server is also told which token was rejected; WeChat never is.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_wechat::{StableToken, TokenManager};
///
/// let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let tokens = TokenManager::new(
///     StableToken::new(http, "wx0123456789abcdef", "the AppSecret")
///         // The real one, https://api.weixin.qq.com, needs a client with TLS.
///         .base_url("http://127.0.0.1:8080"),
/// );
/// # drop(tokens);
/// ```
pub struct StableToken<S, Q> {
    endpoint: Endpoint<S, Q>,
    appid: String,
    secret: Secret,
    forced: Arc<Mutex<Forced>>,
}

/// How often a token may be forced, for all clones of a source: what the manager counts it gives
/// back if a refresh fails, and WeChat may have counted it.
struct Forced {
    at: Option<Instant>,
    budget: Budget,
}

/// WeChat forces 20 a day (its page "Get stable access token"): 6 at once and 12 that grow are 18.
const FORCES: RateLimit = RateLimit::new(6, Duration::from_secs(2 * 60 * 60));

impl<S, Q> StableToken<S, Q>
where
    S: Service<Q>,
{
    /// The source for one account.
    pub fn new(http: S, appid: impl Into<String>, secret: impl Into<String>) -> Self {
        StableToken {
            endpoint: Endpoint::new(http, Platform::OfficialAccount.base_url()),
            appid: appid.into(),
            secret: Secret::new(secret),
            forced: Arc::new(Mutex::new(Forced {
                at: None,
                budget: Budget::new(FORCES),
            })),
        }
    }

    /// Asks another server in place of `https://api.weixin.qq.com`.
    ///
    /// # Panics
    ///
    /// When `base_url` is not `http://` or `https://` with a host, or has a query.
    #[track_caller]
    pub fn base_url(mut self, base_url: impl AsRef<str>) -> Self {
        self.endpoint.set_base_url(base_url.as_ref());
        self
    }

    /// Counts a forced request, unless one was made just now.
    fn may_force(&self) -> Result<bool, TokenError> {
        let now = Instant::now();
        let mut forced = self.forced.lock().unwrap_or_else(PoisonError::into_inner);
        if forced.at.is_some_and(|at| now < at + FORCES_APART) {
            return Ok(false);
        }
        if !forced.budget.take(now) {
            return Err(TokenError::OverBudget);
        }
        forced.at = Some(now);
        Ok(true)
    }

    /// WeChat has refused a forced request, and counted none.
    fn not_forced(&self) {
        let mut forced = self.forced.lock().unwrap_or_else(PoisonError::into_inner);
        forced.budget.give_back();
    }
}

impl<S, Q> StableToken<S, Q>
where
    S: Service<Q> + Clone + Send + Sync + 'static,
    S::Response: IncomingReply,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send,
    Q: OutgoingRequest + 'static,
{
    async fn ask(
        &self,
        force_refresh: bool,
        rejected: Option<&AccessToken>,
    ) -> Result<Answer, TokenError> {
        let mut json = json!({
            "grant_type": "client_credential",
            "appid": self.appid,
            "secret": self.secret.expose(),
            "force_refresh": force_refresh,
        });
        if let Some(rejected) = rejected {
            json["rejected_token"] = rejected.secret().into();
        }
        self.endpoint
            .post_json("/cgi-bin/stable_token", json.to_string(), &self.secret)
            .await
    }
}

impl<S, Q> TokenSource for StableToken<S, Q>
where
    S: Service<Q> + Clone + Send + Sync + 'static,
    S::Response: IncomingReply,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send,
    Q: OutgoingRequest + 'static,
{
    async fn issue(&self, rejected: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
        let answer = self.ask(false, None).await?;
        let token = answer.token;
        if rejected != Some(&token) {
            return Ok(token.at_no_cost());
        }
        if answer.takes_rejected_token {
            // It compares before it refreshes, and has a budget of its own.
            let token = self.ask(true, rejected).await?.token;
            return Ok(token.counted_elsewhere());
        }
        if !self.may_force()? {
            tracing::warn!(
                "stable_token gives the rejected token again, and may not be forced yet"
            );
            return Ok(token.at_no_cost());
        }
        // Not forgotten where it fails: should it have reached WeChat all the same, the next
        // request without force brings the new token.
        let forced = self.ask(true, None).await;
        if matches!(&forced, Err(TokenError::Api { .. })) {
            self.not_forced();
        }
        Ok(forced?.token)
    }

    fn account(&self) -> Option<&str> {
        Some(&self.appid)
    }

    fn shared_as(&self) -> Option<&str> {
        Some(&self.appid)
    }

    fn refresh_limit(&self) -> Option<RateLimit> {
        Some(FORCES)
    }
}

/// Whatever the request type is: it is not held.
impl<S, Q> Clone for StableToken<S, Q>
where
    S: Clone,
{
    fn clone(&self) -> Self {
        StableToken {
            endpoint: self.endpoint.clone(),
            appid: self.appid.clone(),
            secret: self.secret.clone(),
            forced: Arc::clone(&self.forced),
        }
    }
}

impl<S, Q> fmt::Debug for StableToken<S, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StableToken")
            .field("base_url", &self.endpoint.base_url())
            .field("appid", &self.appid)
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}
