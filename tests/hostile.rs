//! What strangers send to a gateway: after each of these it still serves, WeChat has seen nothing
//! of it, and no secret is in the log.
#![cfg(unix)]

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use support::programs::{APPID, CLIENT_SECRET, SECRET, SIGNING_KEY, Serving, server};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tower_wechat::mock::MockWechat;

const GUESSED: &str = "9ue55ed9ue55ed9ue55ed9ue55ed9ue5";

struct Target {
    wechat: MockWechat,
    gateway: Serving,
    token: String,
}

impl Target {
    async fn start() -> Target {
        Target::start_by(|command| command).await
    }

    async fn start_by(by: impl FnOnce(Command) -> Command) -> Target {
        let wechat = MockWechat::builder().account(APPID, SECRET).start().await;
        let mut command = server("gateway", &wechat);
        command.env("WECHAT_LOG", "trace");
        let gateway = Serving::start(by(command)).await;
        let token = token_request(&gateway.url, CLIENT_SECRET).await;
        let token = token["access_token"].as_str().unwrap().to_owned();
        Target {
            wechat,
            gateway,
            token,
        }
    }

    /// By `number` strangers, each of whom does this and then nothing.
    async fn strangers(&self, number: usize, first: &str) -> Vec<TcpStream> {
        let mut strangers = Vec::new();
        for _ in 0..number {
            let mut stranger = self.connect().await;
            // It may be put out at once.
            let _ = stranger.write_all(first.as_bytes()).await;
            strangers.push(stranger);
        }
        strangers
    }

    async fn connect(&self) -> TcpStream {
        let address = self.gateway.url.trim_start_matches("http://");
        TcpStream::connect(address).await.unwrap()
    }

    /// Sends `bytes` as they are; what came back until the connection was closed, or nothing more
    /// came.
    async fn send(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // It may be closed in the middle.
        let _ = stream.write_all(bytes.as_ref()).await;
        let mut reply = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(Ok(read @ 1..)) =
            timeout(Duration::from_millis(200), stream.read(&mut buffer)).await
        {
            reply.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&reply).into_owned()
    }

    fn get(&self, path: &str) -> String {
        format!(
            "GET {path}?access_token={} HTTP/1.1\r\nhost: h\r\n\r\n",
            self.token
        )
    }

    /// The head of a POST, with these lines in it.
    fn post(&self, lines: &str) -> String {
        format!(
            "POST /cgi-bin/message/custom/send?access_token={} HTTP/1.1\r\nhost: h\r\n{lines}\r\n\r\n",
            self.token
        )
    }

    /// That it serves, and that nothing has reached WeChat since the last time but this call.
    async fn assert_serves(&self, after: &str) {
        let uri = format!(
            "{}/cgi-bin/user/get?access_token={}",
            self.gateway.url, self.token
        );
        let reply = timeout(Duration::from_secs(10), hyper().request(get(uri))).await;
        let reply = text(reply.expect("in time").expect("a reply")).await;
        assert!(reply.contains("OPENID1"), "after {after:?}: {reply}");
        let requests = self.wechat.requests();
        // One whose body broke off may have begun to come, and WeChat does not act on it.
        let whole = requests
            .iter()
            .filter(|request| request.body_sha256().is_some());
        let paths: Vec<_> = whole.map(|request| request.path()).collect();
        assert_eq!(paths, ["/cgi-bin/user/get"], "after {after:?}");
        self.wechat.clear();
    }

    fn assert_log_tells_no_secret(&self) {
        let log = self.gateway.log();
        assert!(log.contains("WARN"), "it logs: {log}");
        let real = self.wechat.current_token().unwrap();
        for secret in [
            SECRET,
            CLIENT_SECRET,
            SIGNING_KEY,
            GUESSED,
            &self.token,
            &real,
        ] {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret}");
        }
    }
}

async fn token_request(server: &str, secret: &str) -> Value {
    let uri = format!(
        "{server}/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret={secret}"
    );
    let reply = hyper().request(get(uri)).await.unwrap();
    serde_json::from_str(&text(reply).await).unwrap()
}

fn status(reply: &str) -> &str {
    reply.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused() {
    let target = Target::start().await;
    target.wechat.clear();
    let many_headers: String = (0..500).map(|n| format!("x-{n}: 1\r\n")).collect();
    for request in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET\r\n\r\n".into(),
        "GET / HTTP/9.9\r\n\r\n".into(),
        "G\u{e9}T / HTTP/1.1\r\nhost: h\r\n\r\n".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrubbish rubbish rubbish".into(),
        format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "x".repeat(200_000)),
        format!(
            "GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n",
            "x".repeat(200_000)
        ),
        format!("GET / HTTP/1.1\r\nhost: h\r\n{many_headers}\r\n"),
        "GET / HTTP/1.1\r\nhost: h\r\nx\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nhost : h\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nhost: h\r\nx: a\0b\r\n\r\n".into(),
    ] {
        let reply = target.send(&request).await;
        let begins: String = request.chars().take(40).collect();
        assert!(
            matches!(status(&reply), "400" | "414" | "431" | "none"),
            "{begins:?}: {reply}"
        );
        target.assert_serves(&begins).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_that_conflict_smuggle_nothing() {
    let target = Target::start().await;
    target.wechat.clear();
    let smuggled = target.get("/cgi-bin/menu/delete");
    for lines in [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5, 6",
        "content-length: -1",
        "content-length: +5",
        "content-length: 0x5",
        "content-length: 99999999999999999999",
        "content-length: 5 5",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: identity\r\ntransfer-encoding: identity",
    ] {
        let reply = target
            .send(target.post(lines) + "0\r\n\r\n" + &smuggled)
            .await;
        assert_eq!(status(&reply), "400", "{lines}: {reply}");
        target.assert_serves(lines).await;
    }
    // Chunks that are none.
    for chunks in [
        "x\r\n",
        "-1\r\n",
        "ffffffffffffffffff\r\n",
        "5\r\nabcdefgh\r\n0\r\n\r\n",
        "5;a=\n\r\nabcde\r\n0\r\n\r\n",
    ] {
        let reply = target
            .send(target.post("transfer-encoding: chunked") + chunks)
            .await;
        assert!(!reply.contains("\"errcode\":0"), "{chunks:?}: {reply}");
        target.wechat.clear();
        target.assert_serves(chunks).await;
    }
    // Both: the chunks count and the length is not passed on, or it is refused. What follows in the
    // same connection is a request of its own or nothing, and never a part that WeChat alone sees
    // as one.
    for both in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
    ] {
        target
            .send(target.post(both) + "0\r\n\r\n" + &target.get("/sns/smuggled"))
            .await;
        let requests = target.wechat.requests();
        assert!(requests.len() <= 1, "{requests:?}");
        for request in &requests {
            assert_eq!(request.path(), "/cgi-bin/message/custom/send");
            assert_eq!(request.body_len(), 0);
            let headers = request.headers();
            assert!(
                !(headers.contains_key("content-length")
                    && headers.contains_key("transfer-encoding"))
            );
            assert_ne!(
                headers.get("content-length").map(|value| value.as_bytes()),
                Some(&b"4"[..])
            );
        }
        target.wechat.clear();
        target.assert_serves(both).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order_and_each_once() {
    let target = Target::start().await;
    target.wechat.clear();
    let body = r#"{"touser":"OPENID1","msgtype":"text","text":{"content":"x"}}"#;
    let message = target.post(&format!("content-length: {}", body.len())) + body;
    let refused = "GET /elsewhere HTTP/1.1\r\nhost: h\r\n\r\n";
    let reply = target
        .send([&message, refused, &target.get("/cgi-bin/user/get")].concat())
        .await;
    let statuses: Vec<_> = reply
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|reply| &reply[..3])
        .collect();
    assert_eq!(statuses, ["200", "404", "200"], "{reply}");
    assert_eq!(target.wechat.messages().len(), 1);
    target.wechat.clear();
    target.assert_serves("a pipeline").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_lead_nowhere_but_to_wechat() {
    let target = Target::start().await;
    target.wechat.clear();
    let secrets = serve(axum::Router::new().fallback(async || "somebody else's")).await;
    let host = secrets.trim_start_matches("http://");
    let token = &target.token;
    for line in [
        format!("GET {secrets}/cgi-bin/user/get?access_token={token} HTTP/1.1"),
        format!("GET {secrets}/cgi-bin/user/get?access_token={token} HTTP/1.0"),
        format!("CONNECT {host} HTTP/1.1"),
        "OPTIONS * HTTP/1.1".into(),
        format!("GET //{host}/cgi-bin/user/get?access_token={token} HTTP/1.1"),
        format!("GET @{host}/cgi-bin/user/get?access_token={token} HTTP/1.1"),
        format!("GET /cgi-bin/../sns/userinfo?access_token={token} HTTP/1.1"),
        format!("GET /cgi-bin/%2e%2e/sns/userinfo?access_token={token} HTTP/1.1"),
        format!("GET /cgi-bin/..%5csns?access_token={token} HTTP/1.1"),
        format!("GET /cgi-bin\\..\\sns?access_token={token} HTTP/1.1"),
        format!("GET /cgi-bin/x%0d%0ahost:%20h?access_token={token} HTTP/1.1"),
        format!("TRACE /cgi-bin/user/get?access_token={token} HTTP/1.1"),
        format!("DELETE /cgi-bin/user/get?access_token={token} HTTP/1.1"),
    ] {
        let reply = target.send(format!("{line}\r\nhost: {host}\r\n\r\n")).await;
        assert!(
            matches!(status(&reply), "400" | "404" | "405"),
            "{line}: {reply}"
        );
        assert!(!reply.contains("somebody else's"), "{line}");
        target.assert_serves(&line).await;
    }
    // With a strange host the call goes where it always does.
    let reply = target
        .send(format!(
            "GET /cgi-bin/user/get?access_token={token} HTTP/1.1\r\nhost: {host}\r\nhost: x\r\nx-forwarded-host: {host}\r\n\r\n"
        ))
        .await;
    assert!(!reply.contains("somebody else's"), "{reply}");
    target.wechat.clear();
    target.assert_serves("a strange host").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_secrets_that_are_wrong_get_nowhere_and_into_no_log() {
    let target = Target::start().await;
    target.wechat.clear();
    let token = &target.token;
    let real = target.wechat.current_token().unwrap();
    for wrong in [
        "",
        "x",
        &real,
        &token[1..],
        &format!("{token}%00"),
        &format!("{token}A"),
        &"A".repeat(8000),
        "%ff%fe%00%0d%0a",
        &format!("x&access_token={token}"),
        &format!("{token}&%61ccess_token=x"),
    ] {
        let request =
            format!("GET /cgi-bin/user/get?access_token={wrong} HTTP/1.1\r\nhost: h\r\n\r\n");
        let reply = target.send(request).await;
        assert!(reply.contains(r#""errcode":4"#), "{wrong}: {reply}");
        target.assert_serves(wrong).await;
    }
    let guesses = (0..20).map(|n| {
        let guessed = format!("{GUESSED}{n}");
        let url = &target.gateway.url;
        async move { token_request(url, &guessed).await["errcode"].as_i64() }
    });
    assert_eq!(join_all(guesses).await, [Some(40125); 20]);
    target.assert_serves("guesses").await;
    target.assert_log_tells_no_secret();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_slow_holds_nobody_up_and_is_put_out() {
    let _calm = calm().await;
    let target = Target::start().await;
    target.wechat.clear();
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut stream = target.connect().await;
        let beginning = match number % 3 {
            0 => String::new(),
            1 => "GET /cgi-bin/user/get HTTP/1.1\r\nx: ".into(),
            _ => target.post("content-length: 100") + "{",
        };
        stream.write_all(beginning.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let uri = format!(
        "{}/cgi-bin/menu/get?access_token={}",
        target.gateway.url, target.token
    );
    let reply = timeout(Duration::from_secs(5), hyper().request(get(uri))).await;
    assert!(reply.expect("in time").is_ok());
    // Those that have not finished their headers are put out, in ten seconds.
    for (number, stream) in slow.iter_mut().enumerate().take(60) {
        if number % 3 < 2 {
            let mut rest = Vec::new();
            let put_out = timeout(Duration::from_secs(30), stream.read_to_end(&mut rest));
            let _ = put_out.await.expect("the connection is closed");
        }
    }
    drop(slow);
    sleep(Duration::from_millis(200)).await;
    target.wechat.clear();
    target.assert_serves("slow ones").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_says_it_is_too_large_is_refused_before_it_comes() {
    let target = Target::start().await;
    target.wechat.clear();
    let reply = target.send(target.post("content-length: 1000000000")).await;
    assert_eq!(status(&reply), "413", "{reply}");
    assert!(reply.contains(r#""errcode":45001"#), "{reply}");
    target.assert_serves("a large upload").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_breaks_off_is_no_call() {
    let target = Target::start().await;
    target.wechat.clear();
    for _ in 0..20 {
        let mut stream = target.connect().await;
        let head = target.post("content-length: 1000000");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b'x'; 10_000]).await.unwrap();
        drop(stream);
    }
    sleep(Duration::from_millis(200)).await;
    assert!(target.wechat.messages().is_empty());
    target.wechat.clear();
    target.assert_serves("broken uploads").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_strangers_than_there_are_connections_keep_nobody_out() {
    let _calm = calm().await;
    let target = Target::start().await;
    target.wechat.clear();
    let mut strangers = target.strangers(1100, "").await;
    strangers.extend(target.strangers(1100, "GET / HTTP/1.1\r\nx: ").await);
    for _ in 0..10 {
        target.assert_serves("strangers").await;
    }
    drop(strangers);
    target.assert_serves("strangers that have gone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_room_for_more_files_goes_on_and_does_not_spin() {
    let _calm = calm().await;
    let target = Target::start_by(|command| {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 60 && exec \"$0\""]);
        let command = command.as_std();
        limited.arg(command.get_program());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        limited.kill_on_drop(true);
        limited
    })
    .await;
    target.wechat.clear();
    let strangers = target.strangers(100, "").await;
    for _ in 0..10 {
        target.assert_serves("files").await;
    }
    drop(strangers);
    target.assert_serves("files that are free again").await;
    let log = target.gateway.log();
    let told = log.matches("no connection can be accepted").count();
    assert!((1..=2).contains(&told), "{told}: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_not_spoken() {
    let target = Target::start().await;
    target.wechat.clear();
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = "\0\0\0\u{4}\0\0\0\0\0";
    let half_a_head = "\0\0\u{40}\u{1}\u{4}\0\0\0\u{1}";
    for begun in ["", settings, &format!("{settings}{half_a_head}")] {
        let reply = target.send(format!("{preface}{begun}")).await;
        assert_eq!(reply, "", "{begun:?}");
    }
    let strangers = target.strangers(300, &format!("{preface}{settings}")).await;
    target.assert_serves("HTTP/2").await;
    drop(strangers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_refused_gets_its_refusal_and_the_next_call_works() {
    let target = Target::start().await;
    target.wechat.clear();
    for size in [1, 2, 4, 8, 20] {
        let size = size * 1024 * 1024;
        let mut upload = format!(
            "POST /cgi-bin/media/upload?type=image&access_token=expired HTTP/1.1\r\nhost: h\r\ncontent-length: {size}\r\n\r\n"
        )
        .into_bytes();
        upload.resize(upload.len() + size, b'x');
        let mut stream = target.connect().await;
        for _ in 0..2 {
            stream.write_all(&upload).await.expect("no broken pipe");
            let mut reply = vec![0; 4096];
            let read = timeout(Duration::from_secs(20), stream.read(&mut reply)).await;
            let read = read.expect("in time").expect("no reset");
            let reply = String::from_utf8_lossy(&reply[..read]).into_owned();
            assert!(reply.contains(r#""errcode":4000"#), "{size}: {reply}");
            if reply.contains("connection: close") {
                stream = target.connect().await;
            }
        }
        let call = target.get("/cgi-bin/user/get");
        stream.write_all(call.as_bytes()).await.unwrap();
        let mut reply = vec![0; 4096];
        let read = stream.read(&mut reply).await.expect("no reset");
        assert!(String::from_utf8_lossy(&reply[..read]).contains("OPENID1"));
        target.wechat.clear();
        target.assert_serves("an upload that was refused").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_read_is_put_out() {
    let target = Target::start().await;
    target.wechat.clear();
    let download = format!(
        "GET /cgi-bin/media/get?size=67108864&access_token={} HTTP/1.1\r\nhost: h\r\n\r\n",
        target.token
    );
    let pipelined = target.get("/elsewhere").repeat(200);
    let mut readers = target.strangers(40, &download).await;
    let pipelining = readers.len();
    readers.extend(target.strangers(10, &pipelined).await);
    while target.wechat.requests().len() < pipelining {
        sleep(Duration::from_millis(20)).await;
    }
    target.wechat.clear();
    target.assert_serves("those that do not read").await;
    // A connection that is cut takes nothing any more.
    let all = readers
        .iter_mut()
        .enumerate()
        .map(async |(number, reader)| {
            let more = match number < pipelining {
                true => "x",
                false => &pipelined,
            };
            while reader.write_all(more.as_bytes()).await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        });
    let all = timeout(Duration::from_secs(90), join_all(all));
    all.await.expect("they are cut after half a minute");
    target.wechat.clear();
    target.assert_serves("those that did not read").await;
}
