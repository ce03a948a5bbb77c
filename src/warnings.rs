//! Warnings that come once and not with every call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use tokio::time::Instant;

use crate::account_id::AccountId;
use crate::passed::PassedThrough;
use crate::platform::Platform;

/// What has been warned of: one bad day must not fill a disk with the same line.
#[derive(Default)]
pub(crate) struct Warnings {
    coding: AtomicBool,
    chunked: AtomicBool,
    other_platform: AtomicBool,
    unknown_host: AtomicBool,
    token_missing: AtomicBool,
    pub(crate) same_token: Seldom,
    pub(crate) body_not_kept: Seldom,
    pub(crate) rejected_again: Seldom,
    without_tls: Seldom,
    token_request: Seldom,
}

impl Warnings {
    pub(crate) fn of_coding(&self) {
        if !self.coding.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "replies come in a content-encoding that is not looked into, so a rejected token \
                 would go unnoticed: turn on the feature `decompression`, or decompress inside \
                 this layer"
            );
        }
    }

    pub(crate) fn of_chunked(&self) {
        if !self.chunked.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a request body is larger than replay_limit, and its length is not known: it is sent in chunks, which WeChat answers with 412. Give the request a Content-Length, or raise replay_limit"
            );
        }
    }

    /// Warns of what is a mistake wherever it is done.
    pub(crate) fn of_passed(&self, passed: PassedThrough, path: &str, named: &[AccountId]) {
        if passed == PassedThrough::WithoutTls && self.without_tls.is_due() {
            tracing::warn!("a call to WeChat over http is sent without a token: use https");
        }
        if passed == PassedThrough::TokenRequest && self.token_request.is_due() {
            tracing::warn!(
                path,
                ?named,
                "a request for a token passes through the layer, and what it gets may void the \
                 layer's own: name the account in answer_token_requests for an SDK (those named \
                 are not the one that it asks for), and give a token source the client without \
                 the layer"
            );
        }
    }

    /// Warns of a call that passed without a token and should have had one (R8).
    pub(crate) fn of_missing_token(&self, why: PassedThrough, platform: Platform, uri: &Uri) {
        let (host, path) = (uri.host(), uri.path());
        let first = |warned: &AtomicBool| !warned.swap(true, Ordering::Relaxed);
        match why {
            PassedThrough::OtherPlatform if first(&self.other_platform) => {
                let of_host = host.and_then(Platform::of_host).unwrap_or(platform);
                tracing::warn!(
                    host,
                    path,
                    "a call is sent without a token: the host is one of {of_host:?}, and the layer is \
                     set up for {platform:?}: add .platform(Platform::{of_host:?})"
                );
            }
            PassedThrough::Elsewhere if first(&self.unknown_host) => {
                let scheme = uri.scheme_str().unwrap_or_default();
                let port = uri.port().map_or(String::new(), |port| format!(":{port}"));
                let origin = host.map(|host| format!("{scheme}://{host}{port}"));
                tracing::warn!(
                    host,
                    path,
                    "a call was sent without a token, and answered 41001, access_token missing: {why}; \
                     add .api_origin(\"{}\"), with the path that comes before WeChat's if there is one",
                    origin.unwrap_or_default()
                );
            }
            PassedThrough::Elsewhere | PassedThrough::OtherPlatform => {}
            _ if first(&self.token_missing) => tracing::warn!(
                host,
                path,
                "a call was sent without a token, and answered 41001, access_token missing: {why}"
            ),
            _ => {}
        }
    }
}

/// A warning given once a minute at most; in between it is for those who debug.
#[derive(Default)]
pub(crate) struct Seldom {
    warned_at: Mutex<Option<Instant>>,
}

impl Seldom {
    pub(crate) fn tell(&self, account: Option<&str>, path: &str, message: &str) {
        if self.is_due() {
            tracing::warn!(account, path, "{message}");
        } else {
            tracing::debug!(account, path, "{message}");
        }
    }

    /// Whether it is time for the warning; counts it as given.
    pub(crate) fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut warned_at = self
            .warned_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let due = warned_at.is_none_or(|at| now >= at + Duration::from_secs(60));
        if due {
            *warned_at = Some(now);
        }
        due
    }
}
