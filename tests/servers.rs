//! The token server and the gateway as programs, as an operator runs them.
#![cfg(unix)]

mod support;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use support::programs::{
    APPID, CLIENT_SECRET, SECRET, SIGNING_KEY, Serving, WRONG_SECRET, command, run, server,
};
use support::*;
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tower::Layer;
use tower::ServiceExt;
use tower_wechat::mock::MockWechat;
use tower_wechat::{StableToken, TokenManager, WechatAuth, WechatAuthLayer};

const BOTH: [&str; 2] = ["token_server", "gateway"];

async fn wechat() -> MockWechat {
    MockWechat::builder().account(APPID, SECRET).start().await
}

/// With no grace a token is void the moment there is another.
async fn without_grace() -> MockWechat {
    let wechat = MockWechat::builder().account(APPID, SECRET);
    wechat.grace(Duration::ZERO).start().await
}

fn token_url(server: &str) -> String {
    format!(
        "{server}/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret={CLIENT_SECRET}"
    )
}

async fn ask(uri: impl AsRef<str>) -> Value {
    let reply = hyper().request(get(uri)).await.expect("a reply");
    serde_json::from_str(&text(reply).await).expect("JSON")
}

async fn token(server: &str) -> String {
    let given = ask(token_url(server)).await;
    given["access_token"]
        .as_str()
        .unwrap_or_else(|| panic!("{given}"))
        .to_owned()
}

/// A file of the test's own, gone with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let name = format!("tower-wechat-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn with_nothing_configured_they_say_how_to_try_them_and_it_works() {
    for example in BOTH {
        let serving = Serving::start(command(example)).await;
        // What it says comes after where it listens.
        let told = loop {
            let told = serving.stdout();
            if told.matches("curl").count() >= 2 {
                break told;
            }
            sleep(Duration::from_millis(5)).await;
        };
        let url = told
            .split('\'')
            .find(|word| word.contains("/cgi-bin/token?"));
        let given = ask(url.expect("a URL to try")).await;
        let token = given["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("{given}"));
        if example == "gateway" {
            let users = ask(format!(
                "{}/cgi-bin/user/get?access_token={token}",
                serving.url
            ))
            .await;
            assert_eq!(users["total"], 2);
        }
        assert_eq!(ask(format!("{}/readyz", serving.url)).await["ready"], true);
    }
}

#[tokio::test]
async fn help_says_how_to_configure_them() {
    for example in BOTH {
        let mut command = command(example);
        command.arg("--help");
        let ended = run(command).await;
        ended.assert_well();
        for what in ["--config", "[[account]]", "[[client]]", "WECHAT_CLIENTS"] {
            assert!(ended.stdout.contains(what), "{}", ended.stdout);
        }
    }
}

#[tokio::test]
async fn a_file_configures_accounts_and_clients_and_names_where_secrets_are() {
    let wechat = wechat().await;
    let secret = File::new("secret", &format!("{SECRET}\n"));
    let config = File::new(
        "config.toml",
        &format!(
            r#"
            listen = "127.0.0.1:0"
            base_url = "{}"
            token = "classic"
            signing_key = "{SIGNING_KEY}"
            former_signing_keys = ["{SIGNING_KEY}{SIGNING_KEY}"]

            [[account]]
            appid = "{APPID}"
            secret = "file:{}"

            [[client]]
            name = "crm"
            secret = "env:SECRET_OF_CRM"
            accounts = ["{APPID}"]
            "#,
            wechat.url(),
            secret.path(),
        ),
    );
    for example in BOTH {
        let mut command = command(example);
        command
            .args(["--config", config.path()])
            .env("SECRET_OF_CRM", CLIENT_SECRET);
        let serving = Serving::start(command).await;
        token(&serving.url).await;
    }
}

#[tokio::test]
async fn a_mistake_in_the_configuration_is_one_sentence() {
    let file = |name: &str, text: &str| File::new(name, text);
    let account = format!("[[account]]\nappid = \"{APPID}\"\nsecret = \"{SECRET}\"\n");
    let files = [
        (file("1", "listen = 5"), "line 1: invalid type"),
        (
            file("2", &format!("{account}secrets = \"{SECRET}\"")),
            "line 4: unknown field, expected `appid` or `secret`",
        ),
        (
            file("3", &format!("{account}secret = \"{SECRET}\"")),
            "line 4: duplicate key",
        ),
        (
            file("client", &format!("client = \"crm={SECRET}\"")),
            "line 1: invalid type, expected a sequence",
        ),
        (
            file("keys", &format!("former_signing_keys = \"{SECRET}\"")),
            "line 1: invalid type, expected a sequence",
        ),
        (
            file("token", &format!("token = \"{SECRET}\"")),
            "line 1: unknown variant, expected `stable` or `classic`",
        ),
        (
            file("number", "signing_key = 12345678901234567"),
            "line 1: invalid type, expected a string",
        ),
        (
            file("field", &format!("{SECRET} = 1")),
            "line 1: unknown field, expected one of `listen`",
        ),
        (file("quotes", "listen = 127.0.0.1"), "line 1: "),
        (
            file("shell", "signing_key = \"${KEY}\""),
            "a variable is written as env:NAME",
        ),
        (file("empty", "signing_key = \"\""), "a secret is empty"),
        (file("4", ""), "there is no account"),
        (file("5", &account), "there is no client"),
        (file("6", "base_url = \"nowhere\""), "base_url must be http"),
        (
            file("7", "signing_key = \"env:THIS_IS_NOT_SET\""),
            "THIS_IS_NOT_SET is not set",
        ),
        (
            file("8", "signing_key = \"file:/nowhere\""),
            "cannot read /nowhere",
        ),
    ];
    let with_arguments = |arguments: &[&str]| {
        let mut command = command("gateway");
        command.args(arguments).env("WECHAT_LOG", "error");
        command
    };
    for (file, what) in &files {
        run(with_arguments(&["--config", file.path()]))
            .await
            .assert_one_sentence(what);
    }
    for (arguments, what) in [
        (
            &["--config", "/nowhere.toml"][..],
            "cannot read /nowhere.toml",
        ),
        (&["--serve"], "the arguments it knows"),
        (&["more"], "the arguments it knows"),
        (&["--listen"], "missing argument"),
        (
            &["--listen", "nowhere"],
            "the demonstration listens on 127.0.0.1 only",
        ),
        (
            &["--listen", "0.0.0.0:0"],
            "the demonstration listens on 127.0.0.1 only",
        ),
    ] {
        run(with_arguments(arguments))
            .await
            .assert_one_sentence(what);
    }
    let wechat = wechat().await;
    for (variables, what) in [
        (
            &[("WECHAT_SECRET", "")][..],
            "set both WECHAT_APPID and WECHAT_SECRET",
        ),
        (&[("WECHAT_CLIENTS", "")], "set WECHAT_CLIENTS"),
        (
            &[("WECHAT_CLIENTS", WRONG_SECRET)],
            "WECHAT_CLIENTS is as in",
        ),
        (&[("WECHAT_CLIENTS", "crm=short")], "less than 16 bytes"),
        (
            &[("WECHAT_TOKEN", "new")],
            "WECHAT_TOKEN is stable or classic",
        ),
        (&[("WECHAT_LOG", "loud")], "WECHAT_LOG is"),
        (&[("WECHAT_LISTEN", "nowhere")], "cannot listen on nowhere"),
        (
            &[("WECHAT_SECRET", "file:/nowhere")],
            "cannot read /nowhere",
        ),
        (
            &[("WECHAT_CLIENTS", "crm=env:THIS_IS_NOT_SET")],
            "THIS_IS_NOT_SET is not set",
        ),
        (&[("WECHAT_SIGNING_KEY", "short")], "32 bytes at least"),
    ] {
        let mut command = server("gateway", &wechat);
        command
            .env("WECHAT_LOG", "error")
            .envs(variables.iter().copied());
        run(command).await.assert_one_sentence(what);
    }
    // Half a configuration is no reason for a demonstration.
    for (name, value) in [
        ("WECHAT_CLIENTS", CLIENT_SECRET),
        ("WECHAT_SIGNING_KEY", SIGNING_KEY),
        ("WECHAT_BASE_URL", "https://api.weixin.qq.com"),
    ] {
        let mut command = command("gateway");
        command.env(name, value);
        run(command)
            .await
            .assert_one_sentence("set WECHAT_APPID and WECHAT_SECRET, or no variable");
    }
    let mut both = server("gateway", &wechat);
    both.args(["--config", files[0].0.path()]);
    run(both)
        .await
        .assert_one_sentence("has no meaning beside a configuration file");

    let serving = Serving::start(server("gateway", &wechat)).await;
    let mut second = server("gateway", &wechat);
    second
        .env("WECHAT_LISTEN", serving.url.trim_start_matches("http://"))
        .env("WECHAT_LOG", "error");
    run(second).await.assert_one_sentence("something else does");
}

#[tokio::test]
async fn told_to_stop_they_finish_what_is_under_way() {
    let wechat = wechat().await;
    let mut serving = Serving::start(server("gateway", &wechat)).await;
    let uri = format!(
        "{}/cgi-bin/user/get?access_token={}",
        serving.url,
        token(&serving.url).await
    );
    wechat.set_api_delay(Duration::from_millis(500)..=Duration::from_millis(500));
    wechat.clear();
    let under_way = tokio::spawn(ask(uri.clone()));
    while wechat.requests().is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    serving.terminate().await;
    assert_eq!(under_way.await.unwrap()["total"], 2);
    let ended = timeout(Duration::from_secs(10), serving.child.wait()).await;
    assert_eq!(ended.expect("it ends").unwrap().code(), Some(0));
    assert!(hyper().request(get(uri)).await.is_err());
}

#[tokio::test]
async fn metrics_tell_requests_replays_refreshes_and_what_is_left() {
    let wechat = without_grace().await;
    let serving = Serving::start(server("gateway", &wechat)).await;
    let token = token(&serving.url).await;
    let uri = format!("{}/cgi-bin/user/get?access_token={token}", serving.url);
    ask(&uri).await;
    wechat.revoke();
    ask(&uri).await;
    ask(format!(
        "{}/cgi-bin/user/get?access_token=forged",
        serving.url
    ))
    .await;

    let reply = hyper()
        .request(get(format!("{}/metrics", serving.url)))
        .await
        .unwrap();
    assert!(
        reply.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain")
    );
    let told = text(reply).await;
    let account = format!(r#"account="{APPID}""#);
    let values: HashMap<_, f64> = told
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect();
    for (name, value) in [
        (
            format!(r#"wechat_requests_total{{{account},result="once"}}"#),
            1.0,
        ),
        (
            format!(r#"wechat_requests_total{{{account},result="replayed"}}"#),
            1.0,
        ),
        (
            format!(r#"wechat_rejections_total{{{account},errcode="40001"}}"#),
            1.0,
        ),
        (
            format!(r#"wechat_refreshes_total{{{account},reason="missing",result="ok"}}"#),
            1.0,
        ),
        (
            format!(r#"wechat_refreshes_total{{{account},reason="rejected",result="ok"}}"#),
            1.0,
        ),
        (
            format!(r#"wechat_gateway_requests_total{{client="crm",{account},result="ok"}}"#),
            2.0,
        ),
        (
            r#"wechat_gateway_requests_total{client="",account="",result="invalid_token"}"#.into(),
            1.0,
        ),
        (
            format!(r#"wechat_server_token_requests_total{{client="crm",{account},errcode="0"}}"#),
            1.0,
        ),
    ] {
        assert_eq!(values.get(&name), Some(&value), "{name}\n{told}");
    }
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs_f64();
    let gauge = |name: &str| values[&format!("{name}{{{account}}}")];
    assert!((7000.0..=7200.0).contains(&gauge("wechat_token_life_seconds")));
    assert!((now - 60.0..=now).contains(&gauge("wechat_token_refresh_timestamp_seconds")));
    assert!((now + 7000.0..now + 7201.0).contains(&gauge("wechat_token_expiry_timestamp_seconds")));
    // Every one of them says what it means.
    let names = told
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE wechat"));
    for name in names.map(|line| line.split(' ').next().unwrap()) {
        assert!(
            told.contains(&format!("# HELP wechat{name} ")),
            "{name}\n{told}"
        );
    }
}

fn layer_at(server: &str, wechat: &MockWechat) -> WechatAuth<HyperClient> {
    let source = StableToken::new(hyper(), APPID, CLIENT_SECRET).base_url(server);
    let tokens = TokenManager::builder(source)
        .issue_timeout(Duration::from_secs(2))
        .build();
    WechatAuthLayer::new(tokens)
        .api_origin(wechat.url())
        .layer(hyper())
}

async fn users(service: &WechatAuth<HyperClient>, wechat: &MockWechat) -> Value {
    let request: Request<Full<bytes::Bytes>> = get(format!("{}/cgi-bin/user/get", wechat.url()));
    match service.clone().oneshot(request).await {
        Ok(reply) => serde_json::from_str(&text(reply).await).unwrap(),
        Err(error) => json!({"error": error.to_string()}),
    }
}

/// Not a test: what each process of the test below does. It is this program again, with this
/// variable set.
#[tokio::test]
async fn one_of_eight_processes() {
    use std::io::{Write, stdin, stdout};

    let Ok(server) = std::env::var("TEST_OF_EIGHT_PROCESSES") else {
        return;
    };
    let wechat_url = std::env::var("TEST_WECHAT").unwrap();
    let source = StableToken::new(hyper(), APPID, CLIENT_SECRET).base_url(server);
    let service = WechatAuthLayer::new(TokenManager::new(source))
        .api_origin(&wechat_url)
        .layer(hyper());
    let send = |number: usize| {
        let message = json!({
            "touser": format!("{}-{number}", std::process::id()),
            "msgtype": "text",
            "text": {"content": "x"},
        });
        let uri = format!("{wechat_url}/cgi-bin/message/custom/send");
        let call = service.clone().oneshot(post(uri, message.to_string()));
        async { assert_eq!(text(call.await.unwrap()).await, OK) }
    };
    send(0).await;
    println!("ready");
    stdout().flush().unwrap();
    // Until all of them are, and the token has been revoked.
    tokio::task::spawn_blocking(|| stdin().read_line(&mut String::new()))
        .await
        .unwrap()
        .unwrap();
    join_all((1..=100).map(send)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_at_a_revoked_token_make_one_token_request() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    let _calm = calm().await;
    let wechat = without_grace().await;
    let tokens = Serving::start(server("token_server", &wechat)).await;
    let mut processes = Vec::new();
    for _ in 0..8 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "one_of_eight_processes", "--nocapture"])
            .env("TEST_OF_EIGHT_PROCESSES", &tokens.url)
            .env("TEST_WECHAT", wechat.url())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let stdout = process.stdout.take().unwrap();
        let mut lines = BufReader::new(stdout).lines();
        while !lines
            .next_line()
            .await
            .unwrap()
            .expect("it gets ready")
            .ends_with("ready")
        {}
        processes.push((process, lines));
    }
    assert_eq!(wechat.token_requests().started, 1);
    wechat.set_token_delay(Duration::from_millis(200));
    wechat.clear();
    wechat.revoke();

    for (process, _) in &mut processes {
        process
            .stdin
            .take()
            .unwrap()
            .write_all(b"go\n")
            .await
            .unwrap();
    }
    for (mut process, mut lines) in processes {
        while lines.next_line().await.unwrap().is_some() {}
        assert!(process.wait().await.unwrap().success());
    }
    assert_eq!(wechat.token_requests().started, 1);
    assert_eq!(wechat.messages().len(), 800, "each sent once, none twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_on_while_the_server_is_down_and_recover_when_it_is_back() {
    let _calm = calm().await;
    // With no grace, what the server fetches when it starts voids what the clients have.
    let wechat = without_grace().await;
    let mut first = Serving::start(server("token_server", &wechat)).await;
    let service = layer_at(&first.url, &wechat);
    let all_well = async |calls: usize| {
        for users in join_all((0..calls).map(|_| users(&service, &wechat))).await {
            assert_eq!(users["total"], 2, "{users}");
        }
    };
    let restart = || {
        let mut command = server("token_server", &wechat);
        command.env("WECHAT_LISTEN", first.url.trim_start_matches("http://"));
        command
    };
    all_well(50).await;

    // Away under load, and back: nobody notices.
    let load = tokio::spawn({
        let (service, wechat) = (service.clone(), wechat.clone());
        async move {
            for _ in 0..200 {
                assert_eq!(users(&service, &wechat).await["total"], 2);
                sleep(Duration::from_millis(2)).await;
            }
        }
    });
    first.child.kill().await.unwrap();
    all_well(50).await;
    let mut again = Serving::start(restart()).await;
    all_well(50).await;
    load.await.unwrap();

    // The token dies: one refresh.
    wechat.clear();
    wechat.revoke();
    all_well(50).await;
    assert_eq!(wechat.token_requests().issued, 1);

    // It dies while the server is away: callers get WeChat's word, and soon after the server is
    // back they don't.
    again.child.kill().await.unwrap();
    wechat.revoke();
    assert_eq!(users(&service, &wechat).await["errcode"], 40001);
    let _back = Serving::start(restart()).await;
    let recovered = async {
        while users(&service, &wechat).await["total"] != 2 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), recovered)
        .await
        .expect("it recovers by itself");
    all_well(50).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_in_constant_memory() {
    use http_body_util::BodyExt;

    const MIB: u64 = 1024 * 1024;
    let _calm = calm().await;
    let wechat = wechat().await;
    let serving = Serving::start(server("gateway", &wechat)).await;
    let token = token(&serving.url).await;
    let before = serving.memory();

    let uri = format!(
        "{}/cgi-bin/media/get?size={}&access_token={token}",
        serving.url,
        256 * MIB
    );
    let mut body = hyper().request(get(uri)).await.unwrap().into_body();
    let mut came = 0;
    while let Some(frame) = body.frame().await {
        came += frame
            .unwrap()
            .data_ref()
            .map_or(0, |data| data.len() as u64);
    }
    assert_eq!(came, 256 * MIB);
    let after_download = serving.memory();

    let uri = format!(
        "{}/cgi-bin/media/upload?type=image&access_token={token}",
        serving.url
    );
    take_any_upload(&wechat);
    let picture = vec![b'x'; 20_000_000];
    let reply = text(hyper().request(post(uri, picture)).await.unwrap()).await;
    assert!(reply.contains("media-"), "{reply}");
    let requests = wechat.requests();
    let upload = requests.last().unwrap();
    assert_eq!(upload.body_len(), 20_000_000);
    // WeChat wants to know how long an upload is.
    assert_eq!(upload.headers()["content-length"], "20000000");
    let after_upload = serving.memory();

    println!(
        "peak memory of the gateway, MiB: {} at first, {} after 256 MiB down, {} after 20 MB up",
        before.peak / MIB,
        after_download.peak / MIB,
        after_upload.peak / MIB
    );
    assert!(
        after_download.peak_above(before) < 16 * MIB,
        "{before:?} {after_download:?}"
    );
    // It says that it is larger than what is kept for a replay, so nothing is kept.
    assert!(
        after_upload.peak_above(after_download) < 8 * MIB,
        "{after_download:?} {after_upload:?}"
    );
}
