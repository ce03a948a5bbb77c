//! The examples as programs.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tower_wechat::mock::MockWechat;

#[cfg(target_os = "linux")]
use super::memory::Memory;

pub const SECRET: &str = "5ec7e75ec7e75ec7e75ec7e75ec7e75e";
pub const WRONG_SECRET: &str = "bad5ec7e7bad5ec7e7bad5ec7e7bad5e";

/// As long as a real one: SDKs look at that.
pub const APPID: &str = "wxe2e0123456789abc";

/// That of a mock which is told no account.
pub const MOCK_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The program of an example, next to this one's folder.
///
/// Cargo has no variable for it, and builds examples with `cargo test` but not with
/// `cargo test --test examples`.
pub fn program(example: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("a test has a path");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "{} is missing: build it with `cargo build --examples`",
        path.display()
    );
    path
}

/// An example with nothing configured.
pub fn command(example: &str) -> Command {
    let mut command = Command::new(program(example));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WECHAT_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// That of a client of a server's, as long as an AppSecret.
pub const CLIENT_SECRET: &str = "c11e47c11e47c11e47c11e47c11e47c1";
pub const SIGNING_KEY: &str = "4e74e74e74e74e74e74e74e74e74e74e74e7";

/// A server in front of `wechat`, configured by variables, on a free port.
pub fn server(example: &str, wechat: &MockWechat) -> Command {
    let mut command = command(example);
    command
        .env("WECHAT_APPID", APPID)
        .env("WECHAT_SECRET", SECRET)
        .env("WECHAT_BASE_URL", wechat.url())
        .env("WECHAT_CLIENTS", format!("crm={CLIENT_SECRET}"))
        .env("WECHAT_TOKEN", "classic")
        .env("WECHAT_SIGNING_KEY", SIGNING_KEY)
        .env("WECHAT_LISTEN", "127.0.0.1:0")
        .env("WECHAT_LOG", "debug");
    command
}

/// How a program ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// It failed, said why in one sentence, and told no secret.
    #[track_caller]
    pub fn assert_one_sentence(&self, needle: &str) {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.contains(needle), "{}", self.stderr);
        // What a Debug dump has, and a sentence has not: braces, and a parenthesis behind a name.
        assert!(!self.stderr.contains(['{', '[']), "{}", self.stderr);
        let mut before_parentheses = self.stderr.split('(').rev().skip(1);
        let in_a_sentence = before_parentheses.all(|text| text.ends_with(' '));
        assert!(in_a_sentence, "{}", self.stderr);
        self.assert_no_secret(&[]);
    }

    #[track_caller]
    pub fn assert_well(&self) {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr, "");
        self.assert_no_secret(&[]);
    }

    #[track_caller]
    pub fn assert_no_secret(&self, tokens: &[String]) {
        let secrets = [SECRET, WRONG_SECRET, MOCK_SECRET].into_iter();
        for secret in secrets.chain(tokens.iter().map(String::as_str)) {
            assert!(!self.stdout.contains(secret), "{}", self.stdout);
            assert!(!self.stderr.contains(secret), "{}", self.stderr);
        }
        // A token of a mock in the program itself, which only its length gives away.
        let is_token = |word: &str| word.len() >= 100;
        let in_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let mut words = self.stdout.split(|c| !in_token(c));
        assert!(!words.any(is_token), "{}", self.stdout);
    }
}

pub async fn run(mut command: Command) -> Ended {
    let output = tokio::time::timeout(Duration::from_secs(60), command.output());
    let output = output.await.expect("it ends").expect("it starts");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("it prints UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("it prints UTF-8"),
    }
}

/// A program that serves, until it is killed or this is dropped.
pub struct Serving {
    pub child: Child,
    pub url: String,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

impl Serving {
    /// Waits until it says where it listens.
    pub async fn start(mut command: Command) -> Serving {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let stdout = collect(child.stdout.take().expect("it is piped"));
        let stderr = collect(child.stderr.take().expect("it is piped"));
        let url = loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let told = stdout.lock().unwrap().clone();
            let mut lines = told
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            if let Some(url) = lines.find_map(|line| line.strip_prefix("listening on ")) {
                break url.trim_end().to_owned();
            }
            if let Some(status) = child.try_wait().expect("it can be asked") {
                panic!("it ended with {status}: {}", stderr.lock().unwrap());
            }
        };
        Serving {
            child,
            url,
            stdout,
            stderr,
        }
    }

    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Ends it as systemd and Kubernetes do.
    #[cfg(unix)]
    pub async fn terminate(&self) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(sent.expect("there is a kill").success());
    }

    #[cfg(target_os = "linux")]
    pub fn memory(&self) -> Memory {
        Memory::of(self.child.id().expect("it runs"))
    }
}

/// Reads all the time, as a program that prints into a full pipe would stand still.
fn collect(pipe: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> Arc<Mutex<String>> {
    let collected = Arc::new(Mutex::new(String::new()));
    let collecting = Arc::clone(&collected);
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut collecting = collecting.lock().unwrap();
            collecting.push_str(&line);
            collecting.push('\n');
        }
    });
    collected
}
