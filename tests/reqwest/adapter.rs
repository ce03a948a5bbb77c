//! The ways that a call of reqwest's can take through the layer, under one name.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::json;
use tower::{Layer, ServiceExt};
use tower_wechat::mock::MockWechat;
use tower_wechat::{ClientCredential, Error, TokenManager, WechatAuth, WechatAuthLayer};

use super::adapters::{HttpClient, ReqwestAuth, ReqwestAuthLayer, client_builder};
use super::reqwest::{self, Body, Client, Request, Response};

/// A client with the layer in it.
pub(super) trait Adapter: Send + Sync {
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Response, Failure>>;
}

/// How a call can fail, whatever the adapter makes of it.
#[derive(Debug)]
pub(super) enum Failure {
    NoToken(Error),
    Client(reqwest::Error),
}

impl Failure {
    #[track_caller]
    pub(super) fn clients(self) -> reqwest::Error {
        match self {
            Failure::Client(error) => error,
            Failure::NoToken(error) => panic!("not the client's: {error}"),
        }
    }

    #[track_caller]
    pub(super) fn no_token(self) -> Error {
        match self {
            Failure::NoToken(error) => error,
            Failure::Client(error) => panic!("not for want of a token: {error}"),
        }
    }
}

pub(super) type Wrap = fn(Client, WechatAuthLayer) -> Box<dyn Adapter>;

pub(super) fn http_client(client: Client, layer: WechatAuthLayer) -> Box<dyn Adapter> {
    Box::new(layer.layer(HttpClient::new(client)))
}

impl Adapter for WechatAuth<HttpClient> {
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Response, Failure>> {
        let service = self.clone();
        Box::pin(async move {
            let request: http::Request<Body> = request.try_into().map_err(Failure::Client)?;
            match service.oneshot(request).await {
                Ok(reply) => Ok(reply.map(Body::wrap).into()),
                Err(error) if error.is_token() => Err(Failure::NoToken(error)),
                Err(error) => {
                    let error = error.into_source().downcast();
                    Err(Failure::Client(*error.expect("an error of reqwest's")))
                }
            }
        })
    }
}

pub(super) fn reqwest_auth(client: Client, layer: WechatAuthLayer) -> Box<dyn Adapter> {
    Box::new(ReqwestAuthLayer::new(layer).layer(client))
}

impl Adapter for ReqwestAuth {
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Response, Failure>> {
        let reply = self.execute(request);
        Box::pin(async move { reply.await.map_err(Failure::Client) })
    }
}

/// A WeChat whose tokens have no grace, and all that is needed to call it.
pub(super) struct Setup {
    pub(super) wechat: MockWechat,
    pub(super) client: Client,
    pub(super) tokens: TokenManager,
    pub(super) layer: WechatAuthLayer,
}

impl Setup {
    pub(super) async fn new() -> Setup {
        let wechat = MockWechat::builder().grace(Duration::ZERO).start().await;
        let client = client_builder().build().unwrap();
        let source = ClientCredential::new(client.clone(), wechat.appid(), wechat.secret());
        let tokens = TokenManager::new(source.base_url(wechat.url()));
        let layer = WechatAuthLayer::new(tokens.clone()).api_origin(wechat.url());
        Setup {
            wechat,
            client,
            tokens,
            layer,
        }
    }

    /// With a token that the layer has and WeChat has revoked.
    pub(super) async fn revoked() -> Setup {
        let setup = Setup::new().await;
        setup.revoke().await;
        setup
    }

    pub(super) async fn revoke(&self) {
        self.tokens.token().await.unwrap();
        self.wechat.revoke();
        self.wechat.clear();
    }

    pub(super) fn wrapped(&self, wrap: &Wrap) -> Box<dyn Adapter> {
        wrap(self.client.clone(), self.layer.clone())
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.wechat.url())
    }

    pub(super) fn get(&self, path: &str) -> Request {
        self.client.get(self.url(path)).build().unwrap()
    }

    pub(super) fn message(&self, to: &str) -> Request {
        message_at(&self.client, &self.wechat.url(), to)
    }
}

/// A customer service message to be sent by way of `origin`.
pub(super) fn message_at(client: &Client, origin: &str, to: &str) -> Request {
    let message = json!({"touser": to, "msgtype": "text", "text": {"content": "你好"}});
    let request = client.post(format!("{origin}/cgi-bin/message/custom/send"));
    request.json(&message).build().unwrap()
}
