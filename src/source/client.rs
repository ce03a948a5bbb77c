//! Which HTTP clients a source can ask with: those of http's types, and of others that convert.

use std::error::Error as StdError;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use crate::token::BoxError;

/// A request type in which a token source can ask.
///
/// `http::Request` is one for every body that is made from [`Bytes`], and with the features for
/// reqwest so are its requests. Implement it for the request type of a client of your own.
#[diagnostic::on_unimplemented(
    message = "no token can be asked for with a `{Self}`",
    note = "the features `reqwest` (0.13) and `reqwest-0-12` of tower-wechat make reqwest's requests do"
)]
pub trait OutgoingRequest: Sized + Send {
    /// The request that asks for a token; its URL may hold the AppSecret.
    ///
    /// # Errors
    ///
    /// Where the type cannot express it.
    fn from_http(request: Request<Bytes>) -> Result<Self, Box<dyn StdError + Send + Sync>>;

    /// A client's error as it may be printed, where its type is known: without the URL.
    ///
    /// An error of any other type is handed back as an `Err`, which is all that the default does.
    /// Of such a one [`TokenError`](crate::TokenError) prints the kind and no more, as its text may
    /// hold the AppSecret.
    ///
    /// # Errors
    ///
    /// The same error, if it must not be printed.
    fn printable(
        error: Box<dyn StdError + Send + Sync>,
    ) -> Result<Box<dyn StdError + Send + Sync>, Box<dyn StdError + Send + Sync>> {
        Err(error)
    }
}

/// A reply type in which a token source can be answered.
///
/// `http::Response` is one whatever its body, and with the features for reqwest so are its replies.
#[diagnostic::on_unimplemented(
    message = "no token can be read from a `{Self}`",
    note = "the features `reqwest` (0.13) and `reqwest-0-12` of tower-wechat make reqwest's replies do"
)]
pub trait IncomingReply {
    /// Its body.
    type Body: Body<Data: Send, Error: Into<Box<dyn StdError + Send + Sync>> + 'static> + Send;

    /// The same in http's type.
    fn into_http(self) -> Response<Self::Body>;
}

impl<B> OutgoingRequest for Request<B>
where
    B: From<Bytes> + Send,
{
    fn from_http(request: Request<Bytes>) -> Result<Self, BoxError> {
        Ok(request.map(B::from))
    }
}

impl<R> IncomingReply for Response<R>
where
    R: Body + Send,
    R::Data: Send,
    R::Error: Into<BoxError> + 'static,
{
    type Body = R;

    fn into_http(self) -> Response<R> {
        self
    }
}
