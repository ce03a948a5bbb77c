//! The servers, one in a process.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::RawQuery;
use axum::routing::get;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tower_wechat::server::{Bounds, Gateway, ServerBuilder, TokenServer, serve};
use tower_wechat::{AccessToken, TokenManager, source_fn};

use super::{APPID, SECRET, TOKEN, USERS, bare};

/// Behind the name of a server: not by `axum::serve`, but by this crate's.
const BY_SERVE: &str = "_by_serve";

/// Serves until the standard input ends: whoever started it is gone then.
pub(super) fn run(server: &str, upstream: &str) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (server, by_axum) = match server.strip_suffix(BY_SERVE) {
            Some(server) => (server, false),
            None => (server, true),
        };
        let router = router(server, upstream);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        let mut input = tokio::io::stdin();
        let served = async {
            if by_axum {
                let router = router.into_make_service_with_connect_info::<SocketAddr>();
                axum::serve(listener, router).await.expect("no end");
            } else {
                serve(listener, router, Bounds::default()).await;
            }
        };
        tokio::select! {
            () = served => {}
            _ended = input.read_u8() => {}
        }
    });
}

fn router(server: &str, upstream: &str) -> Router {
    let router = match server {
        "upstream" => Ok(fixed()),
        "bare_token" => Ok(bare::token_endpoints()),
        "bare_proxy" => Ok(bare::proxy(client(), upstream)),
        "token_server" => with_client(TokenServer::builder()).build(),
        "token_server_counting" => with_client(counting(TokenServer::builder())).build(),
        "gateway" => with_client(gateway(upstream)).build(),
        "gateway_counting" => with_client(counting(gateway(upstream))).build(),
        _ => panic!("no such server: {server}"),
    };
    router.expect("a server")
}

/// Stands for WeChat: answers at once, and with what it was asked where that is to be seen.
fn fixed() -> Router {
    Router::new()
        .route("/cgi-bin/user/get", get(async || USERS))
        .route(
            "/cgi-bin/echo",
            get(async |RawQuery(query): RawQuery| query.unwrap_or_default()),
        )
}

pub(super) fn client() -> Client<HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn gateway(upstream: &str) -> ServerBuilder<Gateway> {
    Gateway::builder(client())
        .upstream(format!("http://{upstream}"))
        .signing_key("32 random bytes, or what goes for them")
}

fn with_client<K>(builder: ServerBuilder<K>) -> ServerBuilder<K> {
    let tokens = TokenManager::new(source_fn(|_| async {
        Ok(AccessToken::new(TOKEN, Duration::from_secs(7200)))
    }));
    builder
        .account(APPID, tokens)
        .client("crm", SECRET)
        .rate_limit(u32::MAX, Duration::ZERO)
}

fn counting<K>(builder: ServerBuilder<K>) -> ServerBuilder<K> {
    let prometheus = PrometheusBuilder::new().install_recorder();
    let prometheus = prometheus.expect("the only recorder");
    builder.metrics(move || prometheus.render())
}
