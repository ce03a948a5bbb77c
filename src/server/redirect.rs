//! Headers of replies that may tell a token: a redirect leads to where the call went, and that was asked with WeChat's.

use axum::http::{HeaderMap, HeaderValue, Uri, header};
use percent_encoding::percent_decode_str;

use super::query::parameters;
use super::target::Upstream;

/// Takes the token that a call was sent with out of the headers of its reply; in `Location` the client's `own` takes its place.
pub(super) fn hide(headers: &mut HeaderMap, sent_to: &Uri, own: &str) {
    let query = sent_to.query().unwrap_or_default();
    let sent = query
        .split('&')
        .find_map(|parameter| parameter.strip_prefix("access_token="));
    let Some(sent) = sent.filter(|sent| !sent.is_empty()) else {
        return;
    };
    let decoded = percent_decode_str(sent).decode_utf8_lossy();
    let tells = |value: &HeaderValue| {
        let value = String::from_utf8_lossy(value.as_bytes());
        value.contains(sent) || value.contains(&*decoded)
    };
    if !headers.values().any(tells) {
        return;
    }
    let location = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok());
    let location = location.map(|text| text.replace(sent, own));
    let telling = headers.iter().filter(|(_, value)| tells(value));
    for name in telling.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
        headers.remove(name);
    }
    let location = location.and_then(|text| HeaderValue::try_from(text).ok());
    if let Some(location) = location.filter(|value| !tells(value)) {
        headers.insert(header::LOCATION, location);
    }
}

/// Leads a redirect within WeChat through the gateway, and no other anywhere with the client's `own` token.
pub(super) fn lead_here(headers: &mut HeaderMap, upstream: &Upstream, own: &str) {
    let Some(location) = headers.get(header::LOCATION) else {
        return;
    };
    let text = location.to_str().unwrap_or_default();
    // Without a scheme it has the upstream's, whose hosts are known by their names.
    let absolute = match text.starts_with("//") {
        true => format!("https:{text}"),
        false => text.to_owned(),
    };
    let is_path = text.starts_with('/') && !text.starts_with("//");
    if is_path || !absolute.contains("://") {
        return;
    }
    let target = absolute.parse::<Uri>().ok();
    let here = target.as_ref().filter(|target| upstream.is_at(target));
    let here = here.and_then(Uri::path_and_query);
    if let Some(here) = here.and_then(|here| HeaderValue::from_str(here.as_str()).ok()) {
        headers.insert(header::LOCATION, here);
        return;
    }
    let query = target.as_ref().and_then(Uri::query).unwrap_or_default();
    let has_own = text.contains(own) || parameters(query).any(|(_, value)| value == own);
    if has_own {
        headers.remove(header::LOCATION);
    }
}
