use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn token(secret: &str) -> AccessToken {
    AccessToken::new(secret, Duration::from_secs(7200))
}

fn uri(uri: &str) -> Uri {
    uri.parse().expect(uri)
}

fn with(before: &str, secret: &str) -> String {
    let after = with_token(&uri(before), &token(secret)).unwrap();
    after.to_string()
}

// R1: the token into the query.

/// What a server makes of `%xx`; written apart from the crate that the code uses.
fn decoded(text: &str) -> Vec<u8> {
    let (mut rest, mut out) = (text.as_bytes(), Vec::new());
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = hex
            .filter(|two| *first == b'%' && two.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    out
}

fn parameters(uri: &Uri) -> Vec<String> {
    match uri.query() {
        None | Some("") => Vec::new(),
        Some(query) => query.split('&').map(str::to_owned).collect(),
    }
}

fn names_a_token(parameter: &str) -> bool {
    decoded(parameter.split('=').next().unwrap()) == b"access_token"
}

fn a_parameter() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            "=",
            "==",
            "a=1",
            "type=image",
            "next_openid=%E4%BD%A0",
            "access_token",
            "access_token=",
            "access_token=OLD",
            "access_token=a=b",
            "%61ccess_token=OLD",
            "access%5Ftoken",
            "access%5ftoken=%26",
            "%61%63%63%65%73%73%5F%74%6F%6B%65%6E=x",
            "access_token%=x",
            "access_token%00=x",
            "%2561ccess_token=x",
            "Access_Token=x",
            "xaccess_token=x",
            "access_tokens=x",
            "redirect=https://h/?access_token=x",
            "%",
            "%6",
            "%zz=%",
            "a?b=/c",
        ])
        .prop_map(str::to_owned),
        "[A-Za-z0-9%=+.~_/?:@!$'()*,;-]{0,12}",
    ]
}

prop_compose! {
    fn a_uri()(
        origin in prop::sample::select(vec![
            "", "https://api.weixin.qq.com", "http://user:pw@127.0.0.1:8080", "http://[::1]",
        ]),
        path in prop::sample::select(vec!["/", "/cgi-bin/menu/get", "//a//b/", "/%E4%BD", "/a:b@c"]),
        query in prop::option::of(prop::collection::vec(a_parameter(), 0..7)),
    ) -> Uri {
        let query = query.map_or(String::new(), |query| format!("?{}", query.join("&")));
        uri(&format!("{origin}{path}{query}"))
    }
}

fn a_secret() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[\r\n&#%=+ ?\u{4f60}a_-]{0,20}"]
}

proptest! {
    #[test]
    fn exactly_one_parameter_names_the_token_and_its_value_is_the_token(
        before in a_uri(), secret in a_secret(),
    ) {
        let after = with_token(&before, &token(&secret)).unwrap();
        let parameters = parameters(&after);
        let named: Vec<_> = parameters.iter().filter(|p| names_a_token(p)).collect();
        prop_assert_eq!(named.len(), 1);
        let value = named[0].strip_prefix("access_token=").unwrap();
        prop_assert_eq!(decoded(value), secret.as_bytes());
        // So that one who reads `+` as a space reads the same.
        prop_assert!(!value.contains('+'));
    }

    #[test]
    fn every_other_parameter_stays_byte_for_byte_and_in_order(
        before in a_uri(), secret in a_secret(),
    ) {
        let others = |uri: &Uri| -> Vec<_> {
            parameters(uri).into_iter().filter(|p| !names_a_token(p)).collect()
        };
        let after = with_token(&before, &token(&secret)).unwrap();
        prop_assert_eq!(others(&after), others(&before));
    }

    #[test]
    fn the_token_is_replaced_where_it_stood_and_else_appended(
        before in a_uri(), secret in a_secret(),
    ) {
        let place = |uri: &Uri| parameters(uri).iter().position(|p| names_a_token(p));
        let after = with_token(&before, &token(&secret)).unwrap();
        let expected = place(&before).unwrap_or(parameters(&before).len());
        prop_assert_eq!(place(&after), Some(expected));
    }

    #[test]
    fn scheme_authority_and_path_stay(before in a_uri(), secret in a_secret()) {
        let after = with_token(&before, &token(&secret)).unwrap();
        prop_assert_eq!(after.scheme(), before.scheme());
        prop_assert_eq!(after.authority(), before.authority());
        prop_assert_eq!(after.path(), before.path());
    }

    /// A replay is built from the original URI, and a layer around a layer changes nothing.
    #[test]
    fn only_the_last_token_counts(before in a_uri(), one in a_secret(), two in a_secret()) {
        let (one, two) = (token(&one), token(&two));
        let twice = with_token(&with_token(&before, &one).unwrap(), &two).unwrap();
        prop_assert_eq!(twice, with_token(&before, &two).unwrap());
    }

    #[test]
    fn no_uri_makes_it_panic(text in "\\PC{0,40}", secret in a_secret()) {
        if let Ok(uri) = text.parse::<Uri>() {
            let _ = with_token(&uri, &token(&secret));
            let _ = Scope::default().target(&uri);
        }
    }
}

#[test]
fn a_uri_without_a_query_gets_one() {
    assert_eq!(
        with("https://api.weixin.qq.com/a", "t"),
        "https://api.weixin.qq.com/a?access_token=t"
    );
    assert_eq!(with("/a?", "t"), "/a?access_token=t");
}

#[test]
fn a_uri_without_a_path_gets_a_query_too() {
    for before in ["https://api.weixin.qq.com", "https://api.weixin.qq.com?"] {
        let after = with_token(&uri(before), &token("t")).unwrap();
        assert_eq!(after.path(), "/", "{before}");
        assert_eq!(after.query(), Some("access_token=t"), "{before}");
    }
    let after = with_token(&uri("https://api.weixin.qq.com?a=1"), &token("t")).unwrap();
    assert_eq!(
        (after.path(), after.query()),
        ("/", Some("a=1&access_token=t"))
    );
}

#[test]
fn a_second_token_parameter_is_dropped() {
    assert_eq!(
        with(
            "/a?access_token=1&b=2&%61ccess_token=3&c=4&access_token",
            "t"
        ),
        "/a?access_token=t&b=2&c=4"
    );
}

#[test]
fn empty_parameters_stay() {
    assert_eq!(with("/a?&&b&", "t"), "/a?&&b&&access_token=t");
}

#[test]
fn what_is_no_target_for_a_token_is_no_panic_either() {
    for target in ["*", "api.weixin.qq.com:443", "api.weixin.qq.com"] {
        let _ = with_token(&uri(target), &token("t"));
    }
}

#[test]
fn a_uri_that_becomes_too_long_is_none() {
    let longest = format!("/{}", "a".repeat(65_000));
    assert!(with_token(&uri(&longest), &token("t")).is_some());
    assert_eq!(with_token(&uri(&longest), &token(&"t".repeat(1_000))), None);
    assert_eq!(with_token(&uri("/a"), &token(&"t".repeat(70_000))), None);
}

// R2: which requests may be sent the token.

#[track_caller]
fn assert_targets(scope: &Scope, expected: Target, uris: &[&str]) {
    for target in uris {
        assert_eq!(scope.target(&uri(target)), expected, "{target}");
    }
}

fn scope(platform: Platform, origins: &[&str]) -> Scope {
    let mut scope = Scope::default();
    scope.set_platform(platform);
    for origin in origins {
        scope.add(BaseUrl::parse(origin).expect(origin));
    }
    scope
}

#[test]
fn the_platforms_own_hosts_get_the_token_in_any_case_and_with_the_default_port() {
    assert_targets(
        &Scope::default(),
        Target::Api,
        &[
            "https://api.weixin.qq.com/cgi-bin/menu/get",
            "https://api2.weixin.qq.com/a",
            "https://sh.api.weixin.qq.com/a",
            "https://sz.api.weixin.qq.com/a",
            "https://hk.api.weixin.qq.com/a",
            "https://api.wechat.com/a",
            "https://api.weixin.qq.com",
            "https://api.weixin.qq.com:443/a",
            "https://API.Weixin.QQ.com/a",
            "HTTPS://api.weixin.qq.com/a",
        ],
    );
}

#[test]
fn without_tls_or_on_another_port_nobody_gets_the_token() {
    assert_targets(
        &Scope::default(),
        Target::Elsewhere,
        &[
            "http://api.weixin.qq.com/a",
            "http://api.weixin.qq.com:443/a",
            "https://api.weixin.qq.com:80/a",
            "https://api.weixin.qq.com:8443/a",
            "https://api.weixin.qq.com:99999/a",
            "https://api.weixin.qq.com:/a",
            "ftp://api.weixin.qq.com/a",
            "wss://api.weixin.qq.com/a",
        ],
    );
}

#[test]
fn a_host_that_only_looks_like_wechats_gets_no_token() {
    assert_targets(
        &Scope::default(),
        Target::Elsewhere,
        &[
            "https://api.weixin.qq.com.evil.com/a",
            "https://evil.com/api.weixin.qq.com",
            "https://api.weixin.qq.com@evil.com/a",
            "https://api.weixin.qq.com:443@evil.com/a",
            "https://evil.com?https://api.weixin.qq.com/a",
            "https://evilapi.weixin.qq.com/a",
            "https://weixin.qq.com/a",
            "https://x.api.weixin.qq.com/a",
            "https://api.weixin.qq.com./a",
            "https://qyapi.weixin.qq.com/a",
            // Articles, and no API.
            "https://mp.weixin.qq.com/s?__biz=a",
            "https://127.0.0.1/a",
            "https://[::1]/a",
        ],
    );
}

#[test]
fn a_user_in_front_of_wechats_host_changes_nothing() {
    let uris = [
        "https://user:pw@api.weixin.qq.com/a",
        "https://evil.com@api.weixin.qq.com/a",
    ];
    assert_targets(&Scope::default(), Target::Api, &uris);
}

#[test]
fn an_origin_that_was_named_gets_the_token_and_its_neighbours_do_not() {
    let origins = [
        "http://127.0.0.1:8080",
        "https://Proxy.corp/",
        "http://[::1]:9",
    ];
    let scope = scope(Platform::OfficialAccount, &origins);
    assert_targets(
        &scope,
        Target::Api,
        &[
            "http://127.0.0.1:8080/a",
            "https://proxy.corp/a",
            "https://proxy.corp:443/a",
            "http://[::1]:9/a",
            "https://api.weixin.qq.com/a",
        ],
    );
    assert_targets(
        &scope,
        Target::Elsewhere,
        &[
            "https://127.0.0.1:8080/a",
            "http://127.0.0.1/a",
            "http://127.0.0.1:80801/a",
            "http://proxy.corp/a",
            "http://proxy.corp:443/a",
            "https://proxy.corp.evil.com/a",
        ],
    );
}

#[test]
fn below_a_prefix_paths_are_read_from_there_on() {
    for slash in ["", "/"] {
        let base = format!("http://proxy/wx{slash}");
        let scope = scope(Platform::OfficialAccount, &[&base]);
        for (target, uris) in [
            (
                Target::Api,
                &[
                    "http://proxy/wx/cgi-bin/menu/get",
                    "http://PROXY:80/wx/cgi-bin/menu/get",
                    "http://proxy//wx//cgi-bin/menu/get",
                    "http://proxy/wx",
                    "http://proxy/wx?a",
                    "http://proxy/wx/wx/sns/userinfo",
                ][..],
            ),
            (
                Target::Exempt,
                &[
                    "http://proxy/wx/sns/userinfo?access_token=USER",
                    "http://proxy/wx//sns/userinfo",
                    "http://proxy//wx/sns/userinfo",
                    "http://proxy/wx/cgi-bin/component/api_query_auth",
                    "http://proxy/wx/cgi-bin/gettoken",
                    "http://proxy/wx/../sns/userinfo",
                    "http://proxy/wx/%2e%2e/sns/userinfo",
                    "http://proxy/wx/%73ns/userinfo",
                ],
            ),
            (
                Target::Token,
                &[
                    "http://proxy/wx/cgi-bin/token?appid=a",
                    "http://proxy/wx//cgi-bin/stable_token",
                ],
            ),
            (
                Target::Elsewhere,
                &[
                    "http://proxy/cgi-bin/menu/get",
                    "http://proxy/",
                    "http://proxy/wxa/cgi-bin/menu/get",
                    "http://proxy/WX/cgi-bin/menu/get",
                    "http://proxy/x/wx/cgi-bin/menu/get",
                    "http://proxy/a/../wx/cgi-bin/menu/get",
                    "http://proxy/%77x/cgi-bin/menu/get",
                    "http://proxy/wx%2fcgi-bin/menu/get",
                    "https://proxy/wx/cgi-bin/menu/get",
                    "http://proxy:8080/wx/cgi-bin/menu/get",
                    "http://proxy/cgi-bin/token",
                ],
            ),
        ] {
            assert_targets(&scope, target, uris);
        }
    }
}

#[test]
fn the_longest_prefix_wins() {
    // Whichever is named first.
    for bases in [
        ["http://proxy", "http://proxy/a", "http://proxy/a/b"],
        ["http://proxy/a/b", "http://proxy/a", "http://proxy"],
    ] {
        let scope = scope(Platform::OfficialAccount, &bases);
        let exempt = [
            "http://proxy/sns/x",
            "http://proxy/a/sns/x",
            "http://proxy/a/b/sns/x",
            // What a server makes of it that decodes it.
            "http://proxy/%61/b/sns/x",
            "http://proxy/a%2Fb/sns/x",
        ];
        assert_targets(&scope, Target::Exempt, &exempt);
        let api = ["http://proxy/b/sns/x", "http://proxy/a/c/sns/x"];
        assert_targets(&scope, Target::Api, &api);
    }
    let own = scope(
        Platform::OfficialAccount,
        &["https://api.weixin.qq.com/inner"],
    );
    for (target, uri) in [
        (Target::Exempt, "https://api.weixin.qq.com/sns/x"),
        (Target::Exempt, "https://api.weixin.qq.com/inner/sns/x"),
        (Target::Api, "https://api.weixin.qq.com/cgi-bin/x"),
        (Target::Api, "https://api2.weixin.qq.com/inner/sns/x"),
    ] {
        assert_targets(&own, target, &[uri]);
    }
}

#[test]
fn a_path_of_its_own_is_read_as_it_is_and_below_each_prefix() {
    let bases = ["http://proxy/wx", "http://other/a/b", "http://127.0.0.1:1"];
    let scope = scope(Platform::OfficialAccount, &bases);
    for (target, uris) in [
        (
            Target::Exempt,
            &[
                "/sns/userinfo",
                "/wx/sns/userinfo",
                "//wx//sns/userinfo",
                "/a/b/sns/userinfo",
                "/wx/../sns/userinfo",
                "/%77x/sns/userinfo",
            ][..],
        ),
        (
            Target::Token,
            &[
                "/cgi-bin/token",
                "/wx/cgi-bin/token",
                "/a/b/cgi-bin/stable_token",
            ],
        ),
        (
            Target::Api,
            &[
                "/cgi-bin/menu/get",
                "/wx/cgi-bin/menu/get",
                "/a/sns/userinfo",
                "/wx",
            ],
        ),
        (Target::Elsewhere, &["*"]),
    ] {
        assert_targets(&scope, target, uris);
    }
}

proptest! {
    /// The rule of R2, told in another way: below a base URL all is as it is at the root.
    #[test]
    fn a_prefix_changes_nothing_but_where_paths_begin(
        prefix in "(/[a-z]{1,3}){1,3}",
        slashes in "/{0,2}",
        path in prop_oneof![
            "(/[a-z%.0-9]{0,4}){0,4}",
            prop::sample::select(vec![
                "/sns/userinfo", "/cgi-bin/token", "/cgi-bin/stable_token", "/cgi-bin/menu/get",
                "/cgi-bin/component/x", "/%73ns/x", "/../sns/x", "//sns//x", "/cgi-bin/./token",
            ]).prop_map(str::to_owned),
        ],
    ) {
        let base = format!("http://proxy{prefix}{slashes}");
        let below = scope(Platform::OfficialAccount, &[&base]);
        let Ok(uri) = format!("http://proxy{prefix}{path}").parse::<Uri>() else { return Ok(()) };
        let root = scope(Platform::OfficialAccount, &["http://proxy"]);
        let at_root = self::uri(&format!("http://proxy{path}"));
        prop_assert_eq!(below.target(&uri), root.target(&at_root));
        // A path of its own gets the token only if no reading of it says otherwise.
        let bare = self::uri(&format!("{prefix}{path}"));
        if below.target(&uri) != Target::Api {
            prop_assert_ne!(below.target(&bare), Target::Api);
        }
    }
}

#[test]
fn a_path_of_its_own_gets_the_token_and_a_star_does_not() {
    assert_targets(
        &Scope::default(),
        Target::Api,
        &["/cgi-bin/menu/get", "/", "/a?b"],
    );
    // `OPTIONS *` and `CONNECT host:port` name no API.
    let uris = ["*", "api.weixin.qq.com:443", "api.weixin.qq.com"];
    assert_targets(&Scope::default(), Target::Elsewhere, &uris);
}

#[test]
fn a_path_that_takes_another_token_or_none_is_left_alone() {
    for base in ["", "https://api.weixin.qq.com"] {
        for path in [
            "/sns/userinfo?access_token=USER",
            "//sns/userinfo",
            "/sns//userinfo",
            "/cgi-bin/component/api_component_token",
            "/cgi-bin//component/api_component_token",
            "/cgi-bin/showqrcode?ticket=T",
            "/cgi-bin/clear_quota/v2",
            "/cgi-bin/clear_quota//v2",
            "/cgi-bin/webhook/send",
            "/cgi-bin/service/get_corp_token",
        ] {
            let target = format!("{base}{path}");
            assert_targets(&Scope::default(), Target::Exempt, &[&target]);
        }
    }
}

#[test]
fn a_path_that_is_another_once_it_is_resolved_is_left_alone() {
    // reqwest resolves dot segments when it is given such a URI.
    assert_targets(
        &scope(Platform::OfficialAccount, &[]),
        Target::Exempt,
        &[
            "/cgi-bin/../sns/userinfo",
            "/cgi-bin/%2e%2E/sns/userinfo",
            "/cgi-bin/./token",
            "/cgi-bin/menu/get/..",
            "/cgi-bin%2f..%2fsns/userinfo",
            "/%73ns/userinfo",
            "/%2fsns%2fuserinfo",
            "/cgi-bin/clear%5Fquota/v2",
            "/cgi-bin/%74oken",
        ],
    );
    assert_targets(
        &scope(Platform::OfficialAccount, &[]),
        Target::Api,
        &["/cgi-bin/...", "/.well-known/a", "/%2Ea", "/a.b/c."],
    );
}

#[test]
fn a_path_that_only_begins_like_an_exempt_one_gets_the_token() {
    let uris = [
        "/cgi-bin/tokens",
        "/cgi-bin/token/",
        "/snsx/a",
        "/cgi-bin/clear_quota",
        "/x/sns/a",
    ];
    assert_targets(&Scope::default(), Target::Api, &uris);
}

#[test]
fn a_token_request_is_known_whatever_its_slashes() {
    assert_targets(
        &Scope::default(),
        Target::Token,
        &[
            "https://api.weixin.qq.com/cgi-bin/token?grant_type=client_credential",
            "https://api.weixin.qq.com//cgi-bin/token",
            "https://api.weixin.qq.com/cgi-bin//token",
            "///cgi-bin///stable_token",
        ],
    );
    // Somebody else's token request is none of ours.
    let elsewhere = ["https://evil.com/cgi-bin/token"];
    assert_targets(&Scope::default(), Target::Elsewhere, &elsewhere);
}

#[test]
fn wecom_has_its_own_host_and_token_path() {
    let scope = scope(Platform::WeCom, &[]);
    assert_targets(
        &scope,
        Target::Api,
        &["https://qyapi.weixin.qq.com/cgi-bin/user/get"],
    );
    assert_targets(
        &scope,
        Target::Token,
        &["https://qyapi.weixin.qq.com/cgi-bin/gettoken"],
    );
    let elsewhere = ["https://api.weixin.qq.com/cgi-bin/menu/get"];
    assert_targets(&scope, Target::Elsewhere, &elsewhere);
    assert_targets(&scope, Target::Exempt, &["/cgi-bin/token"]);
}

proptest! {
    #[test]
    fn no_made_up_host_gets_the_token(
        host in "[a-z0-9.-]{0,12}(api\\.weixin\\.qq\\.com)?[a-z0-9.@:-]{0,12}",
    ) {
        let Ok(uri) = format!("https://{host}/a").parse::<Uri>() else { return Ok(()) };
        let own = uri.host().is_some_and(|host| {
            Platform::OfficialAccount.hosts().contains(&host)
        });
        let asked = Scope::default().target(&uri) == Target::Api;
        prop_assert!(!asked || (own && matches!(uri.port_u16(), None | Some(443))));
    }
}

// R2: a query that names another credential.

/// The rule again, in other words: names are decoded, and the account's token outweighs all.
fn expected_other(query: &str) -> bool {
    let names = || {
        query
            .split('&')
            .map(|p| decoded(p.split('=').next().unwrap()))
    };
    names().any(|name| name.ends_with(b"_access_token"))
        && !names().any(|name| name == b"access_token")
}

#[test]
fn a_query_that_names_another_credential_is_known_in_any_writing() {
    for query in [
        "component_access_token=C",
        "suite_access_token=S",
        "provider_access_token=P",
        "cloudbase_access_token=B",
        "authorizer_access_token=A",
        "a=1&component_access_token=C&b",
        "component_access_token",
        "%63omponent_access_token=C",
        "component%5Faccess%5ftoken=C",
        "component_access_toke%6E=C",
    ] {
        assert!(names_other_credential(query), "{query}");
    }
    for query in [
        "",
        "access_token=T",
        "component_access_token=C&access_token=T",
        "access%5Ftoken=T&component_access_token=C",
        "component_access_tokens=C",
        "componentaccess_token=C",
        "component_access_token%00=C",
        "a=component_access_token",
        "redirect=https://h/?component_access_token=C",
        "component%255Faccess_token=C",
        "Component_Access_Token=C",
    ] {
        assert!(!names_other_credential(query), "{query}");
    }
}

proptest! {
    #[test]
    fn a_query_names_another_credential_if_and_only_if_the_rule_says_so(
        parameters in prop::collection::vec(
            prop_oneof![
                a_parameter(),
                "(component|suite|%5f|x)?(_|%5F|%5f|-)access(_|%5F)toke(n|%6e|s)(=[a-z&%]{0,4})?",
                "[ -~]{0,30}",
            ],
            0..5,
        ),
    ) {
        let query = parameters.join("&");
        prop_assert_eq!(names_other_credential(&query), expected_other(&query), "{}", query);
        let names_own = query.split('&').any(names_a_token);
        prop_assert_eq!(has_token(&query), names_own);
    }
}
