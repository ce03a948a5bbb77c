use proptest::prelude::*;

use super::*;

fn upstream() -> Upstream {
    let paths = API.map(str::to_owned).to_vec();
    Upstream::new("https://api.weixin.qq.com", paths).unwrap()
}

fn target(uri: &str) -> Result<String, NoTarget> {
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
