//! A no in WeChat's own form.

use std::fmt;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::platform;
use crate::token::TokenError;

/// The errcode of what is neither WeChat's word nor cured by asking again: what the server itself
/// has to say.
///
/// WeChat has none like it: the lists of WxJava (official accounts, mini programs, WeCom, open
/// platform; the largest is 10080002), of wechatpy and of wechat-mp-sdk have none of eight digits
/// but those that begin with 10. SDKs repeat a call on -1, and get another token on 40001, 40014
/// and 42001: they do neither on an errcode that they do not know. It fits 32 bits with a sign, as
/// some of them read it.
pub(super) const OF_THE_SERVER: i64 = 59_900_502;

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

    /// What the server itself has to say, and asking again does not cure.
    pub(super) fn of_server(what: impl fmt::Display) -> Self {
        Refusal::new(OF_THE_SERVER, what.to_string())
    }

    pub(super) fn not_sent(what: impl fmt::Display) -> Self {
        Refusal::of_server(format_args!("not sent: {what}"))
    }

    /// A call whose reply did not come, or not whole. To send it again may be to send it twice.
    pub(super) fn may_have_acted(what: impl fmt::Display) -> Self {
        Refusal::of_server(format_args!("WeChat may have acted on it: {what}"))
    }

    /// No token can be had from WeChat.
    ///
    /// What only a person can cure is told as WeChat tells it, so that nobody asks again and the
    /// one who can cure it reads it.
    pub(super) fn no_token(why: &TokenError) -> Self {
        match why {
            TokenError::Api { errcode, errmsg } if *errcode == platform::BUSY => {
                Refusal::new(platform::BUSY, format!("system error: not sent, {errmsg}"))
            }
            TokenError::Api { errcode, errmsg } if is_of_credentials(*errcode) => {
                Refusal::not_sent(format_args!(
                    "the server's own credentials for this account are refused, with errcode {errcode}: {errmsg}"
                ))
            }
            TokenError::Api { errcode, errmsg } => Refusal::new(*errcode, errmsg.as_str()),
            TokenError::Transport(_) | TokenError::Timeout { .. } | TokenError::NoRuntime => {
                busy(why)
            }
            TokenError::Status(status) if status.is_server_error() => busy(why),
            why => Refusal::not_sent(format_args!("no access_token: {why}")),
        }
    }

    pub(super) fn errcode(&self) -> i64 {
        self.errcode
    }
}

/// What the same call may well get over soon.
fn busy(why: &TokenError) -> Refusal {
    Refusal::new(platform::BUSY, format!("system error: not sent, {why}"))
}

/// Whether an errcode speaks of the credentials that were sent: a client would look for the mistake
/// in its own, or get another token and ask again.
fn is_of_credentials(errcode: i64) -> bool {
    /// Of a token request: the secret, the appid, the grant type, what is missing; WeCom's corpid
    /// and secret. Then what SDKs take for the death of their token.
    const CODES: [i64; 11] = [
        40001, 40125, 40013, 40002, 41002, 41004, 40091, 41001, 40014, 42001, 42007,
    ];
    CODES.contains(&errcode)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(why: &TokenError) -> (i64, String) {
        let refusal = Refusal::no_token(why);
        (refusal.errcode, refusal.errmsg)
    }

    #[test]
    fn s1_what_only_a_person_can_cure_keeps_wechats_errcode_and_errmsg() {
        let errmsg =
            "invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist rid: 66f0-1a2b-3c4d";
        for errcode in [
            40164, 40243, 45009, 45011, 45035, 50004, 50007, 60020, 61004, 61024, 89501, 89503,
            89506, 89507,
        ] {
            let why = TokenError::api(errcode, errmsg);
            assert_eq!(told(&why), (errcode, errmsg.to_owned()));
        }
    }

    #[test]
    fn s1_a_word_about_the_servers_credentials_is_none_about_the_clients() {
        for errcode in [40001, 40125, 40013, 40014, 42001, 41001, 40091] {
            let (told, errmsg) = told(&TokenError::api(errcode, "invalid appsecret rid: 66f0"));
            assert_eq!(told, OF_THE_SERVER);
            for part in [
                "not sent",
                &errcode.to_string(),
                "invalid appsecret rid: 66f0",
            ] {
                assert!(errmsg.contains(part), "{errmsg}");
            }
        }
    }

    #[test]
    fn s1_only_what_may_go_well_soon_is_busy() {
        for why in [
            TokenError::api(-1, "system error"),
            TokenError::transport("connection refused"),
            TokenError::Status(StatusCode::BAD_GATEWAY),
            TokenError::NoRuntime,
        ] {
            assert_eq!(told(&why).0, platform::BUSY, "{why}");
        }
        for why in [
            TokenError::Status(StatusCode::NOT_FOUND),
            TokenError::invalid("it is empty"),
            TokenError::Panicked,
            TokenError::OverBudget,
            TokenError::other("the vault is sealed"),
        ] {
            let (errcode, errmsg) = told(&why);
            assert_eq!(errcode, OF_THE_SERVER, "{why}");
            assert!(
                errmsg.contains("not sent") && errmsg.contains(&why.to_string()),
                "{errmsg}"
            );
        }
    }
}
