use std::fmt;

use bytes::Bytes;

use super::reply::Reply;
use crate::platform::Platform;

/// What goes wrong with one request; see [`MockWechat::fail_next`](super::MockWechat::fail_next).
///
/// The `Token…` kinds wait for a token request, the `Api…` kinds for any other request. A call that
/// fails so is not acted on, and its body is read first.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The token request is answered with this errcode.
    Token(i64),
    /// The token request is answered with this HTTP status and a page of HTML.
    TokenStatus(u16),
    /// The token request is answered with exactly these bytes and status 200.
    TokenBody(Bytes),
    /// The connection of the token request is closed with no reply.
    TokenDisconnect,
    /// The API call is answered with this errcode.
    Api(i64),
    /// The API call is answered with this HTTP status and a page of HTML.
    ApiStatus(u16),
    /// The API call is answered with exactly these bytes and status 200.
    ApiBody(Bytes),
    /// The connection of the API call is closed with no reply.
    ApiDisconnect,
}

impl Failure {
    pub(super) fn is_token(&self) -> bool {
        match self {
            Failure::Token(_)
            | Failure::TokenStatus(_)
            | Failure::TokenBody(_)
            | Failure::TokenDisconnect => true,
            Failure::Api(_)
            | Failure::ApiStatus(_)
            | Failure::ApiBody(_)
            | Failure::ApiDisconnect => false,
        }
    }

    /// In the words of the platform that the request was for.
    pub(super) fn into_reply(self, platform: Platform) -> Result<Reply, NoReply> {
        match self {
            Failure::Token(errcode) | Failure::Api(errcode) => {
                Ok(Reply::error_of(platform, errcode))
            }
            Failure::TokenStatus(status) | Failure::ApiStatus(status) => Ok(Reply::html(status)),
            Failure::TokenBody(body) | Failure::ApiBody(body) => Ok(Reply::verbatim(body)),
            Failure::TokenDisconnect | Failure::ApiDisconnect => Err(NoReply),
        }
    }
}

/// Bodies are told by their length: a test may well have put a token into them.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Token(errcode) => write!(f, "Token({errcode})"),
            Failure::TokenStatus(status) => write!(f, "TokenStatus({status})"),
            Failure::TokenBody(body) => write!(f, "TokenBody({} bytes)", body.len()),
            Failure::TokenDisconnect => f.write_str("TokenDisconnect"),
            Failure::Api(errcode) => write!(f, "Api({errcode})"),
            Failure::ApiStatus(status) => write!(f, "ApiStatus({status})"),
            Failure::ApiBody(body) => write!(f, "ApiBody({} bytes)", body.len()),
            Failure::ApiDisconnect => f.write_str("ApiDisconnect"),
        }
    }
}

/// The request gets no reply; hyper closes the connection when a service returns this.
#[derive(Debug)]
pub(super) struct NoReply;

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is closed with no reply")
    }
}

impl std::error::Error for NoReply {}

impl From<hyper::Error> for NoReply {
    fn from(_: hyper::Error) -> NoReply {
        NoReply
    }
}
