//! What can be said of an error of reqwest's without printing it.

use std::error::Error as StdError;

use super::reqwest::Error;

/// What kind of failure `error` is, in words that hold nothing of the request's.
pub(crate) fn kind_of(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    let error = error.downcast_ref::<Error>()?;
    let kinds = [
        (error.is_timeout(), "it took too long"),
        (error.is_connect(), "no connection"),
        (error.is_redirect(), "a redirect that cannot be followed"),
        (error.is_builder(), "a request that cannot be built"),
        (error.is_decode(), "a reply that cannot be decoded"),
        (error.is_body(), "a body that broke off"),
        (error.is_request(), "it could not be sent"),
    ];
    let kind = kinds.iter().find(|(is, _)| *is);
    kind.map(|(_, words)| *words)
}
