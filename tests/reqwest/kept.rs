//! What reqwest offers, and the adapters keep.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::any;
use futures_util::{StreamExt, stream};
use serde_json::Value;

use super::super::*;
use super::ADAPTERS;
use super::adapter::{Setup, message_at};
use super::reqwest::{Client, Response};

/// All that a caller learns of a reply before its body.
type Seen = (
    (StatusCode, axum::http::Version),
    (Option<u64>, Option<SocketAddr>),
    axum::http::HeaderMap,
);

fn seen(reply: &Response) -> Seen {
    let mut headers = reply.headers().clone();
    headers.remove(header::DATE);
    (
        (reply.status(), reply.version()),
        (reply.content_length(), reply.remote_addr()),
        headers,
    )
}

#[tokio::test]
async fn a_reply_is_the_clients_own_also_after_a_replay() {
    // A stream that the layer does not look into, JSON that it has read ahead, and a page with
    // another status.
    for path in [
        "/cgi-bin/media/get?size=100000",
        "/cgi-bin/user/get",
        "/nowhere",
    ] {
        for (name, wrap) in ADAPTERS {
            let setup = Setup::revoked().await;
            let adapter = setup.wrapped(wrap);
            let reply = adapter.send(setup.get(path)).await.unwrap();
            let is_api = path != "/nowhere";
            assert_eq!(
                outcome_in(reply.extensions()).replayed(),
                is_api,
                "{name}: {path}"
            );

            let mut request = setup.get(path);
            if let Some(token) = setup.wechat.current_token() {
                request
                    .url_mut()
                    .query_pairs_mut()
                    .append_pair("access_token", &token);
            }
            let alone = setup.client.execute(request).await.unwrap();
            assert_eq!(seen(&reply), seen(&alone), "{name}: {path}");
            assert_eq!(
                reply.remote_addr(),
                Some(setup.wechat.addr()),
                "{name}: {path}"
            );
            assert!(reply.content_length().is_some(), "{name}: {path}");
            assert_eq!(reply.url().as_str(), setup.url(path), "{name}: {path}");
            let (body, alones) = (reply.bytes().await.unwrap(), alone.bytes().await.unwrap());
            assert!(body == alones, "{name}: {path}");
        }
    }
}

#[tokio::test]
async fn a_reply_is_read_as_json() {
    for (name, wrap) in ADAPTERS {
        let setup = Setup::revoked().await;
        let reply = setup
            .wrapped(wrap)
            .send(setup.get("/cgi-bin/user/get"))
            .await;
        let users: Value = reply.unwrap().json().await.unwrap();
        assert_eq!(users["data"]["openid"][1], "OPENID2", "{name}");
    }
}

#[tokio::test]
async fn a_request_is_sent_as_the_client_alone_sends_it() {
    for (name, wrap) in ADAPTERS {
        let setup = Setup::revoked().await;
        let adapter = setup.wrapped(wrap);
        let request = || {
            let mut request = setup.message("o1");
            request.headers_mut().append("x-mark", "a".parse().unwrap());
            request.headers_mut().append("x-mark", "b".parse().unwrap());
            request.url_mut().set_query(Some("lang=zh%5FCN"));
            request
        };
        adapter.send(request()).await.unwrap();
        setup.client.execute(request()).await.unwrap();

        let requests = setup.wechat.requests();
        let [first, _token, second, alone] = &requests[..] else {
            panic!("{name}: {requests:?}")
        };
        for sent in [first, second] {
            assert_eq!(sent.method(), alone.method(), "{name}");
            assert_eq!(sent.path(), alone.path(), "{name}");
            let query = sent
                .query()
                .unwrap()
                .rsplit_once("&access_token=")
                .unwrap()
                .0;
            assert_eq!(Some(query), alone.query(), "{name}");
            // `content-length` is among them.
            assert_eq!(sent.headers(), alone.headers(), "{name}");
            assert_eq!(sent.body_sha256(), alone.body_sha256(), "{name}");
        }
    }
}

/// A server that never comes to the end of what it has to say, and how many requests it has got.
async fn endless() -> (String, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let app = Router::new()
        .route("/never", any(async || std::future::pending::<()>().await))
        .route(
            "/rejects-and-then-never",
            any(async |State(requests): State<Arc<AtomicUsize>>| {
                if requests.fetch_add(1, Ordering::SeqCst) > 0 {
                    std::future::pending::<()>().await;
                }
                REJECTED
            }),
        )
        .route(
            "/a-beginning",
            any(async || {
                let beginning = Ok::<_, std::io::Error>("a beginning");
                let body = stream::iter([beginning]).chain(stream::pending());
                axum::body::Body::from_stream(body).into_response()
            }),
        )
        .with_state(Arc::clone(&requests));
    (serve(app).await, requests)
}

#[tokio::test]
async fn a_timeout_that_is_set_on_a_request_fires() {
    let (origin, _) = endless().await;
    let client = Client::new();
    for (name, wrap) in ADAPTERS {
        let adapter = wrap(client.clone(), layer_at(&origin));
        let request = client
            .get(format!("{origin}/never"))
            .timeout(Duration::from_millis(50));
        let reply = in_time(adapter.send(request.build().unwrap())).await;
        let error = reply.unwrap_err();
        assert!(error.clients().is_timeout(), "{name}");
    }
}

#[tokio::test]
async fn a_timeout_that_is_set_on_a_request_holds_for_the_replay() {
    for (name, wrap) in ADAPTERS {
        let (origin, requests) = endless().await;
        let client = Client::new();
        let adapter = wrap(client.clone(), layer_at(&origin));
        // Long enough for the first sending on any machine.
        let request = client.get(format!("{origin}/rejects-and-then-never"));
        let request = request.timeout(Duration::from_secs(1)).build().unwrap();
        let error = in_time(adapter.send(request)).await.unwrap_err();
        assert_eq!(requests.load(Ordering::SeqCst), 2, "{name}");
        assert!(error.clients().is_timeout(), "{name}");
    }
}

#[tokio::test]
async fn a_timeout_that_is_set_on_a_request_holds_for_the_replys_body() {
    let (origin, _) = endless().await;
    let client = Client::new();
    for (name, wrap) in ADAPTERS {
        let adapter = wrap(client.clone(), layer_at(&origin));
        let request = client.get(format!("{origin}/a-beginning"));
        let request = request.timeout(Duration::from_secs(1)).build().unwrap();
        let mut reply = adapter.send(request).await.unwrap();
        assert_eq!(
            reply.chunk().await.unwrap().unwrap(),
            "a beginning",
            "{name}"
        );
        let error = in_time(reply.chunk()).await.unwrap_err();
        assert!(error.is_timeout(), "{name}");
    }
}

#[tokio::test]
async fn a_body_in_memory_is_sent_on_after_a_redirect() {
    for (name, wrap) in ADAPTERS {
        let setup = Setup::revoked().await;
        let wechat = setup.wechat.url();
        // As proxies do that stand before a server: the query goes along, and the token in it.
        let elsewhere = async move |uri: Uri| Redirect::temporary(&format!("{wechat}{uri}"));
        let proxy = serve(Router::new().fallback(elsewhere)).await;
        let layer = setup.layer.clone().api_origin(&proxy);
        let adapter = wrap(setup.client.clone(), layer);

        // With the revoked token, so that the replay is redirected as well.
        let request = message_at(&setup.client, &proxy, "o1");
        let reply = adapter.send(request).await.unwrap();
        assert_eq!(reply.status(), 200, "{name}");
        assert_eq!(
            reply.url().as_str(),
            setup.url("/cgi-bin/message/custom/send"),
            "{name}"
        );
        assert!(outcome_in(reply.extensions()).replayed(), "{name}");
        assert_eq!(reply.text().await.unwrap(), OK, "{name}");
        assert_eq!(setup.wechat.messages().len(), 1, "{name}");
    }
}
