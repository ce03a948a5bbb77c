//! The token into the query, and which requests get one.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use http::Uri;
use http::uri::{PathAndQuery, Scheme};
use memchr::memchr;
use memchr::memmem::Finder;
use percent_encoding::percent_decode;

use crate::base_url::{BaseUrl, has_dot_segments, port, single_slashes};
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
    bases: Vec<BaseUrl>,
}

impl Scope {
    pub(crate) fn platform(&self) -> Platform {
        self.platform
    }

    pub(crate) fn set_platform(&mut self, platform: Platform) {
        self.platform = platform;
    }

    pub(crate) fn add(&mut self, base: BaseUrl) {
        self.bases.push(base);
    }

    /// `None` when `origin` is not a base URL without a path.
    #[cfg(feature = "server")]
    pub(crate) fn try_add_origin(&mut self, origin: &str) -> Option<()> {
        let base = BaseUrl::parse(origin).ok()?;
        base.prefix().is_empty().then(|| self.bases.push(base))
    }

    pub(crate) fn target(&self, uri: &Uri) -> Target {
        let path = single_slashes(uri.path());
        let target = self.read(uri, &path);
        // Nearly every path has none.
        if memchr(b'%', path.as_bytes()).is_none() || target == Target::Elsewhere {
            return target;
        }
        // A server that decodes a path reads another one in it.
        let decoded = percent_decode(path.as_bytes()).decode_utf8_lossy();
        match self.read(uri, &single_slashes(&decoded)) {
            Target::Exempt | Target::Token => Target::Exempt,
            Target::Api | Target::Elsewhere => target,
        }
    }

    /// What a request to `uri` is whose path is `path`, with single slashes.
    fn read(&self, uri: &Uri, path: &str) -> Target {
        let Some(authority) = uri.authority() else {
            return self.anywhere(path);
        };
        let Some(scheme) = uri.scheme() else {
            return Target::Elsewhere;
        };
        // The usual case first: nothing has to be taken apart for it.
        if self.bases.is_empty()
            && *scheme == Scheme::HTTPS
            && self.platform.has_host(authority.as_str())
        {
            return self.target_at(path);
        }
        let Some(port) = port(scheme, authority) else {
            return Target::Elsewhere;
        };
        let host = authority.host();
        let bases = self.bases.iter();
        let bases = bases.filter(|base| base.is_origin_of(scheme, host, port));
        let below = bases.filter_map(|base| base.below(path));
        // The longest prefix leaves the shortest path.
        if let Some(path) = below.min_by_key(|below| below.len()) {
            return self.target_at(path);
        }
        if *scheme == Scheme::HTTPS && port == 443 && self.platform.has_host(host) {
            return self.target_at(path);
        }
        Target::Elsewhere
    }

    /// What a path of its own is: a service inside says where it goes, and may put a prefix before
    /// it or not. `OPTIONS *` goes nowhere.
    fn anywhere(&self, path: &str) -> Target {
        if !path.starts_with('/') {
            return Target::Elsewhere;
        }
        let prefixed = self.bases.iter().filter(|base| !base.prefix().is_empty());
        let below = prefixed.filter_map(|base| base.below(path));
        let mut readings = below.map(|path| self.target_at(path));
        let at_root = self.target_at(path);
        readings
            .try_fold(at_root, |target, reading| match (target, reading) {
                (Target::Exempt, _) | (_, Target::Exempt) => Err(Target::Exempt),
                (Target::Token, _) | (_, Target::Token) => Ok(Target::Token),
                _ => Ok(target),
            })
            .unwrap_or_else(|exempt| exempt)
    }

    /// What `path` says about a request to one of our hosts, below its base URL.
    pub(crate) fn target_at(&self, path: &str) -> Target {
        if self.platform.is_token_request(path) {
            Target::Token
        } else if self.platform.is_exempt(path) || has_dot_segments(path) {
            Target::Exempt
        } else {
            Target::Api
        }
    }

    /// Whether only TLS is missing.
    pub(crate) fn lacks_tls(&self, uri: &Uri) -> bool {
        uri.scheme() == Some(&Scheme::HTTP)
            && uri.host().is_some_and(|host| self.platform.has_host(host))
    }

    /// Whether the host is another platform's.
    pub(crate) fn is_other_platforms(&self, uri: &Uri) -> bool {
        let platform = uri.host().and_then(Platform::of_host);
        platform.is_some_and(|platform| platform != self.platform)
    }
}

/// Whether `query` names a credential other than the account's token, and not that as well.
///
/// Its name ends in `_access_token`, percent-encoded or not: `component_access_token`,
/// `suite_access_token`, `provider_access_token`, `cloudbase_access_token`.
pub(crate) fn names_other_credential(query: &str) -> bool {
    const SUFFIX: &[u8] = b"_access_token";
    static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(SUFFIX));

    let query = query.as_bytes();
    // Nearly every query is too short for one, or holds neither of these.
    if query.len() < SUFFIX.len() || (memchr(b'%', query).is_none() && FINDER.find(query).is_none())
    {
        return false;
    }
    let mut names_other = false;
    for parameter in query.split(|byte| *byte == b'&') {
        if names_token(parameter) {
            return false;
        }
        let name = parameter.split(|byte| *byte == b'=').next();
        let name: Cow<'_, [u8]> = percent_decode(name.unwrap_or_default()).into();
        names_other |= name.ends_with(SUFFIX);
    }
    names_other
}

/// Whether `query` names the account's token.
pub(crate) fn has_token(query: &str) -> bool {
    query
        .as_bytes()
        .split(|byte| *byte == b'&')
        .any(names_token)
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
