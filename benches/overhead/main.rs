//! What the layer costs a call, side by side with its neighbours, the token in the cache, the
//! reply's body drained: in process with a stub inside, in http's types and in reqwest's, and over
//! loopback.
//!
//! `cargo bench --bench overhead` prints times and allocations. Machines are noisy: compare rows of
//! one run, or count instructions, which repeat exactly in process:
//! `OVERHEAD_CASE=http_5_wechat_auth_ok valgrind --tool=callgrind target/release/deps/overhead-…`.

mod in_http;
mod in_reqwest;
mod on_the_wire;

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use divan::{AllocProfiler, Bencher};
use tower_wechat::{AccessToken, TokenManager, source_fn};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

/// About as long as WeChat's own.
const TOKEN: &str = "78_ZxExampleExampleExampleExampleExampleExampleExampleExampleExampleExample\
                     ExampleExampleExampleExampleExampleExampleExampleExample0123456789";

const MESSAGES: &str = "https://api.weixin.qq.com/cgi-bin/message/custom/send?a=1";
const MESSAGE: &str = r#"{"touser":"o"}"#;

static OK: &[u8] = br#"{"errcode":0,"errmsg":"ok"}"#;

/// One call, from the request to the last frame of the reply.
trait Call {
    fn call(&mut self);
}

/// A manager with a token in its cache.
fn tokens() -> TokenManager {
    let tokens = TokenManager::new(source_fn(|_| async {
        Ok(AccessToken::new(TOKEN, Duration::from_secs(7200)))
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(tokens.token()).expect("a token");
    tokens
}

/// The output of what does not have to wait: a stub answers at once.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a stub answers at once"),
    }
}

/// Every row once, for the table and for counting instructions.
macro_rules! rows {
    ($($name:ident = $make:expr;)+) => {
        $(
            #[divan::bench(name = stringify!($name), min_time = 1)]
            fn $name(bencher: Bencher<'_, '_>) {
                let mut service = $make;
                // The first call connects, where there is something to connect to.
                service.call();
                bencher.bench_local(|| service.call());
            }
        )+

        fn count(case: &str, calls: u32) {
            match case {
                $(stringify!($name) => {
                    let mut service = $make;
                    for _ in 0..calls {
                        service.call();
                    }
                })+
                _ => panic!("no such row: {case}"),
            }
        }
    };
}

rows! {
    http_1_stub = in_http::stub();
    http_2_tower_retry = in_http::tower_retry();
    http_3_follow_redirect = in_http::follow_redirect();
    http_4_unavoidable = in_http::unavoidable();
    http_5_wechat_auth_ok = in_http::wechat_auth_ok();
    http_6_wechat_auth_json_2_kib = in_http::wechat_auth_json_2_kib();
    http_7_wechat_auth_image = in_http::wechat_auth_image();

    reqwest_1_stub = in_reqwest::stub();
    reqwest_2_http_client = in_reqwest::http_client();
    reqwest_3_reqwest_auth = in_reqwest::reqwest_auth();
    reqwest_4_middleware_stub = in_reqwest::middleware_stub();
    reqwest_5_middleware_retry_and_token = in_reqwest::middleware_retry_and_token();
    reqwest_6_middleware_wechat_auth = in_reqwest::middleware_wechat_auth();
    reqwest_7_middleware_retry_wechat_auth = in_reqwest::middleware_retry_wechat_auth();

    wire_1_bare_reqwest = on_the_wire::v0_13::bare();
    wire_2_middleware_retry = on_the_wire::middleware_retry();
    wire_3_http_client = on_the_wire::v0_13::http_client();
    wire_4_reqwest_auth = on_the_wire::v0_13::reqwest_auth();
    wire_5_middleware_wechat_auth = on_the_wire::middleware_wechat_auth();
    wire_6_middleware_retry_wechat_auth = on_the_wire::middleware_retry_wechat_auth();
    wire_7_bare_reqwest_0_12 = on_the_wire::v0_12::bare();
    wire_8_http_client_0_12 = on_the_wire::v0_12::http_client();
    wire_9_reqwest_auth_0_12 = on_the_wire::v0_12::reqwest_auth();
}

fn main() {
    match std::env::var("OVERHEAD_CASE") {
        Ok(case) => {
            let calls = std::env::var("OVERHEAD_CALLS").ok();
            count(&case, calls.and_then(|n| n.parse().ok()).unwrap_or(1000));
        }
        Err(_) => {
            // The first row would pay for waking the processor up.
            count("http_5_wechat_auth_ok", 200_000);
            divan::main();
        }
    }
}
