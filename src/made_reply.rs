//! Replies that the layer makes itself, in WeChat's own form.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::Body;
use serde_json::{Value, json};

use crate::body::ReplyBody;
use crate::error::Error;
use crate::outcome::AuthOutcome;
use crate::platform::Platform;
use crate::token::{AccessToken, TokenError};

/// The answer to a request for a token.
pub(crate) fn token<R: Body>(
    token: Result<AccessToken, TokenError>,
    platform: Platform,
) -> Result<Response<ReplyBody<R>>, Error> {
    let mut fields = match token {
        Ok(token) => json!({
            "access_token": token.secret(),
            "expires_in": token.expires_in().as_secs(),
        }),
        Err(TokenError::Api { errcode, errmsg }) => {
            json!({ "errcode": errcode, "errmsg": errmsg })
        }
        Err(error) => return Err(Error::token(error)),
    };
    if platform == Platform::WeCom && fields.get("errcode").is_none() {
        fields["errcode"] = 0.into();
        fields["errmsg"] = "ok".into();
    }
    Ok(reply(&fields))
}

/// The answer to a call that was not sent, where the caller takes no error of ours.
#[cfg(any(feature = "reqwest", feature = "reqwest-0-12"))]
pub(crate) fn no_token<R: Body>(error: &Error) -> Response<ReplyBody<R>> {
    let errcode = error.token_error().and_then(TokenError::errcode);
    reply(&json!({
        "errcode": errcode.unwrap_or(crate::platform::BUSY),
        "errmsg": error.to_string(),
    }))
}

fn reply<R: Body>(fields: &Value) -> Response<ReplyBody<R>> {
    let mut reply = Response::new(ReplyBody::made(Bytes::from(fields.to_string())));
    reply.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    reply
        .extensions_mut()
        .insert(AuthOutcome::made_by_the_layer());
    reply
}
