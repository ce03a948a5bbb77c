//! Base URLs: where an API lives, and which paths are below it.

use std::borrow::Cow;
use std::fmt;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use percent_encoding::percent_decode;

/// A scheme, a host, maybe a port, and maybe a path prefix.
///
/// The one place that says what a base URL is. A slash at its end changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    /// Empty, or `/` and whole segments, without a slash at the end.
    prefix: String,
    /// As it was given, without a slash at the end.
    text: String,
}

/// A text is no base URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoBaseUrl;

impl fmt::Display for NoBaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a base URL is http:// or https://, a host, and maybe a port and a path: no user, no \
             query, no dot segments",
        )
    }
}

impl std::error::Error for NoBaseUrl {}

impl BaseUrl {
    /// Reads `text`.
    ///
    /// # Errors
    ///
    /// When it is no base URL. The error does not print it: it may hold a password.
    pub(crate) fn parse(text: &str) -> Result<BaseUrl, NoBaseUrl> {
        let text = text.trim_end_matches('/');
        // `Uri` drops a fragment without a word.
        if text.contains(['?', '#', '\\']) {
            return Err(NoBaseUrl);
        }
        let parts = text.parse::<Uri>().map_err(|_| NoBaseUrl)?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(NoBaseUrl);
        };
        let path = parts.path_and_query;
        let path = single_slashes(path.as_ref().map_or("/", PathAndQuery::path));
        if authority.as_str().contains('@') || has_dot_segments(&path) {
            return Err(NoBaseUrl);
        }
        Ok(BaseUrl {
            port: port(&scheme, &authority).ok_or(NoBaseUrl)?,
            host: authority.host().to_owned(),
            prefix: path.trim_end_matches('/').to_owned(),
            text: text.to_owned(),
            scheme,
        })
    }

    /// As it was given, without a slash at its end: a path can be put behind it.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The path that all others are below: empty, or one that begins with a slash and ends without.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether a request goes to this scheme, host and port.
    pub(crate) fn is_origin_of(&self, scheme: &Scheme, host: &str, port: u16) -> bool {
        self.scheme == *scheme && self.port == port && self.host.eq_ignore_ascii_case(host)
    }

    /// What of `path`, which has single slashes, is below the prefix; `None` if it is not below it.
    pub(crate) fn below<'p>(&self, path: &'p str) -> Option<&'p str> {
        match path.strip_prefix(&*self.prefix)? {
            "" => Some("/"),
            // Whole segments: `/wxa` is not below `/wx`.
            rest if rest.starts_with('/') => Some(rest),
            _ => None,
        }
    }
}

/// The port that is meant; `None` for a strange scheme and for a port that is no number.
pub(crate) fn port(scheme: &Scheme, authority: &Authority) -> Option<u16> {
    match authority.port() {
        Some(port) => Some(port.as_u16()).filter(|_| is_http(scheme)),
        // `host:` and `host:99999` have no port that `http` would give, and are not the default.
        None if !authority.as_str().ends_with(authority.host()) => None,
        None if *scheme == Scheme::HTTPS => Some(443),
        None if *scheme == Scheme::HTTP => Some(80),
        None => None,
    }
}

fn is_http(scheme: &Scheme) -> bool {
    *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS
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
pub(crate) fn has_dot_segments(path: &str) -> bool {
    // Nearly every path has neither of these.
    memchr::memchr2(b'.', b'%', path.as_bytes()).is_some() && path.split('/').any(is_dots)
}

fn is_dots(segment: &str) -> bool {
    let decoded: Cow<'_, [u8]> = percent_decode(segment.as_bytes()).into();
    matches!(&*decoded, b"." | b"..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base(text: &str) -> BaseUrl {
        BaseUrl::parse(text).expect(text)
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for text in [
            "",
            "/",
            "127.0.0.1:8080",
            "proxy.corp",
            "ftp://proxy.corp",
            "ftp://proxy.corp:80",
            "https://proxy.corp?a",
            "https://proxy.corp/wx?a",
            "https://proxy.corp#a",
            "https://proxy.corp/wx#",
            "https://user@proxy.corp",
            "https://user:pw@proxy.corp/wx",
            "https://proxy.corp:99999",
            "https://proxy.corp:",
            "https://proxy.corp/wx/..",
            "https://proxy.corp/./wx",
            "https://proxy.corp/%2e%2E/wx",
            "https://proxy.corp\\wx",
            "https://proxy.corp/w x",
            "https://",
        ] {
            assert_eq!(BaseUrl::parse(text), Err(NoBaseUrl), "{text}");
        }
    }

    #[test]
    fn a_slash_at_its_end_changes_nothing() {
        for (text, prefix) in [
            ("http://127.0.0.1:8080", ""),
            ("https://Proxy.corp", ""),
            ("http://[::1]:9", ""),
            ("http://proxy/wx", "/wx"),
            ("http://proxy/a/b.c", "/a/b.c"),
        ] {
            for slashes in ["", "/", "//"] {
                let base = base(&format!("{text}{slashes}"));
                assert_eq!((base.as_str(), base.prefix()), (text, prefix));
            }
        }
        assert_eq!(base("http://proxy//a///b").prefix(), "/a/b");
    }

    #[test]
    fn a_prefix_is_whole_segments() {
        let base = base("http://proxy/wx");
        for (path, below) in [
            ("/wx", Some("/")),
            ("/wx/", Some("/")),
            ("/wx/sns/userinfo", Some("/sns/userinfo")),
            ("/wxa/sns/userinfo", None),
            ("/WX/sns/userinfo", None),
            ("/sns/userinfo", None),
            ("/", None),
        ] {
            assert_eq!(base.below(path), below, "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_behind_a_base_url_is_below_it(
            origin in "https?://[a-z]{1,8}(:[1-9][0-9]{0,3})?",
            prefix in "(/[a-zA-Z0-9_-]{1,4}){0,3}",
            slashes in "/{0,2}",
            path in "(/[a-z0-9._%-]{0,5}){1,4}",
        ) {
            let base = base(&format!("{origin}{prefix}{slashes}"));
            let joined = format!("{}{path}", base.as_str());
            prop_assume!(joined.parse::<Uri>().is_ok());
            let uri: Uri = joined.parse().unwrap();
            let asked = single_slashes(uri.path());
            let below = base.below(&asked).map(str::to_owned);
            prop_assert_eq!(below.as_deref(), Some(&*single_slashes(&path)));
            let port = port(uri.scheme().unwrap(), uri.authority().unwrap()).unwrap();
            prop_assert!(base.is_origin_of(uri.scheme().unwrap(), uri.host().unwrap(), port));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}|https?://[!-~]{0,30}") {
            if let Ok(base) = BaseUrl::parse(&text) {
                prop_assert!(base.prefix().is_empty() || base.prefix().starts_with('/'));
                prop_assert!(!base.prefix().ends_with('/') && !base.as_str().ends_with('/'));
                prop_assert!(!has_dot_segments(base.prefix()));
                // It is one still when it is read again.
                prop_assert_eq!(BaseUrl::parse(base.as_str()), Ok(base));
            }
        }
    }
}
