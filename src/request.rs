//! The token into the query, and which requests get one.

use std::borrow::Cow;

use bytes::Bytes;
use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use percent_encoding::percent_decode;

use crate::platform::Platform;
use crate::token::AccessToken;

/// A request extension: the layer sends this request as it is.
///
/// ```
/// use tower_wechat::SkipAuth;
///
/// let request = http::Request::get("https://api.weixin.qq.com/cgi-bin/get_api_domain_ip")
///     .extension(SkipAuth)
///     .body(String::new())?;
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SkipAuth;

/// What a request's target says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An API call, which gets the token.
    Api,
    /// A request for a token.
    Token,
    /// A path that takes another token or none.
    Exempt,
    /// Somebody else's host.
    Elsewhere,
}

/// Which requests may be sent the token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    platform: Platform,
    origins: Vec<Origin>,
}

#[derive(Clone, Debug)]
struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Scope {
    pub(crate) fn platform(&self) -> Platform {
        self.platform
    }

    pub(crate) fn set_platform(&mut self, platform: Platform) {
        self.platform = platform;
    }

    /// # Panics
    ///
    /// When `origin` is not one.
    #[track_caller]
    pub(crate) fn add_origin(&mut self, origin: &str) {
        self.try_add_origin(origin).expect(
            "an origin is http:// or https://, a host, and maybe a port: no path, no query",
        );
    }

    /// `None` when `origin` is not one.
    pub(crate) fn try_add_origin(&mut self, origin: &str) -> Option<()> {
        self.origins.push(Origin::parse(origin)?);
        Some(())
    }

    pub(crate) fn target(&self, uri: &Uri) -> Target {
        match self.covers(uri) {
            true => self.target_at(uri.path()),
            false => Target::Elsewhere,
        }
    }

    /// What `path` says about a request to one of our hosts.
    pub(crate) fn target_at(&self, path: &str) -> Target {
        let path = single_slashes(path);
        if self.platform.is_token_request(&path) {
            Target::Token
        } else if Platform::is_exempt(&path) || has_dot_segments(&path) {
            Target::Exempt
        } else {
            Target::Api
        }
    }

    fn covers(&self, uri: &Uri) -> bool {
        let Some(authority) = uri.authority() else {
            // A path of its own: a service inside says where it goes. `OPTIONS *` goes nowhere.
            return uri.path().starts_with('/');
        };
        let Some(scheme) = uri.scheme() else {
            return false;
        };
        // The usual case first: nothing has to be taken apart for it.
        if *scheme == Scheme::HTTPS && self.is_own(authority.as_str()) {
            return true;
        }
        let Some(port) = port(scheme, authority) else {
            return false;
        };
        let host = authority.host();
        (*scheme == Scheme::HTTPS && port == 443 && self.is_own(host))
            || self.origins.iter().any(|origin| {
                origin.scheme == *scheme
                    && origin.port == port
                    && origin.host.eq_ignore_ascii_case(host)
            })
    }

    /// Whether only TLS is missing.
    pub(crate) fn lacks_tls(&self, uri: &Uri) -> bool {
        uri.scheme() == Some(&Scheme::HTTP) && uri.host().is_some_and(|host| self.is_own(host))
    }

    fn is_own(&self, host: &str) -> bool {
        let mut hosts = self.platform.hosts().iter();
        hosts.any(|own| own.eq_ignore_ascii_case(host))
    }
}

impl Origin {
    fn parse(origin: &str) -> Option<Origin> {
        let parts = origin.parse::<Uri>().ok()?.into_parts();
        let (scheme, authority) = (parts.scheme?, parts.authority?);
        let bare = matches!(
            parts.path_and_query.as_ref().map(PathAndQuery::as_str),
            None | Some("/")
        );
        (bare && !authority.as_str().contains('@')).then_some(Origin {
            port: port(&scheme, &authority)?,
            host: authority.host().to_owned(),
            scheme,
        })
    }
}

/// The port that is meant; `None` where none is: a strange scheme, a port that is no number.
fn port(scheme: &Scheme, authority: &Authority) -> Option<u16> {
    match authority.port() {
        Some(port) => Some(port.as_u16()),
        // `host:` and `host:99999` have no port that `http` would give, and are not the default.
        None if !authority.as_str().ends_with(authority.host()) => None,
        None if *scheme == Scheme::HTTPS => Some(443),
        None if *scheme == Scheme::HTTP => Some(80),
        None => None,
    }
}

/// `path` as WeChat's servers read it: several slashes are one, wherever they stand.
pub(crate) fn single_slashes(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut single = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !single.ends_with('/') {
            single.push(c);
        }
    }
    Cow::Owned(single)
}

/// Whether `path` is another once a client or a server resolves it. None of WeChat's is.
fn has_dot_segments(path: &str) -> bool {
    // Nearly every path has neither of these.
    memchr::memchr2(b'.', b'%', path.as_bytes()).is_some() && path.split('/').any(is_dots)
}

fn is_dots(segment: &str) -> bool {
    let decoded: Cow<'_, [u8]> = percent_decode(segment.as_bytes()).into();
    matches!(&*decoded, b"." | b"..")
}

/// `uri` with the token in its query; every other byte stays as it is, in its place.
///
/// `None` when it becomes too long to be a URI.
pub(crate) fn with_token(uri: &Uri, token: &AccessToken) -> Option<Uri> {
    let rewritten = rewrite(uri.path_and_query(), token.encoded());

    let mut parts = http::uri::Parts::default();
    parts.scheme = uri.scheme().cloned();
    parts.authority = uri.authority().cloned();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(rewritten)).ok()?);
    Uri::from_parts(parts).ok()
}

const PARAMETER: &[u8] = b"access_token";

fn rewrite(path_and_query: Option<&PathAndQuery>, token: &str) -> Vec<u8> {
    let (path, query) = match path_and_query {
        Some(path_and_query) => {
            let whole = path_and_query.as_str().as_bytes();
            match path_and_query.query() {
                Some(query) => (&whole[..whole.len() - query.len() - 1], query.as_bytes()),
                None => (whole, &[][..]),
            }
        }
        None => (&b"/"[..], &[][..]),
    };
    // Exact for a token that is added: of a `Vec` with room to spare `Bytes` makes another
    // allocation.
    let separator = usize::from(!query.is_empty());
    let longest = path.len() + 1 + query.len() + separator + PARAMETER.len() + 1 + token.len();
    let mut out = Vec::with_capacity(longest);
    out.extend_from_slice(path);
    out.push(b'?');
    let query_starts = out.len();
    let mut placed = false;
    for (number, parameter) in query.split(|byte| *byte == b'&').enumerate() {
        let names_token = names_token(parameter);
        // A second one would leave it to the server which of them counts.
        if names_token && placed {
            continue;
        }
        if number > 0 {
            out.push(b'&');
        }
        if names_token {
            push_parameter(&mut out, token);
            placed = true;
        } else {
            out.extend_from_slice(parameter);
        }
    }
    if !placed {
        if out.len() > query_starts {
            out.push(b'&');
        }
        push_parameter(&mut out, token);
    }
    out
}

fn push_parameter(out: &mut Vec<u8>, token: &str) {
    out.extend_from_slice(PARAMETER);
    out.push(b'=');
    out.extend_from_slice(token.as_bytes());
}

/// Whether a server that decodes the name would take the parameter for the token.
fn names_token(parameter: &[u8]) -> bool {
    // Nearly every parameter is too short or begins otherwise.
    if parameter.len() < PARAMETER.len() || !matches!(parameter[0], b'a' | b'%') {
        return false;
    }
    let name = parameter.split(|byte| *byte == b'=').next();
    name.is_some_and(|name| name == PARAMETER || percent_decode(name).eq(PARAMETER.iter().copied()))
}

#[cfg(test)]
mod tests;
