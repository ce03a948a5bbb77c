//! Why a call failed.

use std::error::Error as StdError;
use std::fmt;

use crate::body::NoRoom;
use crate::token::{BoxError, TokenError, fmt_foreign};

/// Why a call failed: no token could be had, it left no room for one, there was no room for its
/// body, or the wrapped client failed.
///
/// An errcode of WeChat's is no `Error`: it comes as a reply.
///
/// `Display` tells the whole reason and what to do about it, so there is no
/// [`source`](StdError::source); `Debug`, which `main` prints, says the same. The client's own
/// error is not printed, neither by `Display` nor by `Debug`: clients print the URL, and the URL
/// holds the token. Of it you see what kind it is, of reqwest's errors and of the
/// [`io::Error`](std::io::Error) in its chain; [`get_ref`](Error::get_ref) shows it and
/// [`into_source`](Error::into_source) hands it back whole.
///
/// ```
/// fn explain(error: tower_wechat::Error) {
///     if let Some(why) = error.token_error() {
///         println!("not sent, there is no token: {why}");
///         return;
///     }
///     match error.into_source().downcast::<std::io::Error>() {
///         Ok(error) => println!("the connection failed: {}", error.kind()),
///         Err(_) => println!("the client failed"),
///     }
/// }
/// ```
pub struct Error {
    inner: Inner,
}

enum Inner {
    Token(TokenError),
    UriTooLong(UriTooLong),
    NoRoom(NoRoom),
    Service(BoxError),
}

/// With the token in it the URI is longer than one may be.
#[derive(Debug)]
struct UriTooLong;

impl fmt::Display for UriTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the call was not sent: with the access_token its URI is longer than 65,534 bytes; put \
             less into the query",
        )
    }
}

impl StdError for UriTooLong {}

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No token could be had, and the request was not sent.
    Token,
    /// With the token in it the URI would be too long, and the request was not sent.
    UriTooLong,
    /// The [`ReplayBudget`](crate::ReplayBudget) had no room for a body that must be collected
    /// before it is sent, and the request was not sent.
    NoRoom,
    /// The wrapped service failed, or the request's body did while it was collected, before it was
    /// sent.
    Service,
}

impl Error {
    pub(crate) fn token(error: TokenError) -> Self {
        Error {
            inner: Inner::Token(error),
        }
    }

    pub(crate) fn uri_too_long() -> Self {
        Error {
            inner: Inner::UriTooLong(UriTooLong),
        }
    }

    /// The request's body could not be made ready to be sent.
    pub(crate) fn body(error: BoxError) -> Self {
        match error.downcast::<NoRoom>() {
            Ok(error) => Error {
                inner: Inner::NoRoom(*error),
            },
            Err(error) => Error::service(error),
        }
    }

    pub(crate) fn service(error: impl Into<BoxError>) -> Self {
        Error {
            inner: Inner::Service(error.into()),
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match &self.inner {
            Inner::Token(_) => ErrorKind::Token,
            Inner::UriTooLong(_) => ErrorKind::UriTooLong,
            Inner::NoRoom(_) => ErrorKind::NoRoom,
            Inner::Service(_) => ErrorKind::Service,
        }
    }

    /// Whether no token could be had. The request was not sent then.
    pub fn is_token(&self) -> bool {
        self.kind() == ErrorKind::Token
    }

    /// Why no token could be had, if that is what happened.
    pub fn token_error(&self) -> Option<&TokenError> {
        match &self.inner {
            Inner::Token(error) => Some(error),
            Inner::UriTooLong(_) | Inner::NoRoom(_) | Inner::Service(_) => None,
        }
    }

    /// The wrapped service's own error, or the [`TokenError`], for a look at its type.
    ///
    /// What prints it may print a URL with a token in it.
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        match &self.inner {
            Inner::Token(error) => error,
            Inner::UriTooLong(error) => error,
            Inner::NoRoom(error) => error,
            Inner::Service(error) => &**error,
        }
    }

    /// The wrapped service's own error, or the [`TokenError`].
    ///
    /// What prints it may print a URL with a token in it.
    pub fn into_source(self) -> Box<dyn StdError + Send + Sync> {
        match self.inner {
            Inner::Token(error) => Box::new(error),
            Inner::UriTooLong(error) => Box::new(error),
            Inner::NoRoom(error) => Box::new(error),
            Inner::Service(error) => error,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner {
            Inner::Token(error) => write!(f, "no access_token for this call: {error}"),
            Inner::UriTooLong(error) => error.fmt(f),
            Inner::NoRoom(error) => fmt::Display::fmt(error, f),
            Inner::Service(error) => {
                f.write_str("the call failed: ")?;
                fmt_foreign(&**error, f)
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner {
            Inner::Token(_) => write!(f, "Token({self})"),
            Inner::UriTooLong(_) => write!(f, "UriTooLong({self})"),
            Inner::NoRoom(_) => write!(f, "NoRoom({self})"),
            Inner::Service(_) => write!(f, "Service({self})"),
        }
    }
}

/// No `source`: `Display` says all that may be said, and what prints chains must not print more.
impl StdError for Error {}
