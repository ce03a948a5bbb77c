//! One token request: what all sources that ask over HTTP have in common.

use std::future::poll_fn;
use std::marker::PhantomData;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tower_service::Service;
use zeroize::Zeroizing;

use super::client::{IncomingReply, OutgoingRequest};
use super::secret::Secret;
use super::token_reply::{self, LARGEST_REPLY};
use crate::base_url::BaseUrl;
use crate::reply::Coding;
use crate::token::{AccessToken, BoxError, ClientError, TokenError};

/// A header by which a token server of this crate's says in its replies what WeChat does not know.
pub(crate) const SAYS: HeaderName = HeaderName::from_static("x-tower-wechat");

/// That it takes the field `rejected_token`.
pub(crate) const TAKES_REJECTED_TOKEN: HeaderValue = HeaderValue::from_static("rejected_token");

/// What a token request brought.
pub(super) struct Answer {
    pub(super) token: AccessToken,
    /// Whether the server is one of this crate's.
    pub(super) takes_rejected_token: bool,
}

/// Whom to ask, and by which client.
pub(super) struct Endpoint<S, Q> {
    http: S,
    base_url: String,
    request: PhantomData<fn() -> Q>,
}

impl<S, Q> Endpoint<S, Q> {
    pub(super) fn new(http: S, base_url: &str) -> Self {
        Endpoint {
            http,
            base_url: base_url.to_owned(),
            request: PhantomData,
        }
    }

    pub(super) fn base_url(&self) -> &str {
        &self.base_url
    }

    /// # Panics
    ///
    /// When `base_url` is not one: a mistake in the configuration, found where it is made.
    #[track_caller]
    pub(super) fn set_base_url(&mut self, base_url: &str) {
        match BaseUrl::parse(base_url) {
            Ok(base_url) => base_url.as_str().clone_into(&mut self.base_url),
            Err(error) => panic!("{error}"),
        }
    }
}

impl<S, Q> Clone for Endpoint<S, Q>
where
    S: Clone,
{
    fn clone(&self) -> Self {
        Endpoint {
            http: self.http.clone(),
            base_url: self.base_url.clone(),
            request: PhantomData,
        }
    }
}

impl<S, Q> Endpoint<S, Q>
where
    S: Service<Q> + Clone + Send + Sync,
    S::Response: IncomingReply,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send,
    Q: OutgoingRequest,
{
    pub(super) async fn get(
        &self,
        path_and_query: &Zeroizing<String>,
        secret: &Secret,
    ) -> Result<AccessToken, TokenError> {
        let request = self.request(Method::GET, path_and_query, Bytes::new())?;
        Ok(self.send(request, secret).await?.token)
    }

    pub(super) async fn post_json(
        &self,
        path: &str,
        json: String,
        secret: &Secret,
    ) -> Result<Answer, TokenError> {
        let mut request = self.request(Method::POST, path, Bytes::from(json))?;
        request.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        self.send(request, secret).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Bytes>, TokenError> {
        let uri = Zeroizing::new(format!("{}{path}", self.base_url));
        Request::builder()
            .method(method)
            .uri(uri.as_str())
            .body(body)
            .map_err(|_| TokenError::other("the appid or the secret makes the URL too long"))
    }

    async fn send(&self, request: Request<Bytes>, secret: &Secret) -> Result<Answer, TokenError> {
        let failed = |error: BoxError| {
            TokenError::Transport(match Q::printable(error) {
                Ok(error) => ClientError::printed(error, |text| secret.is_in(text)),
                Err(error) => ClientError::of_client(error),
            })
        };
        let request = Q::from_http(request).map_err(failed)?;
        let mut http = self.http.clone();
        let ready = poll_fn(|cx| http.poll_ready(cx)).await;
        ready.map_err(|error| failed(error.into()))?;
        let reply = http.call(request).await;
        let reply = reply.map_err(|error| failed(error.into()))?.into_http();
        let status = reply.status();
        let takes_rejected_token = reply.headers().get(SAYS) == Some(&TAKES_REJECTED_TOKEN);
        let coding = Coding::of(reply.headers());
        let body = Limited::new(reply.into_body(), LARGEST_REPLY)
            .collect()
            .await
            .map_err(|error| match error.downcast::<LengthLimitError>() {
                Ok(_) => TokenError::invalid("it is larger than 64 KiB"),
                Err(error) => failed(error),
            })?
            .to_bytes();
        Ok(Answer {
            token: token_reply::read(status, coding, &body, secret)?,
            takes_rejected_token,
        })
    }
}
