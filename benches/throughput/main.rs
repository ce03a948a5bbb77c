//! How many requests a second the servers answer on loopback, and what each costs them, side by
//! side with bare axum handlers and nginx: each is a process of its own with one thread that works,
//! asked by `wrk`, in turns.
//!
//! `cargo bench --bench throughput` prints the table; `THROUGHPUT_ROUNDS` says how often each is
//! asked, default 7. CPU time is less noisy than requests a second, and instructions less than
//! both. By hand: `valgrind --tool=callgrind target/release/deps/throughput-… --serve
//! token_server`, which tells its address, a number of requests by `curl
//! 'http://…/cgi-bin/token?…&n=[1-1000]'`, and Ctrl-D.

mod bare;
mod check;
mod load;
mod measure;
mod nginx;
mod process;
mod serve;
mod table;

/// About as long as WeChat's own.
const TOKEN: &str = "78_ZxExampleExampleExampleExampleExampleExampleExampleExampleExampleExample\
                     ExampleExampleExampleExampleExampleExampleExampleExample0123456789";

const APPID: &str = "wx0123456789abcdef";
const SECRET: &str = "ZmFrZSBzZWNyZXQgb2YgY3Jt";

static USERS: &[u8] =
    br#"{"total":2,"count":2,"data":{"openid":["OPENID1","OPENID2"]},"next_openid":"OPENID2"}"#;

fn token_path() -> String {
    format!("/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret={SECRET}")
}

const STABLE_TOKEN_PATH: &str = "/cgi-bin/stable_token";

fn stable_token_body() -> String {
    format!(r#"{{"grant_type":"client_credential","appid":"{APPID}","secret":"{SECRET}"}}"#)
}

/// What a token request is answered with.
fn token_reply(token: &str) -> String {
    format!(r#"{{"access_token":"{token}","expires_in":7199}}"#)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag| args.iter().any(|arg| arg == flag);
    match args.first().map(String::as_str) {
        Some("--serve") => serve::run(&args[1], args.get(2).map_or("", String::as_str)),
        // `cargo bench` says so, and `cargo test` says nothing.
        _ if has("--bench") && !has("--test") => measure::all(),
        _ => check::all(),
    }
}
