//! That each server answers as it should: what answers otherwise is not worth measuring.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::Value;

use super::process::Server;
use super::serve::client;
use super::{STABLE_TOKEN_PATH, TOKEN, USERS, stable_token_body, token_path, token_reply};

/// Each once, without `wrk` and nginx.
pub(super) fn all() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        for server in [
            "bare_token",
            "token_server",
            "token_server_by_serve",
            "token_server_counting",
        ] {
            token_endpoints(&Server::start(server, None)).await;
        }
        let upstream = Server::start("upstream", None);
        let bare = Server::start("bare_proxy", Some(&upstream));
        assert_eq!(proxy(&bare, TOKEN).await, format!("access_token={TOKEN}"));
        for server in ["gateway", "gateway_by_serve", "gateway_counting"] {
            let gateway = Server::start(server, Some(&upstream));
            let echo = proxy(&gateway, &opaque_token(&gateway).await).await;
            // That it kept the reply back shows that WeChat's token was in it.
            let echo = String::from_utf8_lossy(&echo).into_owned();
            assert!(echo.contains("held the account's own token"), "{echo}");
        }
    });
}

pub(super) async fn token_endpoints(server: &Server) {
    let plain = get(server, &token_path()).await;
    let stable = Request::post(server.url(STABLE_TOKEN_PATH))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(stable_token_body()));
    let stable = send(stable.expect("a request")).await;
    for reply in [plain, stable] {
        assert_eq!(token_of(&reply), TOKEN);
        assert_eq!(reply.len(), token_reply(TOKEN).len());
    }
}

/// A call with this token is answered by the upstream; what it says to one that echoes the query.
pub(super) async fn proxy(server: &Server, token: &str) -> Bytes {
    let users = get(server, &users_path(token)).await;
    assert_eq!(users, USERS);
    get(server, &format!("/cgi-bin/echo?access_token={token}")).await
}

pub(super) fn users_path(token: &str) -> String {
    format!("/cgi-bin/user/get?access_token={token}")
}

pub(super) async fn opaque_token(gateway: &Server) -> String {
    let token = token_of(&get(gateway, &token_path()).await);
    assert_ne!(token, TOKEN);
    token
}

fn token_of(reply: &[u8]) -> String {
    let reply: Value = serde_json::from_slice(reply).expect("JSON");
    let token = reply["access_token"].as_str();
    token.unwrap_or_else(|| panic!("{reply}")).to_owned()
}

async fn get(server: &Server, path: &str) -> Bytes {
    let request = Request::get(server.url(path)).body(Body::empty());
    send(request.expect("a request")).await
}

async fn send(request: Request<Body>) -> Bytes {
    let reply = client().request(request).await.expect("a reply");
    assert_eq!(reply.status(), StatusCode::OK);
    let body = reply.into_body().collect().await;
    body.expect("its body").to_bytes()
}
