//! What happened, in numbers: by the `metrics` facade, to whatever recorder the program has
//! installed.
//!
//! Without the feature `metrics` there is nothing in here.

use std::sync::Arc;

use crate::outcome::AuthOutcome;
use crate::token::{AccessToken, TokenError, Why};

#[cfg(not(feature = "metrics"))]
mod recorded {
    use super::*;

    pub(crate) fn describe() {}
    pub(crate) fn answered(_: Option<&Arc<str>>, _: &AuthOutcome) {}
    pub(crate) fn without_token(_: Option<&Arc<str>>) {}
    pub(crate) fn failed(_: Option<&Arc<str>>) {}
    pub(crate) fn rejected(_: Option<&Arc<str>>, _: i64) {}
    pub(crate) fn refreshed(_: Option<&Arc<str>>, _: &Why, _: &Result<AccessToken, TokenError>) {}
    pub(crate) fn refresh_refused(_: Option<&Arc<str>>, _: &Why, _: &TokenError) {}
    #[cfg(feature = "redis")]
    pub(crate) fn shared(_: Option<&Arc<str>>, _: &'static str) {}
}

#[cfg(feature = "metrics")]
mod recorded {
    use std::time::{Duration, SystemTime};

    use metrics::{SharedString, counter, describe_counter, describe_gauge, gauge};

    use super::*;

    const REQUESTS: &str = "wechat_requests_total";
    const REJECTIONS: &str = "wechat_rejections_total";
    const REFRESHES: &str = "wechat_refreshes_total";
    const SHARED: &str = "wechat_shared_tokens_total";
    const REFRESHED_AT: &str = "wechat_token_refresh_timestamp_seconds";
    const EXPIRES_AT: &str = "wechat_token_expiry_timestamp_seconds";

    pub(crate) fn describe() {
        describe_counter!(
            REQUESTS,
            "Calls that went through the layer, by account and by what became of them"
        );
        describe_counter!(
            REJECTIONS,
            "Replies that said the access_token is no longer good, by account and errcode"
        );
        describe_counter!(
            REFRESHES,
            "Times that the token source was asked, by account, by why a token was wanted and by how it ended"
        );
        describe_counter!(
            SHARED,
            "Questions for the token that is shared in Redis, by account and by how they ended"
        );
        describe_gauge!(
            REFRESHED_AT,
            "When the account's token was last fetched, in seconds since 1970"
        );
        describe_gauge!(
            EXPIRES_AT,
            "When the account's token will expire, in seconds since 1970"
        );
    }

    pub(crate) fn answered(account: Option<&Arc<str>>, outcome: &AuthOutcome) {
        let result = match outcome {
            _ if outcome.errcode().is_none() => "once",
            _ if outcome.rejected_again() => "rejected_again",
            _ if outcome.replayed() => "replayed",
            _ => "not_replayed",
        };
        request(account, result);
    }

    pub(crate) fn without_token(account: Option<&Arc<str>>) {
        request(account, "no_token");
    }

    pub(crate) fn failed(account: Option<&Arc<str>>) {
        request(account, "failed");
    }

    fn request(account: Option<&Arc<str>>, result: &'static str) {
        counter!(REQUESTS, "account" => label(account), "result" => result).increment(1);
    }

    pub(crate) fn rejected(account: Option<&Arc<str>>, errcode: i64) {
        let errcode = errcode.to_string();
        counter!(REJECTIONS, "account" => label(account), "errcode" => errcode).increment(1);
    }

    pub(crate) fn refreshed(
        account: Option<&Arc<str>>,
        why: &Why,
        outcome: &Result<AccessToken, TokenError>,
    ) {
        let result = match outcome {
            Ok(_) => "ok".into(),
            Err(error) => kind(error),
        };
        refresh(account, why, result);
        if let Ok(token) = outcome {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
            let expires_at = now + token.expires_in();
            gauge!(REFRESHED_AT, "account" => label(account)).set(now.as_secs_f64());
            gauge!(EXPIRES_AT, "account" => label(account)).set(expires_at.as_secs_f64());
        }
    }

    /// A token was wanted, and the source was not asked for one.
    pub(crate) fn refresh_refused(account: Option<&Arc<str>>, why: &Why, error: &TokenError) {
        if matches!(error, TokenError::OverBudget | TokenError::Futile) {
            refresh(account, why, kind(error));
        }
    }

    fn refresh(account: Option<&Arc<str>>, why: &Why, result: SharedString) {
        let reason = match why {
            Why::Missing => "missing",
            Why::Expiring(_) => "expiring",
            Why::Rejected(_) => "rejected",
        };
        counter!(
            REFRESHES,
            "account" => label(account), "reason" => reason, "result" => result
        )
        .increment(1);
    }

    #[cfg(feature = "redis")]
    pub(crate) fn shared(account: Option<&Arc<str>>, result: &'static str) {
        counter!(SHARED, "account" => label(account), "result" => result).increment(1);
    }

    /// WeChat's errcode, as that is what one looks up; of other failures their kind.
    fn kind(error: &TokenError) -> SharedString {
        match error {
            TokenError::Api { errcode, .. } => errcode.to_string().into(),
            TokenError::Transport(_) => "transport".into(),
            TokenError::Status(_) => "status".into(),
            TokenError::InvalidReply { .. } => "invalid_reply".into(),
            TokenError::Timeout { .. } => "timeout".into(),
            TokenError::Panicked => "panicked".into(),
            TokenError::OverBudget => "over_budget".into(),
            TokenError::Futile => "futile".into(),
            TokenError::NoRuntime => "no_runtime".into(),
            TokenError::Other(_) => "other".into(),
        }
    }

    /// Shared, so that no call copies the account's name.
    pub(crate) fn label(account: Option<&Arc<str>>) -> SharedString {
        match account {
            Some(account) => SharedString::from_shared(Arc::clone(account)),
            None => SharedString::const_str(""),
        }
    }
}

pub(crate) use self::recorded::*;
