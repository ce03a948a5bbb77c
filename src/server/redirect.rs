//! Headers of replies that tell a token or lead somewhere: a redirect leads to where the call went,
//! and that was asked with WeChat's token.

use axum::http::{HeaderMap, HeaderValue, Uri, header};

use super::secrets::{Secrets, is_spelled_in};
use super::target::Upstream;

/// Takes out what tells a secret; in `Location` the client's `own` token takes its place, and a
/// redirect within the upstream's origin leads through the gateway.
pub(super) fn clean(headers: &mut HeaderMap, secrets: &Secrets, upstream: &Upstream, own: &str) {
    // Bytes, as some servers write UTF-8 into it.
    let location = headers
        .remove(header::LOCATION)
        .map(|location| location.as_bytes().to_vec());
    let telling = headers
        .iter()
        .filter(|(name, value)| {
            secrets.are_in(value.as_bytes()) || secrets.are_in(name.as_str().as_bytes())
        })
        .map(|(name, _)| name.clone())
        .collect::<Vec<_>>();
    for name in telling {
        headers.remove(name);
    }
    let location = location
        .map(|location| secrets.replace(location, own))
        .filter(|location| !secrets.are_in(location))
        .and_then(|location| lead(&location, upstream, own));
    if let Some(location) = location {
        headers.insert(header::LOCATION, location);
    }
}

/// Where a redirect leads a client of the gateway. `None` for one that clients read in different
/// ways, and for one that would carry the client's token away.
fn lead(location: &[u8], upstream: &Upstream, own: &str) -> Option<HeaderValue> {
    let location = plain(location)?;
    let elsewhere = |location: &str| {
        let carries = is_spelled_in(location.as_bytes(), own.as_bytes());
        (!carries).then(|| HeaderValue::from_str(location).ok())?
    };
    let absolute = match kind(&location)? {
        Kind::Path => return HeaderValue::from_str(&location).ok(),
        Kind::Foreign => return elsewhere(&location),
        // Said here, for the client would take the gateway's scheme.
        Kind::WithoutScheme => format!("{}:{location}", upstream.scheme()),
        Kind::Absolute => location,
    };
    let target = absolute.parse::<Uri>().ok();
    match target.filter(|target| upstream.is_origin_of(target)) {
        Some(target) => {
            let path = target.path_and_query().map_or("/", |path| path.as_str());
            // With two slashes at its beginning it would name a host.
            let path = format!("/{}", path.trim_start_matches('/'));
            HeaderValue::from_str(&path).ok()
        }
        None => elsewhere(&absolute),
    }
}

/// In ASCII, as browsers write it. `None` where they drop bytes, or take one for another: tabs,
/// line breaks, backslashes.
fn plain(location: &[u8]) -> Option<String> {
    let is_odd = |byte: &u8| byte.is_ascii_control() || *byte == b'\\';
    if location.iter().any(is_odd) || location.starts_with(b" ") || location.ends_with(b" ") {
        return None;
    }
    let mut plain = String::with_capacity(location.len());
    for byte in location {
        match byte {
            b'!'..=b'~' => plain.push(char::from(*byte)),
            byte => plain.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(plain)
}

enum Kind {
    /// Of the host that was asked.
    Path,
    Absolute,
    WithoutScheme,
    /// With a scheme of another protocol.
    Foreign,
}

/// `None` for what begins like an address and is none, in which browsers find a host all the same:
/// `https:/h`, `///h`.
fn kind(location: &str) -> Option<Kind> {
    let names_host = |rest: &str| rest.starts_with("//") && !rest.starts_with("///");
    let delimiter = location.find([':', '/', '?', '#']);
    let scheme = delimiter
        .filter(|at| location[*at..].starts_with(':'))
        .map(|at| location.split_at(at));
    match scheme {
        Some((scheme, rest))
            if ["http", "https"]
                .map(str::to_owned)
                .contains(&scheme.to_lowercase()) =>
        {
            names_host(&rest[1..]).then_some(Kind::Absolute)
        }
        Some(_) => Some(Kind::Foreign),
        None if location.starts_with("//") => names_host(location).then_some(Kind::WithoutScheme),
        None => Some(Kind::Path),
    }
}
