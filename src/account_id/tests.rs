use proptest::prelude::*;

use super::*;

fn named(query: &str) -> bool {
    let asked = Asked::in_query(Platform::OfficialAccount, query);
    asked.is_some_and(|asked| AccountId::appid("wx0").is_meant(&asked))
}

#[test]
fn an_appid_in_the_query_is_named_once_and_in_any_writing() {
    for query in [
        "appid=wx0",
        "grant_type=client_credential&appid=wx0&secret=s",
        "%61ppid=%77x0",
        "secret=appid&appid=wx0",
    ] {
        assert!(named(query), "{query}");
    }
    for query in [
        "",
        "appid",
        "appid=",
        "appid=wx1",
        "appid=wx0&appid=wx0",
        "appid=wx1&appid=wx0",
        "appid=wx0&%61ppid=wx1",
        "appid=wx0%ff",
        "APPID=wx0",
        "xappid=wx0",
        "appid=WX0",
        "corpid=wx0&corpsecret=s",
    ] {
        assert!(!named(query), "{query}");
    }
}

#[test]
fn an_application_of_wecoms_is_told_by_its_secret() {
    let account = AccountId::wecom("ww0", "se&cret");
    let named = |query| {
        let asked = Asked::in_query(Platform::WeCom, query);
        asked.is_some_and(|asked| account.is_meant(&asked))
    };
    assert!(named("corpid=ww0&corpsecret=se%26cret"));
    for query in [
        "corpid=ww0",
        "corpid=ww0&corpsecret=",
        "corpid=ww0&corpsecret=se%26cre",
        "corpid=ww0&corpsecret=se%26crets",
        "corpid=ww1&corpsecret=se%26cret",
        "corpid=ww0&corpsecret=se%26cret&corpsecret=x",
        "appid=ww0",
    ] {
        assert!(!named(query), "{query}");
    }
    let asked = Asked::in_query(Platform::WeCom, "corpid=ww0&corpsecret=ww0");
    assert!(!AccountId::appid("ww0").is_meant(&asked.unwrap()));
    assert!(!format!("{account:?}{account:#?}").contains("cret"));
}

#[test]
fn an_appid_in_json_is_a_field_of_the_object_and_there_once() {
    let well = |text: &str| InJson::look(text.as_bytes()) == InJson::Known(Some("wx0".into()));
    for text in [
        r#"{"appid":"wx0"}"#,
        "\u{feff}\n {\"grant_type\":\"client_credential\",\"appid\":\"wx0\",\"secret\":\"s\"}\n",
        r#"{"a":{"appid":"wx1"},"\u0061ppid":"w\u00780","force_refresh":false}"#,
    ] {
        assert!(well(text), "{text}");
    }
    for text in [
        "x",
        "[]",
        "null",
        "{}",
        r#"{"appid":""}"#,
        r#"{"appid":null}"#,
        r#"{"appid":["wx0"]}"#,
        r#"{"appid":"wx1","appid":"wx0"}"#,
        r#"{"a":{"appid":"wx0"}}"#,
        r#"{"appid":"wx0",}"#,
        r#"{"appid":"wx0" "secret":"s"}"#,
    ] {
        assert_eq!(InJson::look(text.as_bytes()), InJson::Known(None), "{text}");
    }
}

proptest! {
    #[test]
    fn a_part_of_an_object_is_not_known_yet(cut in 0_usize..60, appid in "[a-z]{1,9}") {
        let whole = format!(r#"{{"secret":"a\"}}b","appid":"{appid}","force_refresh":true}}"#);
        let cut = cut.min(whole.len() - 1);
        prop_assert_eq!(InJson::look(&whole.as_bytes()[..cut]), InJson::More);
        let known = InJson::Known(Some(appid));
        prop_assert_eq!(InJson::look(whole.as_bytes()), known);
    }

    #[test]
    fn no_bytes_make_it_panic(text: Vec<u8>, query in "\\PC{0,40}") {
        InJson::look(&text);
        named(&query);
    }

    #[test]
    fn secrets_are_the_same_when_they_are(one in "[ab]{0,4}", other in "[ab]{0,4}") {
        prop_assert_eq!(same(&one, &other), one == other);
    }
}
