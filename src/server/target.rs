//! Where a gateway passes a request on to: one origin, and the paths that are listed.

use axum::http::uri::{Parts, PathAndQuery};
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

/// They tell calls that were made before, with the token in their URL (WeChat's page "Query rid information").
const TELLING: [&str; 1] = ["/cgi-bin/openapi/rid/get"];

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
    pub(super) fn target<B>(&self, request: &Request<B>) -> Result<Uri, Refusal> {
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
        // None of WeChat's ends in one, and with one a token request would not be known as such.
        let is_listed = !path.ends_with('/')
            && self.paths.iter().any(|listed| match listed.ends_with('/') {
                true => path.starts_with(listed),
                false => path == *listed,
            });
        let is_telling = TELLING
            .iter()
            .any(|telling| path.eq_ignore_ascii_case(telling));
        if self.scope.target_at(&path) == Target::Token {
            // With one slash, it would not have come here.
            return Err(refuse(
                StatusCode::NOT_FOUND,
                "a token is asked for at /cgi-bin/token or /cgi-bin/stable_token, with one slash before it and none behind",
            ));
        }
        if !is_listed || is_telling || self.scope.target_at(&path) != Target::Api {
            return Err(refuse(
                StatusCode::NOT_FOUND,
                "api unauthorized: the gateway does not pass this path on, as it is not listed or takes another token",
            ));
        }
        let target = self.to(uri, &path);
        target.ok_or_else(|| refuse(StatusCode::URI_TOO_LONG, "the target is too long"))
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

    /// Whether a redirect to `location` stays with WeChat: at this origin, or at one of its hosts.
    pub(super) fn is_at(&self, location: &Uri) -> bool {
        let of_origin = location.authority() == self.origin.authority();
        let host = location.host().unwrap_or_default();
        let mut hosts = self.scope.platform().hosts().iter();
        of_origin || hosts.any(|own| own.eq_ignore_ascii_case(host))
    }

    pub(super) fn origin(&self) -> String {
        self.origin.to_string()
    }
}

fn refuse(status: StatusCode, errmsg: &str) -> Refusal {
    Refusal::with_status(status, 48001, errmsg)
}

/// Whether nobody reads another path in `path` than we do: no escapes, no dot segments, no backslashes, no parameters.
fn is_plain(path: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
    path.starts_with('/')
        && path
            .split('/')
            .all(|segment| segment.chars().all(is_plain) && !matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn upstream() -> Upstream {
        let paths = API.map(str::to_owned).to_vec();
        Upstream::new("https://api.weixin.qq.com", paths).unwrap()
    }

    fn target(uri: &str) -> Result<String, Refusal> {
        let request = Request::get(uri).body(()).unwrap();
        upstream().target(&request).map(|uri| uri.to_string())
    }

    #[test]
    fn a_listed_path_is_passed_on_byte_for_byte() {
        for path in [
            "/cgi-bin/menu/get?a=%2F..&access_token=x&b",
            "/wxa/getwxacodeunlimit",
        ] {
            assert_eq!(
                target(path).unwrap(),
                format!("https://api.weixin.qq.com{path}")
            );
        }
    }

    #[test]
    fn slashes_too_many_are_cleaned() {
        assert_eq!(
            target("//cgi-bin//menu/get").unwrap(),
            "https://api.weixin.qq.com/cgi-bin/menu/get"
        );
    }

    #[test]
    fn what_is_not_listed_or_takes_another_token_is_refused() {
        for path in [
            "/",
            "/cgi-bin",
            "/.env",
            "/sns/userinfo",
            "/cgi-bin/component/api_query_auth",
            "/cgi-bin/gettoken",
            "/cgi-bin/openapi/rid/get",
            "/cgi-bin/openapi//RID/get",
            "/cgi-bin/token",
            "//cgi-bin/token",
            "/cgi-bin/token/",
            "/cgi-bin/stable_token//",
            "/cgi-bin/menu/get/",
            "/cgi-bin/showqrcode",
        ] {
            assert!(target(path).is_err(), "{path}");
        }
    }

    #[test]
    fn no_path_can_be_read_as_another() {
        for path in [
            "/cgi-bin/../sns/userinfo",
            "/cgi-bin/%2e%2e/sns/userinfo",
            "/cgi-bin/..%2fsns/userinfo",
            "/cgi-bin/.%2e/x",
            "/cgi-bin/./x",
            "/cgi-bin/..",
            "/%73ns/userinfo",
            "/cgi-bin/..;/sns",
            "/cgi-bin/menu%00",
            "/cgi-bin/a:b@c",
        ] {
            assert!(target(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_target_that_names_a_host_is_refused_but_with_http_2() {
        for uri in [
            "http://evil.example/cgi-bin/menu/get",
            "https://api.weixin.qq.com/cgi-bin/menu/get",
        ] {
            assert!(target(uri).is_err(), "{uri}");
            let request = Request::get(uri).version(Version::HTTP_2).body(()).unwrap();
            let target = upstream().target(&request).unwrap();
            assert_eq!(target, "https://api.weixin.qq.com/cgi-bin/menu/get");
        }
    }

    #[test]
    fn only_wechats_methods_are_passed_on() {
        for (method, well) in [
            ("POST", true),
            ("HEAD", true),
            ("PUT", false),
            ("TRACE", false),
            ("X", false),
        ] {
            let request = Request::builder()
                .method(method)
                .uri("/cgi-bin/x")
                .body(())
                .unwrap();
            assert_eq!(upstream().target(&request).is_ok(), well, "{method}");
        }
    }

    #[test]
    fn a_path_without_a_slash_at_its_end_is_listed_alone() {
        let upstream = Upstream::new("http://h", vec!["/cgi-bin/menu/get".into()]).unwrap();
        let listed = |path: &str| {
            upstream
                .target(&Request::get(path).body(()).unwrap())
                .is_ok()
        };
        assert!(listed("/cgi-bin/menu/get"));
        assert!(!listed("/cgi-bin/menu/get/more"));
        assert!(!listed("/cgi-bin/menu/getter"));
    }

    #[test]
    fn an_upstream_that_is_none_is_told() {
        for origin in [
            "api.weixin.qq.com",
            "ftp://h",
            "http://h/path",
            "http://h?q",
            "http://u@h",
            "",
        ] {
            assert!(Upstream::new(origin, Vec::new()).is_err(), "{origin}");
        }
        for path in ["cgi-bin/", "/a/../b", "/a b", ""] {
            assert!(
                Upstream::new("http://h", vec![path.into()]).is_err(),
                "{path}"
            );
        }
        assert!(Upstream::new("http://h:1/", Vec::new()).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_only_the_upstream_is_asked(path in "/[!-~]{0,60}") {
            let Ok(uri) = path.parse::<Uri>() else { return Ok(()) };
            let request = Request::get(uri).body(()).unwrap();
            if let Ok(target) = upstream().target(&request) {
                prop_assert_eq!(target.host(), Some("api.weixin.qq.com"));
                prop_assert!(API.iter().any(|folder| target.path().starts_with(folder)));
                prop_assert!(!target.path().contains(['%', '\\', ';']));
                prop_assert!(!target.path().split('/').any(|segment| segment == ".."));
            }
        }
    }
}
