//! Requests of axum's for a client of reqwest's.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::reqwest::Body;

/// A request with axum's body as one with reqwest's: for what passes calls on, as a gateway does.
///
/// The body streams, and its length stays known where it is.
///
/// ```
/// use axum::body::Body;
/// use tower::ServiceExt;
#[doc = concat!("use tower_wechat::", module!(), "::{HttpClient, client_builder, from_axum};")]
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mock = tower_wechat::mock::MockWechat::start().await;
/// # let uri = format!("{}/cgi-bin/get_api_domain_ip", mock.url());
/// let http = HttpClient::new(client_builder().build()?).map_request(from_axum);
/// let reply = http.oneshot(http::Request::get(uri).body(Body::empty())?).await?;
/// assert!(reply.status().is_success());
/// # Ok(())
/// # }
/// ```
pub fn from_axum(request: http::Request<axum_core::body::Body>) -> http::Request<Body> {
    request.map(|body| match body.is_end_stream() {
        true => Body::default(),
        false => Body::wrap(Unshared(Mutex::new(body))),
    })
}

/// `Sync`, as reqwest wants a body to be, and without a lock: whoever polls it has it alone.
struct Unshared(Mutex<axum_core::body::Body>);

impl http_body::Body for Unshared {
    type Data = Bytes;
    type Error = axum_core::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum_core::Error>>> {
        let body = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_ok_and(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body.size_hint()
    }
}
