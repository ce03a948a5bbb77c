//! The examples as somebody runs them: what they print, what they send, and how they end.

mod support;

use std::process::Stdio;

use futures_util::future::join_all;
use support::nobody;
use support::programs::{APPID, MOCK_SECRET, SECRET, WRONG_SECRET, command, run};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tower_wechat::mock::{Failure, MockWechat};

/// All that end, but `redis`, which needs a redis-server: tests/redis_servers.rs.
const ALL: [&str; 6] = [
    "menu",
    "hyper_client",
    "reqwest_client",
    "reqwest_middleware",
    "wrap_sdk",
    "axum_app",
];

/// The example as a program for a real account, whose WeChat is at `base_url`.
fn real(example: &str, base_url: &str, secret: &str) -> Command {
    let mut command = command(example);
    command
        .env("WECHAT_APPID", APPID)
        .env("WECHAT_SECRET", secret)
        .env("WECHAT_BASE_URL", base_url);
    command
}

async fn wechat() -> MockWechat {
    MockWechat::builder().account(APPID, SECRET).start().await
}

fn paths(wechat: &MockWechat) -> Vec<String> {
    let requests = wechat.requests();
    requests.iter().map(|r| r.path().to_owned()).collect()
}

fn tokens(wechat: &MockWechat) -> Vec<String> {
    let requests = wechat.requests();
    let tokens = requests.iter().filter_map(|r| r.access_token());
    tokens.map(str::to_owned).collect()
}

#[test]
fn a_variable_that_a_program_needs_and_has_not_is_named() {
    // `env::var("X")?` ends a program with "NotPresent", which names nothing.
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = std::fs::read_dir(root.join("examples")).unwrap();
    let mut files: Vec<_> = examples.map(|file| file.unwrap().path()).collect();
    files.extend(["README.md", "README.zh-CN.md"].map(|name| root.join(name)));
    let mut reads = 0;
    for file in files.iter().filter(|file| file.is_file()) {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            if let Some((_, read)) = line.split_once("env::var(") {
                reads += 1;
                let next = read.split_once(')').map(|(_, next)| next);
                let bare = next.is_some_and(|next| next.starts_with(['?', ';']));
                assert!(!bare, "{}: {line}", file.display());
            }
        }
    }
    assert!(reads >= 12, "{reads}");
}

#[tokio::test]
async fn menu_without_environment_shows_one_replay() {
    let ended = run(command("menu")).await;
    ended.assert_well();

    let wire: Vec<&str> = ended
        .stdout
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("wire "))
        .collect();
    let words: Vec<Vec<&str>> = wire
        .iter()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let expected = [
        "GET /cgi-bin/token token none → token #1",
        "POST /cgi-bin/menu/create token #1 → errcode 0",
        "GET /cgi-bin/menu/get token #1 → errcode 0",
        "GET /cgi-bin/menu/get token #1 → errcode 40001",
        "GET /cgi-bin/token token none → token #2",
        "GET /cgi-bin/menu/get token #2 → errcode 0",
    ];
    let words: Vec<String> = words.iter().map(|words| words.join(" ")).collect();
    assert_eq!(words, expected);

    let replays = ended.stdout.matches("sent the request again").count();
    assert_eq!(replays, 1, "{}", ended.stdout);
    assert!(ended.stdout.contains("errcode 40001, got a new token"));
    assert!(ended.stdout.contains("rid of the rejection: "));
    for name in ["今日优惠", "门店", "附近门店", "预约到店", "联系客服"] {
        // Read before the token died, and after.
        let shown = ended.stdout.lines().filter(|line| {
            let line = line.trim_start();
            line.split_whitespace().next() == Some(name)
        });
        assert_eq!(shown.count(), 2, "{name}: {}", ended.stdout);
    }
}

#[tokio::test]
async fn hyper_client_and_axum_app_without_environment_survive_a_dead_token() {
    let ended = run(command("hyper_client")).await;
    ended.assert_well();
    assert_eq!(ended.stdout.matches("replayed: true").count(), 1);

    let ended = run(command("axum_app")).await;
    ended.assert_well();
    let lines = ended.stdout.lines();
    let replays = lines.filter(|line| line.contains("WeChat was asked twice"));
    assert_eq!(replays.count(), 2, "{}", ended.stdout);
}

#[tokio::test]
async fn reqwest_client_without_environment_dies_before_and_survives_after() {
    let ended = run(command("reqwest_client")).await;
    ended.assert_well();

    let lines: Vec<&str> = ended.stdout.lines().collect();
    let [live, _, dead, after_live, _, after_dead] = lines[..] else {
        panic!("{}", ended.stdout);
    };
    let well = r#"{"errcode":0,"errmsg":"ok"}"#;
    assert_eq!(live, format!("before: {well}"));
    assert!(
        dead.starts_with("before: WeChat says no: errcode 40001, "),
        "{dead}"
    );
    for line in [after_live, after_dead] {
        assert_eq!(line, format!("after:  {well}"));
    }
}

#[tokio::test]
async fn reqwest_middleware_without_environment_replays_what_met_a_dead_token() {
    let ended = run(command("reqwest_middleware")).await;
    ended.assert_well();

    let lines = ended.stdout.lines();
    let (warnings, lines): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains(" WARN "));
    let replays: Vec<&str> = lines.iter().copied().skip(1).step_by(2).collect();
    let expected = ["false", "true", "true", "true"];
    assert_eq!(
        replays,
        expected.map(|replayed| format!("  replayed: {replayed}"))
    );
    for (reply, what) in lines.iter().step_by(2).zip(["read", "read", "message"]) {
        assert!(reply.starts_with(what), "{reply}");
        assert!(reply.ends_with(r#"{"errcode":0,"errmsg":"ok"}"#), "{reply}");
    }
    assert!(lines[6].starts_with("upload"), "{}", lines[6]);
    assert!(lines[6].contains(r#""media_id":"media-"#), "{}", lines[6]);

    // Of the retry and of the layer, both in the span of the call.
    for target in ["reqwest_retry::", "tower_wechat::"] {
        let mut lines = warnings.iter().filter(|line| line.contains(target));
        let line = lines.next().expect("a warning");
        assert!(line.contains("http.request.method=GET"), "{line}");
    }
}

#[tokio::test]
async fn wrap_sdk_without_environment_fails_alone_and_survives_in_the_layer() {
    let ended = run(command("wrap_sdk")).await;
    ended.assert_well();

    let (alone, wrapped) = ended
        .stdout
        .split_once("The SDK in the layer\n")
        .expect("both parts");
    assert_eq!(alone.matches(": well").count(), 1, "{alone}");
    assert_eq!(alone.matches("code=40001").count(), 2, "{alone}");
    assert_eq!(wrapped.matches(": well").count(), 3, "{wrapped}");
    assert!(!wrapped.contains("error"), "{wrapped}");
}

#[tokio::test]
async fn the_secret_of_a_mock_in_an_example_is_one_that_is_looked_for() {
    assert_eq!(MockWechat::start().await.secret(), MOCK_SECRET);
}

#[tokio::test]
async fn a_real_accounts_menu_is_only_read() {
    let wechat = wechat().await;
    let ended = run(real("menu", &wechat.url(), SECRET)).await;
    ended.assert_well();
    ended.assert_no_secret(&tokens(&wechat));
    assert!(ended.stdout.contains("this account has no menu"));
    assert_eq!(paths(&wechat), ["/cgi-bin/token", "/cgi-bin/menu/get"]);
}

#[tokio::test]
async fn a_real_accounts_menu_is_replaced_when_that_is_asked_for() {
    let wechat = wechat().await;
    let mut command = real("menu", &wechat.url(), SECRET);
    command.arg("--create");
    let ended = run(command).await;
    ended.assert_well();
    ended.assert_no_secret(&tokens(&wechat));
    assert!(ended.stdout.contains("预约到店"), "{}", ended.stdout);
    assert_eq!(
        paths(&wechat),
        [
            "/cgi-bin/token",
            "/cgi-bin/menu/create",
            "/cgi-bin/menu/get"
        ]
    );
}

#[tokio::test]
async fn no_other_example_changes_anything_in_a_real_account() {
    for example in ALL.into_iter().filter(|example| *example != "menu") {
        let wechat = wechat().await;
        let ended = run(real(example, &wechat.url(), SECRET)).await;
        ended.assert_well();
        ended.assert_no_secret(&tokens(&wechat));
        for request in wechat.requests() {
            assert_eq!(request.method(), "GET", "{example}: {}", request.path());
        }
        assert!(wechat.requests().len() >= 2, "{example}");
    }
}

#[tokio::test]
async fn a_wrong_secret_is_told_in_one_sentence() {
    for example in ALL {
        let wechat = wechat().await;
        let ended = run(real(example, &wechat.url(), WRONG_SECRET)).await;
        ended.assert_one_sentence("the secret is wrong");
        assert_eq!(paths(&wechat), ["/cgi-bin/token"], "{example}");
    }
}

#[tokio::test]
async fn an_address_that_is_not_allowed_is_told_in_one_sentence() {
    for example in ALL {
        let wechat = wechat().await;
        wechat.deny_address(true);
        let ended = run(real(example, &wechat.url(), SECRET)).await;
        ended.assert_one_sentence("IP allow-list");
        assert_eq!(paths(&wechat), ["/cgi-bin/token"], "{example}");
    }
}

#[tokio::test]
async fn no_network_is_told_in_one_sentence() {
    // All at once, as each tries for a second.
    let runs = ALL.map(|example| async move {
        let ended = run(real(example, &nobody(), SECRET)).await;
        ended.assert_one_sentence("out of reach");
        // TLS where there is none.
        let wechat = wechat().await;
        let base_url = wechat.url().replace("http://", "https://");
        let ended = run(real(example, &base_url, SECRET)).await;
        ended.assert_one_sentence("out of reach");
        assert!(wechat.requests().is_empty());
    });
    join_all(runs).await;
}

#[tokio::test]
async fn a_name_that_cannot_be_looked_up_is_told_in_one_sentence() {
    let ended = run(real("menu", "https://wechat.invalid", SECRET)).await;
    ended.assert_one_sentence("https://wechat.invalid is out of reach");
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_token_is_told_in_one_sentence() {
    let wechat = wechat().await;
    wechat.fail_next(Failure::ApiDisconnect);
    let ended = run(real("menu", &wechat.url(), SECRET)).await;
    ended.assert_one_sentence("the call failed");
    assert_eq!(wechat.requests().len(), 2);
}

#[tokio::test]
async fn an_errcode_that_no_token_cures_is_told_in_one_sentence() {
    let wechat = wechat().await;
    wechat.fail_next(Failure::Api(48001));
    let ended = run(real("menu", &wechat.url(), SECRET)).await;
    ended.assert_one_sentence("errcode 48001");
    assert!(ended.stderr.contains("api unauthorized"));

    wechat.fail_next(Failure::ApiStatus(502));
    let ended = run(real("menu", &wechat.url(), SECRET)).await;
    ended.assert_one_sentence("HTTP status 502");
}

#[tokio::test]
async fn what_no_token_cures_is_told_in_one_line_by_those_around_reqwest() {
    for example in ["reqwest_client", "reqwest_middleware", "wrap_sdk"] {
        for errcode in [48001, 40001] {
            let wechat = wechat().await;
            wechat.reject_every_token(Some(errcode));
            let ended = run(real(example, &wechat.url(), SECRET)).await;
            assert_eq!(ended.code, Some(1), "{example}: {}", ended.stdout);
            assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
            assert!(ended.stderr.contains(&errcode.to_string()), "{example}");
            ended.assert_no_secret(&tokens(&wechat));
        }
    }
}

#[tokio::test]
async fn a_break_after_the_token_is_told_by_those_around_reqwest_or_retried() {
    for example in ["reqwest_client", "wrap_sdk"] {
        let wechat = wechat().await;
        wechat.fail_next(Failure::ApiDisconnect);
        let ended = run(real(example, &wechat.url(), SECRET)).await;
        ended.assert_one_sentence("error sending request");
    }
    let wechat = wechat().await;
    wechat.fail_next(Failure::ApiDisconnect);
    let ended = run(real("reqwest_middleware", &wechat.url(), SECRET)).await;
    ended.assert_well();
    assert_eq!(wechat.requests().len(), 3);
}

#[tokio::test]
async fn a_token_that_no_refresh_cures_is_told_in_one_sentence() {
    let wechat = wechat().await;
    wechat.reject_every_token(Some(40001));
    let ended = run(real("menu", &wechat.url(), SECRET)).await;
    ended.assert_one_sentence("errcode 40001");
    ended.assert_no_secret(&tokens(&wechat));
    assert_eq!(wechat.token_requests().started, 2);
}

#[tokio::test]
async fn half_an_environment_is_no_reason_to_start_the_mock() {
    for example in ALL {
        let mut only_appid = command(example);
        only_appid.env("WECHAT_APPID", APPID);
        let ended = run(only_appid).await;
        ended.assert_one_sentence("set both WECHAT_APPID and WECHAT_SECRET");

        let mut only_secret = command(example);
        only_secret.env("WECHAT_SECRET", SECRET);
        let ended = run(only_secret).await;
        ended.assert_one_sentence("set both WECHAT_APPID and WECHAT_SECRET");
    }
}

#[tokio::test]
async fn a_base_url_that_is_none_is_told_in_one_sentence() {
    for base_url in [
        "api.weixin.qq.com",
        "ftp://h",
        "http://",
        "http://h:99999",
        "http://h:",
        "http://user@h",
        "http://h/path",
        "http://h?query",
        "http://h#fragment",
        "http://h h",
    ] {
        let ended = run(real("menu", base_url, SECRET)).await;
        ended.assert_one_sentence("WECHAT_BASE_URL must be");
    }
    let wechat = wechat().await;
    let ended = run(real("menu", &format!("{}/", wechat.url()), SECRET)).await;
    ended.assert_well();
}

#[tokio::test]
async fn arguments_that_it_does_not_know_are_told_in_one_sentence() {
    for (example, arguments) in [
        ("menu", &["--crate"][..]),
        ("menu", &["--create", "more"]),
        ("axum_app", &["--serve"]),
        ("axum_app", &["--listen", "127.0.0.1:0"]),
    ] {
        let mut command = command(example);
        command.args(arguments);
        let ended = run(command).await;
        ended.assert_one_sentence("the only argument it knows");
    }
    let mut command = command("axum_app");
    command.args(["--serve", "nowhere"]);
    run(command).await.assert_one_sentence("cannot listen on");
}

#[tokio::test]
async fn axum_app_goes_on_serving_when_told_so() {
    let wechat = wechat().await;
    let mut command = real("axum_app", &wechat.url(), SECRET);
    command.args(["--serve", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let stdout = child.stdout.take().expect("it is piped");
    // Kept until the end: a program that prints into a closed pipe dies of it.
    let mut lines = BufReader::new(stdout).lines();
    let line = lines.next_line().await;
    let line = line.expect("it prints").expect("it says where it listens");
    let url = line.strip_prefix("listening on ").expect("a URL");

    for revoked in [false, true] {
        if revoked {
            wechat.revoke();
        }
        let body = get(&format!("{url}/menu")).await;
        assert!(body.contains("46003"), "{body}");
    }
    assert_eq!(wechat.token_requests().issued, 2);
    let line = lines.next_line().await.expect("it prints");
    assert!(line.is_some_and(|line| line.contains("WeChat was asked twice")));
    child.kill().await.expect("it can be ended");
}

async fn get(url: &str) -> String {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    let reply = client.get(url.parse().expect("a URL")).await;
    let body = reply.expect("a reply").into_body().collect().await;
    String::from_utf8(body.expect("a body").to_bytes().into()).expect("UTF-8")
}
