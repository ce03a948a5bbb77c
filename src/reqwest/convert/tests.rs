use std::error::Error as _;

use proptest::prelude::*;

use super::*;

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

fn out_of(sent: &str, got: &str) -> String {
    Sent::to(url(sent)).out_of(url(got)).to_string()
}

#[test]
fn a_secret_that_was_sent_is_taken_out_of_the_replys_url() {
    for (sent, got) in [
        ("http://h/p?access_token=T", "http://h/p"),
        ("http://h/p?access_token=T&a=1", "http://h/p?a=1"),
        ("http://h/p?a=1&access_token=T", "http://h/p?a=1"),
        ("http://h/p?a=%20b&access_token=T&c", "http://h/p?a=%20b&c"),
        ("http://h/p?access%5Ftoken=T&a=1", "http://h/p?a=1"),
        ("http://h/p?appid=1&secret=S", "http://h/p?appid=1"),
        ("http://h/p?corpid=1&corpsecret=S", "http://h/p?corpid=1"),
        ("http://h/p?component_access_token=T", "http://h/p"),
        ("http://h/p?a=1&&b=", "http://h/p?a=1&&b="),
        ("http://h/p?", "http://h/p?"),
        ("http://h/p", "http://h/p"),
        ("http://h/p?access_token=", "http://h/p?access_token="),
    ] {
        assert_eq!(out_of(sent, sent), got, "{sent}");
    }
}

#[test]
fn a_redirect_may_have_written_it_differently() {
    let sent = "http://h/p?access_token=a%2Db%20c";
    assert_eq!(
        out_of(sent, "http://i/q?x=1&access_token=a-b%20c"),
        "http://i/q?x=1"
    );
    assert_eq!(
        out_of(sent, "http://i/q?%61ccess_token=a-b%20c"),
        "http://i/q"
    );
}

#[test]
fn a_redirect_may_have_put_the_whole_url_into_a_parameter() {
    assert_eq!(
        out_of(
            "http://h/p?access_token=0123456789abcdef",
            "http://i/login?back=http%3A%2F%2Fh%2Fp%3Faccess%5Ftoken%3D0123456789abcdef&a=1"
        ),
        "http://i/login"
    );
}

#[test]
fn what_was_not_sent_is_the_replys_own() {
    // As an identity provider's redirect gives it to whoever asked for it.
    let got = "http://i/q?access_token=theirs";
    assert_eq!(out_of("http://h/p?access_token=ours", got), got);
    assert_eq!(out_of("http://h/p", got), got);
}

#[test]
fn an_error_that_tells_nothing_stays_reqwests_own() {
    let sent = Sent::to(url("http://h/p?access_token=0123456789abcdef"));
    let error = Request::try_from(http::Request::new(Body::default())).unwrap_err();
    let error = sent.out_of_error(error.with_url(url("http://h/p?access_token=0123456789abcdef")));
    assert!(error.is_builder() && error.url().is_none());
}

#[test]
fn an_error_that_tells_a_secret_within_is_replaced() {
    let sent = Sent::to(url("http://h/p?access_token=0123456789abcdef&a=1"));
    for told in [
        "not to http://i/q?access_token=0123456789abcdef",
        "Authorization: Bearer 0123456789abcdef",
    ] {
        let error = sent.out_of_error(failure(told.to_owned()));
        assert!(!sent.is_told_by(&error), "{error:?}");
        assert!(error.source().unwrap().to_string().contains("body error"));
    }
    let short = Sent::to(url("http://h/p?access_token=body"));
    let error = short.out_of_error(failure("nothing".to_owned()));
    assert_eq!(
        error.source().unwrap().to_string(),
        "nothing",
        "a word is no secret"
    );
}

#[test]
fn a_failure_says_what_it_is_told_to_say() {
    let error = failure("the sky fell".to_owned());
    assert_eq!(error.source().unwrap().to_string(), "the sky fell");
    assert!(error.url().is_none());
}

proptest! {
    #[test]
    fn whatever_the_query_only_the_secret_goes(
        before in "([a-z%&=]{0,12}&)?",
        after in "(&[a-z%&=]{0,12})?",
        token in "[A-Za-z0-9_-]{16,64}",
    ) {
        let sent = url(&format!("http://h/p?{before}access_token={token}{after}"));
        let got = Sent::to(sent.clone()).out_of(sent.clone());
        prop_assert!(!got.as_str().contains(&token));
        let others = |url: &Url| {
            let query = url.query().unwrap_or_default().to_owned();
            let pairs = query.split('&').filter(|pair| !pair.contains(&token));
            pairs.map(str::to_owned).collect::<Vec<_>>().join("&")
        };
        prop_assert_eq!(others(&got), others(&sent));
    }
}
