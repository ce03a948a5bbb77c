//! A request for a token, as a client sends it.

use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::query::parameters;
use super::refusal::Refusal;

/// Token requests are about 200 bytes, and one with a rejected token about 700.
const LARGEST: usize = 16 * 1024;

/// A client that is slower than this with so little holds a connection on purpose.
const SLOWEST: Duration = Duration::from_secs(10);

/// What a client wants.
#[derive(Default)]
pub(super) struct TokenRequest {
    pub(super) grant_type: Option<String>,
    pub(super) appid: Option<String>,
    pub(super) secret: Option<Zeroizing<String>>,
    pub(super) force_refresh: bool,
    pub(super) rejected_token: Option<Zeroizing<String>>,
}

impl TokenRequest {
    /// That of `GET /cgi-bin/token`.
    pub(super) fn from_query(query: &str) -> Self {
        let mut request = TokenRequest::default();
        for (name, value) in parameters(query) {
            match &*name {
                "grant_type" => request.grant_type = Some(value.into_owned()),
                "appid" => request.appid = Some(value.into_owned()),
                "secret" => request.secret = Some(Zeroizing::new(value.into_owned())),
                _ => {}
            }
        }
        request
    }

    /// That of `POST /cgi-bin/stable_token`.
    pub(super) async fn from_body(body: Body) -> Result<Self, Refusal> {
        let body = timeout(SLOWEST, Limited::new(body, LARGEST).collect()).await;
        let Ok(Ok(body)) = body else {
            return Err(not_json());
        };
        match serde_json::from_slice(&body.to_bytes()) {
            Ok(Value::Object(fields)) => Ok(TokenRequest::from_fields(fields)),
            _ => Err(not_json()),
        }
    }

    /// What has another type than it should counts as missing.
    fn from_fields(mut fields: Map<String, Value>) -> Self {
        // Moved out and not copied, so that zeroizing is worth it.
        let mut text = |name| match fields.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        TokenRequest {
            grant_type: text("grant_type"),
            appid: text("appid"),
            secret: text("secret").map(Zeroizing::new),
            rejected_token: text("rejected_token").map(Zeroizing::new),
            force_refresh: fields.get("force_refresh").and_then(Value::as_bool) == Some(true),
        }
    }
}

fn not_json() -> Refusal {
    Refusal::new(47001, "data format error: the body is to be a JSON object")
}
