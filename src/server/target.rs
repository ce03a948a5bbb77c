//! Where a gateway passes a request on to: one origin, and the paths that are listed.

use axum::http::uri::{Parts, PathAndQuery, Scheme};
use axum::http::{Method, Request, StatusCode, Uri, Version};

use super::error::BuildError;
use super::refusal::Refusal;
use crate::base_url::single_slashes;
use crate::request::{Scope, Target};

/// The folders of WeChat's server API.
pub(super) const API: [&str; 40] = [
    "/bizwifi/",
    "/business/",
    "/card/",
    "/cgi-bin/",
    "/channels/",
    "/cityservice/",
    "/customservice/",
    "/cv/",
    "/datacube/",
    "/device/",
    "/donut/",
    "/guide/",
    "/hardware/",
    "/intp/",
    "/mall/",
    "/marketing/",
    "/merchant/",
    "/mmpaymkttransfers/",
    "/nontax/",
    "/product/",
    "/promoter/",
    "/publisher/",
    "/redpacketcover/",
    "/retail/",
    "/scan/",
    "/security/",
    "/semantic/",
    "/shakearound/",
    "/shop/",
    "/tcb/",
    "/union/",
    "/user-order/",
    "/wedata/",
    "/wxa/",
    "/wxaapi/",
    "/wxadatacube/",
    "/wxaapp/",
    "/wxadrama/",
    "/wxaintp/",
    "/xpay/",
];

/// They tell calls that were made before, with the token in their URL (WeChat's page "Query rid
/// information").
const TELLING: [&str; 1] = ["/cgi-bin/openapi/rid/get"];

/// Why a request is not passed on.
#[derive(Debug)]
pub(super) enum NoTarget {
    Mistake(Refusal),
    /// It is for WeChat, and the gateway does not serve it.
    NotServed(Refusal),
}

impl NoTarget {
    pub(super) fn into_refusal(self) -> Refusal {
        match self {
            NoTarget::Mistake(refusal) | NoTarget::NotServed(refusal) => refusal,
        }
    }
}

/// One origin, and what can be reached there.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    origin: Uri,
    scope: Scope,
    paths: Vec<String>,
}

impl Upstream {
    pub(super) fn new(origin: &str, paths: Vec<String>) -> Result<Self, BuildError> {
        let uri = origin.trim_end_matches('/').parse::<Uri>().ok();
        let mut scope = Scope::default();
        let uri = uri.filter(|uri| scope.try_add_origin(&uri.to_string()).is_some());
        let Some(uri) = uri else {
            return Err(BuildError::new(
                "the upstream is http:// or https://, a host, and maybe a port: no path, no query",
            ));
        };
        if let Some(path) = paths.iter().find(|path| !is_plain(path)) {
            let path = path.escape_debug();
            return Err(BuildError::new(format!(
                "the path \"{path}\" is none of WeChat's: it begins with / and has letters, digits, -, _, . and ~ only"
            )));
        }
        Ok(Upstream {
            origin: uri,
            scope,
            paths,
        })
    }

    /// The URI that a request is passed on to.
    ///
    /// Whom the client says it asks (`Host`, an absolute target) has no part in it.
    pub(super) fn target<B>(&self, request: &Request<B>) -> Result<Uri, NoTarget> {
        let uri = request.uri();
        // With HTTP/2 every target names its host.
        let names_host = uri.authority().is_some() && request.version() < Version::HTTP_2;
        if names_host || !uri.path().starts_with('/') {
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                "the gateway is no proxy: ask it for a path",
            ));
        }
        if ![Method::GET, Method::POST, Method::HEAD].contains(request.method()) {
            return Err(refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "require GET or POST method",
            ));
        }
        let path = single_slashes(uri.path());
        if !is_plain(&path) {
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                "this path is none of WeChat's",
            ));
        }
        if let Some(why) = self.why_not_served(&path) {
            let errmsg = format!("api unauthorized: not sent, {why}");
            return Err(NoTarget::NotServed(Refusal::new(48001, errmsg)));
        }
        // None of WeChat's ends in one, and with one a token request would not be known as such.
        if path.ends_with('/') || !is_in(&path, &self.paths) {
            return Err(refuse(
                StatusCode::NOT_FOUND,
                "api unauthorized: this path is none of WeChat's server API",
            ));
        }
        let target = self.to(uri, &path);
        target.ok_or_else(|| refuse(StatusCode::URI_TOO_LONG, "the target is too long"))
    }

    /// What to do about a path of WeChat's that is not passed on. SDKs read no more of an answer
    /// with another status than 200.
    fn why_not_served(&self, path: &str) -> Option<&'static str> {
        let path = path.trim_end_matches('/');
        let is_telling = TELLING
            .iter()
            .any(|telling| path.eq_ignore_ascii_case(telling));
        if is_telling {
            return Some(
                "the gateway does not pass this path on, as its reply holds the account's token: look the rid up in WeChat's console",
            );
        }
        match self.scope.target_at(path) {
            Target::Token => Some(
                "a token is asked for at /cgi-bin/token or /cgi-bin/stable_token, with one slash before it and none behind",
            ),
            _ if path == "/cgi-bin/clear_quota/v2" || path.starts_with("/sns/") => Some(
                "the gateway does not pass this path on, as it takes the AppSecret or a user's token: ask WeChat itself, with these",
            ),
            Target::Exempt => Some(
                "the gateway does not pass this path on, as it takes no token of an account's: ask WeChat itself",
            ),
            Target::Api if !is_in(path, &self.paths) && is_in(path, &API) => {
                Some("the gateway does not pass this path on, as its operator does not list it")
            }
            _ => None,
        }
    }

    /// What `uri` asks for, by the path in place of its own.
    fn to(&self, uri: &Uri, path: &str) -> Option<Uri> {
        let path_and_query = match uri.query() {
            // Shared, where it is as it should be.
            _ if path == uri.path() => uri.path_and_query().cloned(),
            Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
            None => PathAndQuery::try_from(path).ok(),
        };
        let mut parts = Parts::default();
        parts.scheme = self.origin.scheme().cloned();
        parts.authority = self.origin.authority().cloned();
        parts.path_and_query = Some(path_and_query?);
        Uri::from_parts(parts).ok()
    }

    /// Whether `location` is at this origin. WeChat's other hosts are not: led here, a redirect to
    /// one of them would come back for ever (node-http-proxy#836).
    pub(super) fn is_origin_of(&self, location: &Uri) -> bool {
        let host = |uri: &Uri| uri.host().unwrap_or_default().to_ascii_lowercase();
        let names_user = location
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'));
        !names_user
            && location.scheme() == self.origin.scheme()
            && host(location) == host(&self.origin)
            && port(location) == port(&self.origin)
    }

    pub(super) fn scheme(&self) -> &str {
        self.origin.scheme_str().unwrap_or_default()
    }

    pub(super) fn origin(&self) -> String {
        self.origin.to_string()
    }
}

/// `None` for one that is no number.
fn port(uri: &Uri) -> Option<u16> {
    let authority = uri.authority()?;
    let of_scheme = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => 443,
        _ => 80,
    };
    match authority.as_str().strip_prefix(authority.host()) {
        Some("" | ":") => Some(of_scheme),
        _ => authority.port_u16(),
    }
}

fn refuse(status: StatusCode, errmsg: &str) -> NoTarget {
    NoTarget::Mistake(Refusal::with_status(status, 48001, errmsg))
}

/// Whether `path` is one of `listed`, or in one of their folders.
fn is_in(path: &str, listed: &[impl AsRef<str>]) -> bool {
    listed
        .iter()
        .map(AsRef::as_ref)
        .any(|listed| match listed.ends_with('/') {
            true => path.starts_with(listed),
            false => path == listed,
        })
}

/// Whether nobody reads another path in `path` than we do: no escapes, no dot segments, no
/// backslashes, no parameters.
fn is_plain(path: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
    path.starts_with('/')
        && path
            .split('/')
            .all(|segment| segment.chars().all(is_plain) && !matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests;
