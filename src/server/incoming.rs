//! What a client's call says: its token, and that it has no body.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::{Body, HttpBody};
use axum::http::Uri;

use super::body::BodyError;
use super::calls::body_failed;
use super::metrics;
use super::query::parameters;
use super::refusal::Refusal;

/// The token that a call came with. An SDK's second attempt may append it once more
/// (easywechat#201).
pub(super) fn presented(uri: &Uri) -> Result<String, Refusal> {
    let mut tokens = parameters(uri.query().unwrap_or_default())
        .filter(|(name, _)| name == "access_token")
        .map(|(_, token)| token);
    let refuse = |errcode, errmsg| {
        metrics::call_refused("malformed");
        Refusal::new(errcode, errmsg)
    };
    let token = tokens.next().filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| refuse(41001, "access_token missing"))?;
    if tokens.any(|other| other != token) {
        // It would be up to the server which of them counts.
        return Err(refuse(
            40001,
            "invalid credential, there is more than one access_token",
        ));
    }
    Ok(token.into_owned())
}

/// The body of a call that is to have none. Clients of HTTP send it in a way that servers read as
/// the next call, or drop it (hyper#1925).
pub(super) async fn without_data(mut body: Body) -> Result<Body, Refusal> {
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| {
            let error = error.into_inner();
            let error = error.downcast::<BodyError>();
            body_failed(&error.map_or_else(BodyError::Broken, |error| *error))
        })?;
        if frame.data_ref().is_some_and(|data| !data.is_empty()) {
            return Err(Refusal::new(
                43002,
                "require POST method: not sent, a GET or HEAD has no body",
            ));
        }
    }
    Ok(Body::empty())
}
