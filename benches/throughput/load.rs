//! `wrk`, which asks.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::process::{self, Server};
use super::stable_token_body;

const CONNECTIONS: u32 = 32;
const SECONDS: u32 = 3;

/// What is asked for.
#[derive(Clone)]
pub(super) enum Ask {
    Get(String),
    /// With the body of a request for a stable token.
    Post(&'static str),
}

/// What came of it.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    pub(super) requests_per_second: f64,
    pub(super) cpu_micros_per_request: f64,
}

/// How to get what is not there.
pub(super) const INSTALL: &str = "apt-get install wrk nginx-light";

pub(super) fn is_there() -> bool {
    process::is_there("wrk")
}

pub(super) fn describe() -> String {
    let cores = match process::are_pinned() {
        true => "the server has a core of its own",
        false => "no process has a core of its own, for want of cores or of `taskset`",
    };
    format!("wrk, 1 thread, {CONNECTIONS} connections, {SECONDS} s a round; {cores}")
}

pub(super) fn run(server: &Server, ask: &Ask) -> Sample {
    let mut wrk = process::on_others_core("wrk");
    wrk.args(["-t1", &format!("-c{CONNECTIONS}")]);
    wrk.arg(format!("-d{SECONDS}s"));
    match ask {
        Ask::Get(path) => wrk.arg(server.url(path)),
        Ask::Post(path) => wrk.arg("-s").arg(posting()).arg(server.url(path)),
    };
    let before = server.cpu_time();
    let said = output(wrk);
    let spent = server.cpu_time() - before;
    let number = |before: &str, after: &str| {
        let (_, rest) = said.split_once(before)?;
        rest.split_once(after)?.0.trim().parse::<f64>().ok()
    };
    let asked = said.lines().find(|line| line.contains(" requests in "));
    let asked = asked.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Sample {
        requests_per_second: number("Requests/sec:", "\n").expect("wrk's last lines"),
        cpu_micros_per_request: spent.as_secs_f64() * 1e6 / asked.expect("wrk's count"),
    }
}

fn output(mut wrk: Command) -> String {
    let output = wrk.output().expect("wrk");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        !said.contains("Non-2xx") && !said.contains("Socket errors"),
        "{said}"
    );
    said
}

fn posting() -> PathBuf {
    let file = process::scratch("post.lua");
    let body = stable_token_body();
    let script = format!(
        "wrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\nwrk.body = [[{body}]]\n"
    );
    fs::write(&file, script).expect("a file");
    file
}
