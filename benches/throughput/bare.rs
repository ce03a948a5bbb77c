//! The same by axum alone: as little as can be done.

use std::mem;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use hyper_util::client::legacy::{Client, connect::HttpConnector};

use super::{STABLE_TOKEN_PATH, TOKEN, token_reply};

pub(super) fn token_endpoints() -> Router {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");

    let json = Bytes::from(token_reply(TOKEN));
    let reply = move || ([(header::CONTENT_TYPE, JSON)], json).into_response();
    let stable = {
        let reply = reply.clone();
        async move |_: Bytes| reply()
    };
    Router::new()
        .route("/cgi-bin/token", get(async move || reply()))
        .route(STABLE_TOKEN_PATH, post(stable))
}

const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

#[derive(Clone)]
struct Proxy {
    client: Client<HttpConnector, Body>,
    upstream: Authority,
}

pub(super) fn proxy(client: Client<HttpConnector, Body>, upstream: &str) -> Router {
    let upstream = upstream.parse().expect("an address");
    Router::new()
        .fallback(pass_on)
        .with_state(Proxy { client, upstream })
}

async fn pass_on(State(proxy): State<Proxy>, mut request: Request) -> Result<Response, StatusCode> {
    let mut target = mem::take(request.uri_mut()).into_parts();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(proxy.upstream);
    *request.uri_mut() = Uri::from_parts(target).map_err(|_| StatusCode::BAD_REQUEST)?;
    request.headers_mut().remove(header::HOST);
    for name in HOP_BY_HOP {
        request.headers_mut().remove(name);
    }
    let reply = proxy.client.request(request).await;
    let mut reply = reply.map_err(|_| StatusCode::BAD_GATEWAY)?;
    for name in HOP_BY_HOP {
        reply.headers_mut().remove(name);
    }
    Ok(reply.map(Body::new))
}
