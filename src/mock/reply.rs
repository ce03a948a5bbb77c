use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::Value;

use super::body::ReplyBody;

/// How WeChat spells it; the parameter is not one that `application/json` has.
pub(super) const JSON: &str = "application/json; encoding=utf-8";
pub(super) const TEXT: &str = "text/plain";
pub(super) const JPEG: &str = "image/jpeg";

/// A reply, and what the log says about it.
pub(super) struct Reply {
    status: StatusCode,
    content_type: &'static str,
    errcode: Option<i64>,
    body: ReplyBody,
}

impl Reply {
    /// A result. Some have no `errcode`, as at WeChat.
    pub(super) fn json(value: &Value) -> Reply {
        Reply::json_bytes(value.to_string().into(), Some(0))
    }

    pub(super) fn ok() -> Reply {
        Reply::json_bytes(
            Bytes::from_static(br#"{"errcode":0,"errmsg":"ok"}"#),
            Some(0),
        )
    }

    /// An error in WeChat's wording.
    pub(super) fn error(errcode: i64) -> Reply {
        Reply::error_saying(errcode, wording(errcode))
    }

    /// An error whose wording differs from the usual one; it must not need escapes in JSON.
    pub(super) fn error_saying(errcode: i64, errmsg: &str) -> Reply {
        let json = format!(
            r#"{{"errcode":{errcode},"errmsg":"{errmsg} rid: {}"}}"#,
            rid()
        );
        Reply::json_bytes(json.into(), Some(errcode))
    }

    /// Exactly these bytes. What they mean to a client is told to the log.
    pub(super) fn verbatim(body: Bytes) -> Reply {
        let errcode = match serde_json::from_slice::<Value>(&body) {
            Ok(Value::Object(fields)) => match fields.get("errcode") {
                Some(errcode) => errcode.as_i64(),
                None => Some(0),
            },
            _ => None,
        };
        Reply::json_bytes(body, errcode)
    }

    /// A page of HTML, as proxies send. A number that is no status counts as 500.
    pub(super) fn html(status: u16) -> Reply {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let page = format!(
            "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n\
             <center><h1>{status}</h1></center>\r\n</body>\r\n</html>\r\n"
        );
        Reply {
            status,
            content_type: "text/html",
            errcode: None,
            body: ReplyBody::Bytes(page.into()),
        }
    }

    pub(super) fn picture(body: ReplyBody) -> Reply {
        Reply {
            status: StatusCode::OK,
            content_type: JPEG,
            errcode: None,
            body,
        }
    }

    fn json_bytes(body: Bytes, errcode: Option<i64>) -> Reply {
        Reply {
            status: StatusCode::OK,
            content_type: JSON,
            errcode,
            body: ReplyBody::Bytes(body),
        }
    }

    /// The same reply, called something else.
    pub(super) fn called(mut self, content_type: &'static str) -> Reply {
        self.content_type = content_type;
        self
    }

    pub(super) fn errcode(&self) -> Option<i64> {
        self.errcode
    }

    pub(super) fn into_response(self) -> Response<ReplyBody> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response
    }
}

/// From the official page "Global return codes".
fn wording(errcode: i64) -> &'static str {
    match errcode {
        -1 => "system error",
        0 => "ok",
        40001 => "invalid credential, access_token is invalid or not latest",
        40002 => "invalid grant_type",
        40003 => "invalid openid",
        40004 => "invalid media type",
        40008 => "invalid message type",
        40013 => "invalid appid",
        40014 => "invalid access_token",
        40016 => "invalid button size",
        40023 => "invalid sub button size",
        40125 => "invalid appsecret",
        40164 => "invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist",
        40243 => "AppSecret has been frozen",
        41001 => "access_token missing",
        41002 => "appid missing",
        41004 => "appsecret missing",
        41005 => "media data missing",
        42001 => "access_token expired",
        43001 => "require GET method",
        43002 => "require POST method",
        45002 => "content size out of limit",
        45009 => "reach max api daily quota limit",
        45011 => "api minute-quota reach limit, must slower, retry next minute",
        46003 => "menu no exist",
        47001 => "data format error",
        48001 => "api unauthorized",
        50002 => "user limited",
        _ => "error",
    }
}

/// The id by which WeChat's support finds a request: the time and two numbers, in hex.
fn rid() -> String {
    format!(
        "{:08x}-{:08x}-{:08x}",
        unix_time(),
        fastrand::u32(..),
        fastrand::u32(..)
    )
}

pub(super) fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
