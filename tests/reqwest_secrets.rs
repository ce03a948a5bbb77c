//! Trap 15 with reqwest, which likes to show URLs: no token and no AppSecret in any error, `Debug`
//! or trace, nor in what goes to another host.

mod support;

use std::error::Error as StdError;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use futures_util::{StreamExt, stream};
use support::*;
use tokio::sync::mpsc;
use tower_wechat::{AccessToken, TokenManager, WechatAuthLayer, source_fn};

const TOKEN: &str = "5ec7e7_5ec7e7-5ec7e7.5ec7e7+5ec7e7";
const SECRET: &str = "S3CRETs3cretS3CRETs3cret";

/// The cases for reqwest 0.13.
#[path = "reqwest_secrets"]
mod v0_13 {
    use ::reqwest;
    use tower_wechat::reqwest as adapters;

    const KINDS: &[Kind] = &[Kind::HttpClient, Kind::Auth, Kind::Middleware];

    async fn through_middleware(
        client: reqwest::Client,
        layer: WechatAuthLayer,
        request: reqwest::Request,
    ) -> Result<reqwest::Response, BoxError> {
        let client = reqwest_middleware::ClientBuilder::new(client).with(layer);
        let reply = client.build().execute(request).await;
        reply.map_err(|error| match error {
            reqwest_middleware::Error::Reqwest(error) => error.into(),
            error => error.into(),
        })
    }

    use super::*;
    mod cases;
    use cases::{BoxError, Kind};
}

/// The same cases for reqwest 0.12.
#[path = "reqwest_secrets"]
mod v0_12 {
    use reqwest_0_12 as reqwest;
    use tower_wechat::reqwest_0_12 as adapters;

    const KINDS: &[Kind] = &[Kind::HttpClient, Kind::Auth];

    async fn through_middleware(
        _: reqwest::Client,
        _: WechatAuthLayer,
        _: reqwest::Request,
    ) -> Result<reqwest::Response, BoxError> {
        unreachable!("there is none for 0.12")
    }

    use super::*;
    #[allow(clippy::duplicate_mod, reason = "one source for two versions")]
    mod cases;
    use cases::{BoxError, Kind};
}

#[track_caller]
fn assert_silent(text: &str) {
    // As it is, and as it stands in a URL.
    for secret in [TOKEN, "5ec7e7%2B5ec7e7", "access_token=", SECRET, "secret="] {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

fn layer(origin: &str) -> WechatAuthLayer {
    let tokens = source_fn(|_| async { Ok(AccessToken::new(TOKEN, TWO_HOURS)) });
    WechatAuthLayer::new(TokenManager::new(tokens)).api_origin(origin)
}

/// A host that tells of each request what came with it.
async fn other_host() -> (String, mpsc::UnboundedReceiver<(Uri, HeaderMap)>) {
    let (tell, heard) = mpsc::unbounded_channel();
    let landed = get(move |uri: Uri, headers: HeaderMap| async move {
        tell.send((uri, headers)).unwrap();
        "landed"
    });
    (serve(Router::new().fallback(landed)).await, heard)
}

/// A server that misbehaves by the path: redirects, statuses, broken bodies.
async fn bad_server(other: &str) -> String {
    let other = other.to_owned();
    let elsewhere = other.clone();
    let app = Router::new()
        .route(
            "/away",
            get(async move || Redirect::temporary(&format!("{elsewhere}/landed"))),
        )
        .route(
            // As servers do that move a whole site: the query goes with it.
            "/away-with-the-query",
            get(async move |uri: Uri| {
                let query = uri.query().unwrap_or_default();
                Redirect::temporary(&format!("{other}/landed?{query}&more=1"))
            }),
        )
        .route(
            "/to-a-bad-scheme",
            get(async |uri: Uri| {
                let query = uri.query().unwrap_or_default();
                Redirect::temporary(&format!("ftp://127.0.0.1/landed?{query}"))
            }),
        )
        .route(
            "/for-ever",
            get(async |uri: Uri| Redirect::temporary(&uri.to_string())),
        )
        .route(
            "/500",
            get(async || axum::http::StatusCode::INTERNAL_SERVER_ERROR),
        )
        .route("/text", get(async || "no JSON"))
        .route(
            "/cut",
            get(async || {
                let pieces = [Ok("a beginning"), Err(std::io::Error::other("cut"))];
                let pieces = stream::iter(pieces).then(async |piece| {
                    // So that the beginning is on its way when the rest fails.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    piece
                });
                let length = [(header::CONTENT_LENGTH, "100000")];
                (length, Body::from_stream(pieces)).into_response()
            }),
        )
        .route(
            "/slow",
            get(async || tokio::time::sleep(Duration::from_secs(60)).await),
        );
    serve(app).await
}
