//! What the layer costs a call, side by side with its neighbours: in process, a stub inside, the
//! token in the cache, the reply's body drained.
//!
//! `cargo bench --bench overhead` prints times and allocations. Machines are noisy: compare rows of
//! one run, or count instructions, which repeat exactly:
//! `OVERHEAD_CASE=row_5_wechat_auth_ok valgrind --tool=callgrind target/release/deps/overhead-…`.

use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use divan::{AllocProfiler, Bencher};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::Full;
use tower::retry::{Policy, Retry};
use tower::{Layer, Service};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_wechat::{AccessToken, TokenManager, WechatAuthLayer, source_fn};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

type Outgoing = Request<Full<Bytes>>;

/// About as long as WeChat's own.
const TOKEN: &str = "78_ZxExampleExampleExampleExampleExampleExampleExampleExampleExampleExample\
                     ExampleExampleExampleExampleExampleExampleExampleExample0123456789";

static OK: &[u8] = br#"{"errcode":0,"errmsg":"ok"}"#;
static JSON_2_KIB: &[u8] = &json_2_kib();
static IMAGE: &[u8] = b"\xff\xd8\xff\xe0 an image, as far as anybody looks into it";

/// A list of users, as `user/get` gives it.
const fn json_2_kib() -> [u8; 2048] {
    let head = br#"{"total":2,"data":{"openid":[""#;
    let tail = br#""]}}"#;
    let mut json = [b'o'; 2048];
    let mut i = 0;
    while i < head.len() {
        json[i] = head[i];
        i += 1;
    }
    i = 0;
    while i < tail.len() {
        json[2048 - tail.len() + i] = tail[i];
        i += 1;
    }
    // A quotation mark, a comma and another one every 31 bytes.
    i = head.len() + 28;
    while i + 8 < 2048 {
        json[i] = b'"';
        json[i + 1] = b',';
        json[i + 2] = b'"';
        i += 31;
    }
    json
}

#[derive(Clone)]
struct Stub(&'static [u8]);

impl Service<Outgoing> for Stub {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Outgoing) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(Full::new(Bytes::from_static(self.0)))))
    }
}

/// What nobody who adds a token and may send again can do without: a copy of the request and one
/// rewritten URI.
#[derive(Clone)]
struct Unavoidable<S>(S);

impl<S: Service<Outgoing>> Service<Outgoing> for Unavoidable<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = WithCopy<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Outgoing) -> Self::Future {
        let copy = request.clone();
        let old = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let parameter = if old.contains('?') {
            "&access_token="
        } else {
            "?access_token="
        };
        let mut new = Vec::with_capacity(old.len() + parameter.len() + TOKEN.len());
        new.extend_from_slice(old.as_bytes());
        new.extend_from_slice(parameter.as_bytes());
        new.extend_from_slice(TOKEN.as_bytes());
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = PathAndQuery::from_maybe_shared(Bytes::from(new)).ok();
        *request.uri_mut() = Uri::from_parts(parts).expect("a URI");
        WithCopy {
            reply: self.0.call(request),
            copy: Some(copy),
        }
    }
}

#[pin_project::pin_project]
struct WithCopy<F> {
    #[pin]
    reply: F,
    copy: Option<Outgoing>,
}

impl<F: Future> Future for WithCopy<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.reply.poll(cx);
        if polled.is_ready() {
            drop(black_box(this.copy.take()));
        }
        polled
    }
}

/// Keeps a copy, and never needs it.
#[derive(Clone)]
struct Cloning;

impl<R, E> Policy<Outgoing, R, E> for Cloning {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Outgoing, _: &mut Result<R, E>) -> Option<Ready<()>> {
        None
    }

    fn clone_request(&mut self, request: &Outgoing) -> Option<Outgoing> {
        Some(request.clone())
    }
}

fn wechat_auth(reply: &'static [u8]) -> impl Call {
    let tokens = TokenManager::new(source_fn(|_| async {
        Ok(AccessToken::new(TOKEN, Duration::from_secs(7200)))
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(tokens.token()).expect("a token");
    Caller(WechatAuthLayer::new(tokens).layer(Stub(reply)))
}

/// One call, from the request to the last frame of the reply.
trait Call {
    fn call(&mut self);
}

struct Caller<S>(S);

impl<S, R> Call for Caller<S>
where
    S: Service<Outgoing, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    fn call(&mut self) {
        let request = Request::post("https://api.weixin.qq.com/cgi-bin/message/custom/send?a=1")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(String::from(r#"{"touser":"o"}"#))))
            .expect("a request");
        let mut cx = Context::from_waker(Waker::noop());
        let service = &mut self.0;
        assert!(
            pin!(poll_fn(|cx| service.poll_ready(cx)))
                .poll(&mut cx)
                .is_ready()
        );
        let Poll::Ready(Ok(reply)) = pin!(service.call(request)).poll(&mut cx) else {
            unreachable!("the stub answers at once")
        };
        let mut body = pin!(reply.into_body());
        while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
            black_box(frame);
        }
    }
}

fn stub() -> impl Call {
    Caller(Stub(OK))
}

fn tower_retry() -> impl Call {
    Caller(Retry::new(Cloning, Stub(OK)))
}

fn follow_redirect() -> impl Call {
    Caller(FollowRedirectLayer::new().layer(Stub(OK)))
}

fn unavoidable() -> impl Call {
    Caller(Unavoidable(Stub(OK)))
}

/// Every row once, for the table and for counting instructions.
macro_rules! rows {
    ($($name:ident = $make:expr;)+) => {
        $(
            #[divan::bench(name = stringify!($name))]
            fn $name(bencher: Bencher<'_, '_>) {
                let mut service = $make;
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
    row_1_stub = stub();
    row_2_tower_retry = tower_retry();
    row_3_follow_redirect = follow_redirect();
    row_4_unavoidable = unavoidable();
    row_5_wechat_auth_ok = wechat_auth(OK);
    row_6_wechat_auth_json_2_kib = wechat_auth(JSON_2_KIB);
    row_7_wechat_auth_image = wechat_auth(IMAGE);
}

fn main() {
    match std::env::var("OVERHEAD_CASE") {
        Ok(case) => {
            let calls = std::env::var("OVERHEAD_CALLS").ok();
            count(&case, calls.and_then(|n| n.parse().ok()).unwrap_or(1000));
        }
        Err(_) => {
            // The first row would pay for waking the processor up.
            count("row_5_wechat_auth_ok", 200_000);
            divan::main();
        }
    }
}
