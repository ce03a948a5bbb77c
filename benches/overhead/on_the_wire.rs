//! Over loopback, with clients of reqwest's and a server that answers every request with the same
//! reply.

use std::hint::black_box;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use axum::Router;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tokio::runtime::Runtime;
use tower_wechat::WechatAuthLayer;

use super::in_reqwest::retry;
use super::{Call, MESSAGE, OK, TOKEN, tokens};

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime")
}

/// A server in a thread of its own, which goes with the process.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket for tokio");
    let addr = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let app = Router::new().fallback(async || OK);
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            axum::serve(listener, app).await
        })
    });
    addr
}

/// A client, and a server that it calls.
struct Caller<C> {
    client: C,
    url: String,
    runtime: Runtime,
}

impl<C> Caller<C> {
    fn new(client: impl FnOnce(WechatAuthLayer) -> C) -> Self {
        let origin = format!("http://{}", server());
        let layer = WechatAuthLayer::new(tokens()).api_origin(&origin);
        Caller {
            client: client(layer),
            url: format!("{origin}/cgi-bin/message/custom/send?a=1"),
            runtime: runtime(),
        }
    }

    /// Where there is no layer: the same bytes go over the wire.
    fn with_token_in_url(mut self) -> Self {
        self.url += "&access_token=";
        self.url += TOKEN;
        self
    }
}

/// The rows that are there for each version of reqwest.
macro_rules! version {
    ($version:ident, $reqwest:ident, $adapters:ident) => {
        pub(super) mod $version {
            use tower::{Layer, ServiceExt};
            use tower_wechat::WechatAuth;
            use tower_wechat::$adapters::{HttpClient, ReqwestAuth, ReqwestAuthLayer};
            use $reqwest::{Body, Client, RequestBuilder};

            use super::*;

            /// What a row does with a request that the client has made.
            trait Sends {
                async fn send(&self, request: RequestBuilder) -> Body;
            }

            impl Sends for () {
                async fn send(&self, request: RequestBuilder) -> Body {
                    request.send().await.expect("a reply").into()
                }
            }

            impl Sends for WechatAuth<HttpClient> {
                async fn send(&self, request: RequestBuilder) -> Body {
                    let request = request.build().expect("a request");
                    let request: http::Request<Body> = request.try_into().expect("a request");
                    let reply = self.clone().oneshot(request).await.expect("a reply");
                    Body::wrap(reply.into_body())
                }
            }

            impl Sends for ReqwestAuth {
                async fn send(&self, request: RequestBuilder) -> Body {
                    let request = request.build().expect("a request");
                    self.execute(request).await.expect("a reply").into()
                }
            }

            struct Sender<S> {
                client: Client,
                sends: S,
            }

            impl<S: Sends> Call for Caller<Sender<S>> {
                fn call(&mut self) {
                    let Sender { client, sends } = &self.client;
                    let request = client
                        .post(&self.url)
                        .header("content-type", "application/json")
                        .body(MESSAGE);
                    let body = self.runtime.block_on(async {
                        let body = sends.send(request).await;
                        http_body_util::BodyExt::collect(body).await
                    });
                    black_box(body.expect("its body").to_bytes());
                }
            }

            fn caller<S: Sends>(
                wrap: impl FnOnce(Client, WechatAuthLayer) -> S,
            ) -> Caller<Sender<S>> {
                Caller::new(|layer| {
                    let client = Client::new();
                    Sender {
                        client: client.clone(),
                        sends: wrap(client, layer),
                    }
                })
            }

            pub(in super::super) fn bare() -> impl Call {
                caller(|_, _| ()).with_token_in_url()
            }

            pub(in super::super) fn http_client() -> impl Call {
                caller(|client, layer| layer.layer(HttpClient::new(client)))
            }

            pub(in super::super) fn reqwest_auth() -> impl Call {
                caller(|client, layer| ReqwestAuthLayer::new(layer).layer(client))
            }
        }
    };
}

version!(v0_13, reqwest, reqwest);
version!(v0_12, reqwest_0_12, reqwest_0_12);

impl Call for Caller<ClientWithMiddleware> {
    fn call(&mut self) {
        let request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .body(MESSAGE);
        let body = self
            .runtime
            .block_on(async { request.send().await.expect("a reply").bytes().await });
        black_box(body.expect("its body"));
    }
}

fn middlewares(
    with: impl FnOnce(ClientBuilder, WechatAuthLayer) -> ClientBuilder,
) -> Caller<ClientWithMiddleware> {
    Caller::new(|layer| with(ClientBuilder::new(reqwest::Client::new()), layer).build())
}

pub(super) fn middleware_retry() -> impl Call {
    middlewares(|client, _| client.with(retry())).with_token_in_url()
}

pub(super) fn middleware_wechat_auth() -> impl Call {
    middlewares(|client, layer| client.with(layer))
}

pub(super) fn middleware_retry_wechat_auth() -> impl Call {
    middlewares(|client, layer| client.with(retry()).with(layer))
}
