//! One token request: what all sources that ask over HTTP have in common.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tower_service::Service;
use zeroize::Zeroizing;

use super::client::{IncomingReply, OutgoingRequest};
use super::secret::Secret;
use crate::base_url::BaseUrl;
use crate::reply::{errcode_of, lenient};
use crate::token::{AccessToken, BoxError, ClientError, TokenError};

/// Token replies are about 200 bytes.
const LARGEST_REPLY: usize = 64 * 1024;

/// A longer life than this is a mistake: WeChat's tokens live for 7200 s.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

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
        // Boxed first: an error that is a `String` was not written by our caller, and would be
        // printed with the URL that it may well hold.
        let failed = |error: BoxError| match Q::printable(error) {
            Ok(error) => TokenError::Transport(ClientError::printed(error, |t| secret.is_in(t))),
            Err(error) => TokenError::transport(error),
        };
        let request = Q::from_http(request).map_err(failed)?;
        let mut http = self.http.clone();
        let ready = poll_fn(|cx| http.poll_ready(cx)).await;
        ready.map_err(|error| failed(error.into()))?;
        let reply = http.call(request).await;
        let reply = reply.map_err(|error| failed(error.into()))?.into_http();
        let status = reply.status();
        let takes_rejected_token = reply.headers().get(SAYS) == Some(&TAKES_REJECTED_TOKEN);
        let body = Limited::new(reply.into_body(), LARGEST_REPLY)
            .collect()
            .await
            .map_err(|error| match error.downcast::<LengthLimitError>() {
                Ok(_) => TokenError::invalid("it is larger than 64 KiB"),
                Err(error) => failed(error),
            })?
            .to_bytes();
        Ok(Answer {
            token: read(status, &body, secret)?,
            takes_rejected_token,
        })
    }
}

fn read(status: StatusCode, body: &[u8], secret: &Secret) -> Result<AccessToken, TokenError> {
    match lenient(body) {
        Ok(Value::Object(fields)) => read_fields(status, fields, secret),
        // An HTML page of a proxy's: its status says more than that it is no JSON.
        _ if !status.is_success() => Err(TokenError::Status(status)),
        _ if body.is_empty() => Err(TokenError::invalid("it is empty")),
        _ => Err(TokenError::invalid("it is not a JSON object")),
    }
}

fn read_fields(
    status: StatusCode,
    mut fields: Map<String, Value>,
    secret: &Secret,
) -> Result<AccessToken, TokenError> {
    // Moved out and not copied, so that the token's own zeroizing is enough.
    let token = fields.remove("access_token");
    let errcode = fields.get("errcode").and_then(errcode_of).unwrap_or(0);
    if errcode != 0 {
        let errmsg = fields.get("errmsg").and_then(Value::as_str).unwrap_or("");
        return Err(TokenError::api(errcode, secret.redact(errmsg)));
    }
    let token = match token {
        Some(Value::String(token)) if !token.is_empty() => Zeroizing::new(token),
        _ if !status.is_success() => return Err(TokenError::Status(status)),
        Some(Value::String(_)) => return Err(TokenError::invalid("its access_token is empty")),
        Some(_) => return Err(TokenError::invalid("its access_token is not a string")),
        None => return Err(TokenError::invalid("it has no access_token")),
    };
    let life = match fields.get("expires_in") {
        Some(Value::Number(seconds)) => seconds.as_u64().map(Duration::from_secs),
        Some(_) => return Err(TokenError::invalid("its expires_in is not a number")),
        None => return Err(TokenError::invalid("it has no expires_in")),
    };
    match life {
        Some(life) if !life.is_zero() && life <= LONGEST_LIFE => {
            Ok(AccessToken::new(token.as_str(), life))
        }
        _ => Err(TokenError::invalid(
            "its expires_in is not a number of seconds between 1 and 2592000",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_body(body: &str) -> Result<AccessToken, TokenError> {
        read(StatusCode::OK, body.as_bytes(), &Secret::new("S3CRET"))
    }

    fn reason(body: &str) -> String {
        read_body(body).unwrap_err().to_string()
    }

    #[test]
    fn a_token_reply_of_wechat_or_wecom_is_read() {
        let token = read_body(r#"{"access_token":"78_Zx0","expires_in":7200}"#).unwrap();
        assert_eq!(token.secret(), "78_Zx0");
        let wecom = r#"{"errcode":0,"errmsg":"ok","access_token":"Zx0","expires_in":7200}"#;
        assert_eq!(read_body(wecom).unwrap().secret(), "Zx0");
    }

    #[test]
    fn a_token_of_many_characters_is_fine() {
        let long = "x".repeat(2048);
        let reply = format!(r#"{{"access_token":"{long}","expires_in":7200}}"#);
        assert_eq!(read_body(&reply).unwrap().secret(), long);
    }

    #[test]
    fn an_invalid_token_reply_says_what_is_wrong_with_it() {
        for (reply, wrong) in [
            ("", "empty"),
            ("<html>busy</html>", "not a JSON object"),
            (r#"{"access_token":"t","expi"#, "not a JSON object"),
            (r#"["t"]"#, "not a JSON object"),
            (
                r#"{"access_token":"","expires_in":7200}"#,
                "access_token is empty",
            ),
            (r#"{"access_token":null,"expires_in":7200}"#, "not a string"),
            (r#"{"expires_in":7200}"#, "no access_token"),
            (r#"{"access_token":"t"}"#, "no expires_in"),
            (
                r#"{"access_token":"t","expires_in":"7200"}"#,
                "not a number",
            ),
            (r#"{"access_token":"t","expires_in":0}"#, "between 1 and"),
            (r#"{"access_token":"t","expires_in":-1}"#, "between 1 and"),
            (r#"{"access_token":"t","expires_in":1.5}"#, "between 1 and"),
            (r#"{"access_token":"t","expires_in":9e18}"#, "between 1 and"),
            (
                r#"{"access_token":"t","expires_in":99999999999}"#,
                "between 1 and",
            ),
        ] {
            let said = reason(reply);
            assert!(said.contains(wrong), "{reply}: {said}");
            assert!(matches!(
                read_body(reply),
                Err(TokenError::InvalidReply { .. })
            ));
        }
    }

    #[test]
    fn an_errcode_is_wechats_word_whatever_the_http_status() {
        let body = br#"{"errcode":40164,"errmsg":"invalid ip 203.0.113.7 S3CRET"}"#;
        let error = read(StatusCode::BAD_REQUEST, body, &Secret::new("S3CRET")).unwrap_err();
        assert_eq!(error.errcode(), Some(40164));
        assert!(!error.to_string().contains("S3CRET"), "{error}");
        assert!(error.to_string().contains("allow-list"), "{error}");
    }

    #[test]
    fn a_page_of_a_proxys_is_told_by_its_status() {
        let error = read(StatusCode::BAD_GATEWAY, b"<html>", &Secret::new("")).unwrap_err();
        assert!(matches!(error, TokenError::Status(StatusCode::BAD_GATEWAY)));
        let error = read(StatusCode::BAD_GATEWAY, b"{}", &Secret::new("")).unwrap_err();
        assert!(matches!(error, TokenError::Status(StatusCode::BAD_GATEWAY)));
    }

    #[test]
    fn a_raw_control_character_in_errmsg_is_read_over() {
        let error = read_body("\u{feff}\n{\"errcode\":40013,\"errmsg\":\"a\u{1}b\"}").unwrap_err();
        assert_eq!(error.errcode(), Some(40013));
    }
}
