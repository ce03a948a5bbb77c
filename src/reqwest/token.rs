//! reqwest's client as one that token sources ask with.

use bytes::Bytes;

use super::reqwest::{Body, Error, Request, Response};
use crate::source::{IncomingReply, OutgoingRequest};
use crate::token::BoxError;

impl OutgoingRequest for Request {
    fn from_http(request: http::Request<Bytes>) -> Result<Self, BoxError> {
        Ok(Request::try_from(request).map_err(Error::without_url)?)
    }

    fn printable(error: BoxError) -> Result<BoxError, BoxError> {
        let error = match error.downcast::<Error>() {
            Ok(error) => return Ok(error.without_url().into()),
            Err(error) => error,
        };
        // A client of reqwest-middleware's has the same requests.
        #[cfg(feature = "reqwest-middleware")]
        let error = match error.downcast::<reqwest_middleware::Error>() {
            Ok(error) => return Ok(error.without_url().into()),
            Err(error) => error,
        };
        Err(error)
    }
}

impl IncomingReply for Response {
    type Body = Body;

    fn into_http(self) -> http::Response<Body> {
        self.into()
    }
}
