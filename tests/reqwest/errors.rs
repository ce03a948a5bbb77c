//! What an error says to the person who reads it.

use std::time::Duration;

use axum::http::Uri;
use axum::response::Redirect;
use axum::routing::any;
use tower::{Layer, ServiceExt};
use tower_wechat::{ClientCredential, StableToken, TokenSource};

use super::super::*;
use super::adapters::{HttpClient, client_builder};
use super::reqwest::{Body, Client};

const SECRET: &str = "S3CRET s3cret+S3CRET";

/// What a source over a plain client says when it gets no token from the server at `origin`.
async fn said_by_a_source(client: Client, origin: &str) -> String {
    let get = ClientCredential::new(client.clone(), "wx1", SECRET).base_url(origin);
    let post = StableToken::new(client, "wx1", SECRET).base_url(origin);
    let get = get.issue(None).await.unwrap_err();
    let post = post.issue(None).await.unwrap_err();
    assert_eq!(get.to_string(), post.to_string());
    assert!(format!("{get:?}").contains(get.to_string().rsplit(": ").next().unwrap()));
    get.to_string()
}

fn patient() -> Client {
    client_builder().build().unwrap()
}

/// For servers that never answer.
fn hasty() -> Client {
    let client = client_builder().timeout(Duration::from_millis(50));
    client.build().unwrap()
}

/// A server of which every path is `answer`.
async fn every_path<T: 'static>(answer: impl axum::handler::Handler<T, ()>) -> String {
    serve(Router::new().fallback(any(answer))).await
}

#[tokio::test]
async fn a_source_says_what_the_client_says() {
    let said = said_by_a_source(patient(), &nobody()).await;
    assert!(
        said.starts_with("the token request failed: error sending request: "),
        "{said}"
    );
    assert!(said.contains("Connection refused"), "{said}");

    let hangs = every_path(async || std::future::pending::<()>().await).await;
    let said = said_by_a_source(hasty(), &hangs).await;
    assert!(said.ends_with(": operation timed out"), "{said}");
}

#[tokio::test]
async fn a_source_does_not_say_what_tells_the_secret() {
    // As a policy of a user's does that names the place to which it does not go.
    let away = every_path(async |uri: Uri| Redirect::temporary(&format!("/away{uri}"))).await;
    let client = client_builder().redirect(super::reqwest::redirect::Policy::custom(|attempt| {
        let place = format!("not to {}", attempt.url());
        attempt.error(place)
    }));
    let source = ClientCredential::new(client.build().unwrap(), "wx1", SECRET).base_url(&away);
    let said = source.issue(None).await.unwrap_err().to_string();
    assert_eq!(
        said,
        "the token request failed: a redirect that cannot be followed"
    );
}

/// What the layer says of a call to the server at `origin`, over `HttpClient`.
async fn said_of_a_call(client: Client, origin: &str) -> String {
    let service = layer_at(origin).layer(HttpClient::new(client));
    let request = http::Request::get(format!("{origin}/cgi-bin/user/get"));
    let reply = service
        .oneshot(request.body(Body::default()).unwrap())
        .await;
    let error = reply.map(drop).unwrap_err();
    assert_eq!(format!("{error:?}"), format!("Service({error})"));
    error.to_string()
}

#[tokio::test]
async fn the_layer_says_what_kind_an_error_of_the_clients_is() {
    let hangs = every_path(async || std::future::pending::<()>().await).await;
    let ends_nowhere = every_path(async |uri: Uri| Redirect::temporary(&uri.to_string())).await;
    for (client, origin, said) in [
        (patient(), nobody(), "no connection: connection refused"),
        (hasty(), hangs, "it took too long"),
        (
            patient(),
            ends_nowhere,
            "a redirect that cannot be followed",
        ),
    ] {
        let said_of_it = said_of_a_call(client, &origin).await;
        assert_eq!(said_of_it, format!("the call failed: {said}"));
    }
}
