//! reqwest-middleware's client as one of the adapters.

use futures_util::future::BoxFuture;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error};
use tower_wechat::WechatAuthLayer;

use super::adapter::{Adapter, Failure};
use super::reqwest::{Client, Request, Response};

pub(super) fn wrap(client: Client, layer: WechatAuthLayer) -> Box<dyn Adapter> {
    Box::new(ClientBuilder::new(client).with(layer).build())
}

impl Adapter for ClientWithMiddleware {
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Response, Failure>> {
        let client = self.clone();
        Box::pin(async move {
            let reply = client.execute(request).await;
            reply.map_err(|error| match error {
                Error::Reqwest(error) => Failure::Client(error),
                Error::Middleware(error) => Failure::NoToken(error.downcast().unwrap()),
            })
        })
    }
}
