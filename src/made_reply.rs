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
    let (mut fields, outcome) = match token {
        Ok(token) => (
            json!({
                "access_token": token.secret(),
                "expires_in": token.seconds_left(),
            }),
            AuthOutcome::made_of_token(),
        ),
        Err(error) => {
            let TokenError::Api { errcode, errmsg } = &error else {
                return Err(Error::token(error));
            };
            let fields = json!({ "errcode": errcode, "errmsg": errmsg });
            (fields, AuthOutcome::made_of_error(error))
        }
    };
    if platform == Platform::WeCom && fields.get("errcode").is_none() {
        fields["errcode"] = 0.into();
        fields["errmsg"] = "ok".into();
    }
    Ok(reply(&fields, outcome))
}

/// The answer to a call that was not sent, where the caller takes no error of ours: the same error,
/// where it is another.
#[cfg(any(feature = "reqwest", feature = "reqwest-0-12"))]
pub(crate) fn no_token<R: Body>(error: Error) -> Result<Response<ReplyBody<R>>, Error> {
    let Some(why) = error.token_error() else {
        return Err(error);
    };
    let fields = json!({
        "errcode": why.errcode().unwrap_or(crate::platform::BUSY),
        "errmsg": error.to_string(),
    });
    Ok(reply(&fields, AuthOutcome::made_of_error(why.clone())))
}

fn reply<R: Body>(fields: &Value, outcome: AuthOutcome) -> Response<ReplyBody<R>> {
    let mut reply = Response::new(ReplyBody::made(Bytes::from(fields.to_string())));
    reply.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    reply.extensions_mut().insert(outcome);
    reply
}
