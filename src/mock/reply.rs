use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::Value;

use super::body::ReplyBody;
use super::wording::{error_text, wecom_error_text};
use crate::platform::Platform;

/// How WeChat spells it; the parameter is not one that `application/json` has.
pub(super) const JSON: &str = "application/json; encoding=utf-8";
pub(super) const TEXT: &str = "text/plain";
pub(super) const JPEG: &str = "image/jpeg";

pub(super) const OK: &str = r#"{"errcode":0,"errmsg":"ok"}"#;

/// Headers of captured replies. They are not documented.
const RET_KEY: HeaderName = HeaderName::from_static("retkey");
const LOGIC_RET: HeaderName = HeaderName::from_static("logicret");

/// A reply, and what the log says about it.
pub(super) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    errcode: Option<i64>,
    body: ReplyBody,
}

impl Reply {
    /// A result. Some have no `errcode`, as at WeChat.
    pub(super) fn json(value: &Value) -> Reply {
        Reply::json_bytes(value.to_string().into(), Some(0))
    }

    pub(super) fn ok() -> Reply {
        Reply::json_bytes(Bytes::from_static(OK.as_bytes()), Some(0))
    }

    /// An error in the wording of WeChat or of WeCom.
    pub(super) fn error_of(platform: Platform, errcode: i64) -> Reply {
        if platform == Platform::WeCom {
            return Reply::json_bytes(wecom_error_text(errcode).into(), Some(errcode));
        }
        let mut reply = Reply::json_bytes(error_text(errcode).into(), Some(errcode));
        reply
            .headers
            .insert(RET_KEY, HeaderValue::from_static("11"));
        reply.headers.insert(LOGIC_RET, HeaderValue::from(errcode));
        reply
    }

    /// Exactly these bytes. What they mean to a client is told to the log.
    pub(super) fn verbatim(body: Bytes) -> Reply {
        let errcode = errcode_in(&body);
        Reply::json_bytes(body, errcode)
    }

    /// A reply of a user's own.
    pub(super) fn own(status: StatusCode, headers: HeaderMap, body: Bytes) -> Reply {
        Reply {
            status,
            headers,
            errcode: errcode_in(&body),
            body: ReplyBody::Bytes(body),
        }
    }

    /// A page of HTML, as proxies send. A number that is no status counts as 500.
    pub(super) fn html(code: u16) -> Reply {
        let status = status(code);
        let page = format!(
            "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n\
             <center><h1>{status}</h1></center>\r\n</body>\r\n</html>\r\n"
        );
        Reply {
            status,
            ..Reply::typed("text/html", ReplyBody::Bytes(page.into()))
        }
    }

    /// A status and nothing else.
    pub(super) fn empty(status: StatusCode) -> Reply {
        Reply {
            status,
            headers: HeaderMap::new(),
            errcode: None,
            body: ReplyBody::Bytes(Bytes::new()),
        }
    }

    pub(super) fn picture(body: ReplyBody) -> Reply {
        Reply::typed(JPEG, body)
    }

    fn json_bytes(body: Bytes, errcode: Option<i64>) -> Reply {
        Reply {
            errcode,
            ..Reply::typed(JSON, ReplyBody::Bytes(body))
        }
    }

    fn typed(content_type: &'static str, body: ReplyBody) -> Reply {
        let reply = Reply {
            body,
            ..Reply::empty(StatusCode::OK)
        };
        reply.called(content_type)
    }

    /// The same reply, called something else.
    pub(super) fn called(mut self, content_type: &'static str) -> Reply {
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self
    }

    pub(super) fn errcode(&self) -> Option<i64> {
        self.errcode
    }

    pub(super) fn into_response(self) -> Response<ReplyBody> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// A number that is no status counts as 500.
pub(super) fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// 0 where an object has none.
fn errcode_in(body: &[u8]) -> Option<i64> {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(fields)) => match fields.get("errcode") {
            Some(errcode) => errcode.as_i64(),
            None => Some(0),
        },
        _ => None,
    }
}

pub(super) fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
