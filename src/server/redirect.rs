//! Redirects of WeChat's: their target may hold the real token, as the call's did.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Uri, header};

use super::query::parameters;
use super::target::Upstream;
use crate::request::with_token;
use crate::token::{AccessToken, TokenManager};

/// Leads a redirect within WeChat through the gateway, with the client's own `token`, and takes the real one out of
/// any other.
pub(super) fn clean(
    headers: &mut HeaderMap,
    upstream: &Upstream,
    token: &str,
    tokens: &TokenManager,
) {
    let Some(location) = headers.remove(header::LOCATION) else {
        return;
    };
    let rewritten = location.to_str().ok().and_then(|text| {
        let location = text.parse::<Uri>().ok()?;
        let location = match upstream.here(&location) {
            Some(here) => Uri::from(here.clone()),
            None => location,
        };
        with_own_token(location, token)
    });
    // One that cannot be read, or has the token where it is not looked for, is worth less than the secret.
    let tells = |text: &str| {
        tokens
            .cached()
            .is_some_and(|real| text.contains(real.secret()))
    };
    if let Some(rewritten) = rewritten
        .map(|uri| uri.to_string())
        .filter(|text| !tells(text))
    {
        if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(rewritten)) {
            headers.insert(header::LOCATION, value);
        }
    }
}

fn with_own_token(location: Uri, token: &str) -> Option<Uri> {
    let query = location.query().unwrap_or_default();
    let has_token = parameters(query).any(|(name, _)| name == "access_token");
    if has_token {
        with_token(&location, &AccessToken::new(token, Duration::ZERO))
    } else {
        Some(location)
    }
}
