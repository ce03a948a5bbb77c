//! A no in WeChat's own form.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::platform;
use crate::token::TokenError;

/// What a client is told in place of what it asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    errcode: i64,
    errmsg: String,
}

impl Refusal {
    /// As WeChat would give it: the status is 200, for SDKs look no further if it is not.
    pub(super) fn new(errcode: i64, errmsg: impl Into<String>) -> Self {
        Refusal {
            status: StatusCode::OK,
            errcode,
            errmsg: errmsg.into(),
        }
    }

    /// What WeChat would not say.
    pub(super) fn with_status(status: StatusCode, errcode: i64, errmsg: impl Into<String>) -> Self {
        Refusal {
            status,
            ..Refusal::new(errcode, errmsg)
        }
    }

    /// No token can be had from WeChat. It is not the client's fault, so WeChat's errcode is told as text only: a client
    /// that read 40125 would look for a mistake in its own secret.
    pub(super) fn no_token(why: &TokenError) -> Self {
        Refusal::new(platform::BUSY, format!("no access_token: {why}"))
    }

    pub(super) fn errcode(&self) -> i64 {
        self.errcode
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let fields = json!({"errcode": self.errcode, "errmsg": self.errmsg});
        let mut reply = json_reply(&fields);
        *reply.status_mut() = self.status;
        reply
    }
}

pub(super) fn json_reply(fields: &impl Serialize) -> Response {
    const NEVER_KEPT: HeaderValue = HeaderValue::from_static("no-store");
    const JSON: HeaderValue = HeaderValue::from_static("application/json");

    let fields = serde_json::to_vec(fields).expect("texts and numbers can be written");
    let mut reply = Response::new(Body::from(fields));
    reply.headers_mut().insert(header::CONTENT_TYPE, JSON);
    reply
        .headers_mut()
        .insert(header::CACHE_CONTROL, NEVER_KEPT);
    reply
}
