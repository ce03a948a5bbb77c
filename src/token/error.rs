use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::platform;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Why no token could be had.
///
/// Clones share what they hold, so that everybody who waited for one token request gets the same
/// failure. Neither `Display` nor `Debug` prints a secret, a token or a URL with a query, nor the text of
/// an HTTP client's error that may hold one: [`ClientError::get_ref`] has that error for whoever wants to
/// look into it.
///
/// ```
/// use tower_wechat::TokenError;
///
/// let error = TokenError::api(40164, "invalid ip 203.0.113.7, not in whitelist");
/// assert_eq!(
///     error.to_string(),
///     "WeChat refused to give a token: errcode 40164, invalid ip 203.0.113.7, not in whitelist; \
///      put this address on the account's IP allow-list",
/// );
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// WeChat answered with an errcode.
    #[non_exhaustive]
    Api {
        /// WeChat's errcode.
        errcode: i64,
        /// WeChat's errmsg, at most 512 characters of it.
        errmsg: String,
    },
    /// The request did not get through, or its reply did not.
    Transport(ClientError),
    /// The reply had an HTTP status of failure and nothing in it that WeChat would say.
    Status(StatusCode),
    /// The reply is not one that WeChat would give. The reply itself is not kept: it may hold a token.
    #[non_exhaustive]
    InvalidReply {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The source did not come to an end in time.
    #[non_exhaustive]
    Timeout {
        /// The manager's `issue_timeout`.
        after: Duration,
    },
    /// The source panicked.
    Panicked,
    /// The token was rejected, and the `refresh_budget` is used up: the manager's, or that of all processes that share a token.
    OverBudget,
    /// The token was rejected, but calls of this method and path are rejected whatever the token, so
    /// their rejections cause no refresh for a while.
    Futile,
    /// The Tokio runtime that ran the token request is gone, or there is none.
    NoRuntime,
    /// A source's own failure.
    Other(ClientError),
}

impl TokenError {
    /// WeChat's answer with an errcode, for sources of your own.
    ///
    /// Control characters are replaced by spaces, and a long `errmsg` is cut, as both may go to logs.
    pub fn api(errcode: i64, errmsg: impl AsRef<str>) -> Self {
        TokenError::Api {
            errcode,
            errmsg: one_line(errmsg.as_ref()),
        }
    }

    /// A failure that asking again may cure, such as a refused connection, for sources of your own.
    ///
    /// The manager asks the source again within its `issue_timeout`.
    pub fn transport(error: impl Into<BoxError> + 'static) -> Self {
        TokenError::Transport(ClientError::new(error))
    }

    /// Any other failure, for sources of your own.
    ///
    /// A `&str` or a `String` is printed as it is; of any other error only the kind of the
    /// [`io::Error`] in its chain, if there is one, since its text may hold a secret.
    pub fn other(error: impl Into<BoxError> + 'static) -> Self {
        TokenError::Other(ClientError::new(error))
    }

    pub(crate) fn invalid(reason: &'static str) -> Self {
        TokenError::InvalidReply { reason }
    }

    /// WeChat's errcode, where it gave one.
    pub fn errcode(&self) -> Option<i64> {
        match self {
            TokenError::Api { errcode, .. } => Some(*errcode),
            _ => None,
        }
    }

    /// Whether asking again at once may cure it.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            TokenError::Api { errcode, .. } => *errcode == platform::BUSY,
            TokenError::Transport(error) => !is_of_redis(error),
            TokenError::Status(status) => status.is_server_error(),
            _ => false,
        }
    }

    /// Whether WeChat has said no, and would say it again: a wrong secret, a foreign address, no quota.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, TokenError::Api { errcode, .. } if *errcode != platform::BUSY)
    }
}

/// Whether Redis is what is away: it has been waited for already, and attempts at attempts multiply.
#[cfg(feature = "redis")]
fn is_of_redis(error: &ClientError) -> bool {
    error.get_ref().is::<redis::RedisError>()
}

#[cfg(not(feature = "redis"))]
fn is_of_redis(_: &ClientError) -> bool {
    false
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenError::Api { errcode, errmsg } => {
                write!(f, "WeChat refused to give a token: errcode {errcode}")?;
                if !errmsg.is_empty() {
                    write!(f, ", {errmsg}")?;
                }
                match platform::advice(*errcode) {
                    Some(advice) => write!(f, "; {advice}"),
                    None => Ok(()),
                }
            }
            TokenError::Transport(error) => write!(f, "the token request failed: {error}"),
            TokenError::Status(status) => {
                write!(
                    f,
                    "the token request was answered with HTTP status {status}"
                )
            }
            TokenError::InvalidReply { reason } => {
                write!(
                    f,
                    "the reply to the token request is not one of WeChat's: {reason}"
                )
            }
            TokenError::Timeout { after } => {
                write!(f, "no token within {after:?}: the token request hangs")
            }
            TokenError::Panicked => f.write_str("the token source panicked"),
            TokenError::OverBudget => f.write_str(
                "the token was rejected too often, and no new one is asked for until the refresh \
                 budget has recovered; something else may be refreshing this account's token",
            ),
            TokenError::Futile => f.write_str(
                "calls of this method and path were rejected with a new token as well, or while others \
                 were accepted with the same token, so their rejections cause no refresh for a while; \
                 look whether their body holds an `access_token` of its own",
            ),
            TokenError::NoRuntime => {
                f.write_str("no Tokio runtime is there to run the token request")
            }
            TokenError::Other(error) => write!(f, "the token source failed: {error}"),
        }
    }
}

impl StdError for TokenError {}

/// An error of somebody else's, whose text may not be ours to print.
///
/// Errors of HTTP clients print the URL, and the URL of a token request holds the AppSecret. So
/// `Display` and `Debug` name the [`io::ErrorKind`] found in the chain and no more; an error of reqwest's, of
/// which the URL can be taken out, is printed with all its sources, unless one of them tells the AppSecret.
/// [`get_ref`](ClientError::get_ref) hands the error out.
///
/// ```
/// use std::io;
/// use tower_wechat::TokenError;
///
/// let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "https://…?secret=S3CRET");
/// let TokenError::Transport(error) = TokenError::transport(refused) else { unreachable!() };
/// assert_eq!(error.to_string(), "connection refused");
/// assert!(error.get_ref().is::<io::Error>());
/// ```
#[derive(Clone)]
pub struct ClientError {
    error: Arc<dyn StdError + Send + Sync>,
    text: Option<Arc<str>>,
}

impl ClientError {
    pub(crate) fn new<E: Into<BoxError> + 'static>(error: E) -> Self {
        // Text that the caller wrote by hand is meant to be read.
        let any: &dyn Any = &error;
        let text = any
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| any.downcast_ref::<&'static str>().copied())
            .map(Arc::from);
        ClientError {
            error: Arc::from(error.into()),
            text,
        }
    }

    /// An error of a known type, without its URL: it is printed with its sources, unless that would tell a secret,
    /// or another URL with a query.
    pub(crate) fn printed(error: BoxError, tells_secret: impl Fn(&str) -> bool) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            let why = source.to_string();
            // Some errors say themselves what their source says.
            if !text.ends_with(&why) {
                text = format!("{text}: {why}");
            }
            next = source.source();
        }
        let has_query = text.split("://").skip(1).any(|url| url.contains('?'));
        let text = (!has_query && !tells_secret(&text)).then(|| one_line(&text).into());
        ClientError {
            error: Arc::from(error),
            text,
        }
    }

    /// An error with a text that is safe to print.
    #[cfg(feature = "redis")]
    pub(crate) fn told(error: impl Into<BoxError>, text: &str) -> Self {
        ClientError {
            error: Arc::from(error.into()),
            text: Some(one_line(text).into()),
        }
    }

    /// The error itself, whose `Display` and `Debug` may print a URL with a secret in it.
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.error
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => fmt_foreign(&*self.error, f),
        }
    }
}

impl fmt::Debug for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientError({self})")
    }
}

/// Text of somebody else's as it can go to a log.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 512;
    let text = text.trim().chars().take(LONGEST);
    text.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints what is safe to print of an error that may tell a secret: what kind it is, as far as that is known.
pub(crate) fn fmt_foreign(
    error: &(dyn StdError + 'static),
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let mut kind = None;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<TokenError>() {
            return fmt::Display::fmt(error, f);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if let Some(kind) = kind {
                write!(f, "{kind}: ")?;
            }
            return match error.kind().to_string().as_str() {
                // The standard library has no kinds for these.
                "uncategorized error" => f.write_str(
                    "an I/O error without a kind, as of a name that cannot be looked up",
                ),
                "other error" => f.write_str(
                    "an I/O error without a kind, as of a certificate that is not trusted",
                ),
                kind => f.write_str(kind),
            };
        }
        kind = kind.or_else(|| kind_of(error));
        next = error.source();
    }
    f.write_str(
        kind.unwrap_or(
            "an error of the HTTP client's, not printed here since it may hold a secret",
        ),
    )
}

/// Of the errors of those clients that there is a feature for.
fn kind_of(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    type KindOf = fn(&(dyn StdError + 'static)) -> Option<&'static str>;
    const CLIENTS: &[KindOf] = &[
        #[cfg(feature = "reqwest")]
        crate::reqwest::kind_of,
        #[cfg(feature = "reqwest-0-12")]
        crate::reqwest_0_12::kind_of,
    ];
    CLIENTS.iter().find_map(|kind_of| kind_of(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errmsg_is_one_short_line() {
        let error = TokenError::api(40013, format!("a\r\nb{}", "x".repeat(4096)));
        let TokenError::Api { errmsg, .. } = error else {
            unreachable!()
        };
        assert!(errmsg.starts_with("a  b"));
        assert_eq!(errmsg.chars().count(), 512);
    }

    #[test]
    fn only_what_asking_again_can_cure_is_transient() {
        assert!(TokenError::api(-1, "system error").is_transient());
        assert!(TokenError::transport("reset").is_transient());
        assert!(TokenError::Status(StatusCode::BAD_GATEWAY).is_transient());
        assert!(!TokenError::Status(StatusCode::NOT_FOUND).is_transient());
        assert!(!TokenError::api(40013, "").is_transient());
        assert!(!TokenError::Panicked.is_transient());
    }

    #[test]
    fn an_error_of_a_known_type_is_printed_unless_it_tells_a_secret_or_a_query() {
        let printed = |text: &str| {
            let error = io::Error::other(text.to_owned()).into();
            ClientError::printed(error, |text| text.contains("S3CRET")).to_string()
        };
        assert_eq!(printed("why? not\nhttp://h/p"), "why? not http://h/p");
        for told in ["S3CRET", "not to http://h/p?a=1", "http://h and http://i/?"] {
            assert_eq!(
                printed(told),
                "an I/O error without a kind, as of a certificate that is not trusted"
            );
        }
    }

    #[test]
    fn text_of_ones_own_is_printed_and_an_error_of_others_is_not() {
        assert_eq!(
            TokenError::other("the vault is sealed").to_string(),
            "the token source failed: the vault is sealed"
        );
        let url = "http://h/?secret=S3CRET".parse::<std::net::IpAddr>();
        let foreign: Box<dyn StdError + Send + Sync> =
            format!("S3CRET {:?}", url.unwrap_err()).into();
        let error = TokenError::other(foreign);
        assert!(!format!("{error} {error:?}").contains("S3CRET"));
    }
}
