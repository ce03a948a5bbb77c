use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::advice::advice;
use super::client_error::{BoxError, ClientError, one_line};
use crate::platform;

/// Why no token could be had.
///
/// Clones share what they hold, so that everybody who waited for one token request gets the same
/// failure. `Display` says what is wrong and what to do about it, and so does `Debug`, which `main`
/// prints. Neither prints a secret, a token or a URL with a query, nor the text of an HTTP client's
/// error that may hold one: [`ClientError::get_ref`] has that error for whoever wants to look into
/// it.
///
/// ```
/// use tower_wechat::TokenError;
///
/// let error = TokenError::api(40164, "invalid ip 203.0.113.7, not in whitelist");
/// assert_eq!(
///     error.to_string(),
///     "WeChat refused to give a token: errcode 40164, invalid ip 203.0.113.7, not in whitelist; \
///      put 203.0.113.7 on the account's IP allow-list",
/// );
/// assert_eq!(format!("{error:?}"), format!("Api({error})"));
/// ```
#[derive(Clone)]
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
    /// The reply is not one that WeChat would give. The reply itself is not kept: it may hold a
    /// token.
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
    /// The token was rejected, and the `refresh_budget` is used up: the manager's, or that of all
    /// processes that share a token.
    OverBudget,
    /// The token was rejected, but calls of this method and path are rejected whatever the token,
    /// so their rejections cause no refresh for a while.
    Futile,
    /// The Tokio runtime that ran the token request is gone, or there is none.
    NoRuntime,
    /// A source's own failure.
    Other(ClientError),
}

impl TokenError {
    /// WeChat's answer with an errcode, for sources of your own.
    ///
    /// Control characters are replaced by spaces, and a long `errmsg` is cut, as both may go to
    /// logs.
    pub fn api(errcode: i64, errmsg: impl AsRef<str>) -> Self {
        TokenError::Api {
            errcode,
            errmsg: one_line(errmsg.as_ref()),
        }
    }

    /// A failure that asking again may cure, such as a refused connection, for sources of your own.
    ///
    /// The manager asks the source again within its `issue_timeout`. Errors of HTTP clients belong
    /// here: a `&str` or a `String` is printed as it is, of any other error only its kind, since
    /// its text may hold a secret.
    pub fn transport(error: impl Into<BoxError> + 'static) -> Self {
        TokenError::Transport(ClientError::new(error))
    }

    /// Any other failure, for sources of your own.
    ///
    /// It is printed as it is, with its sources: keep secrets out of it. Two kinds of errors are
    /// not printed, as a URL may hold the AppSecret: those with an error of reqwest's among their
    /// sources, and those whose text has a URL with a query or a password in it.
    ///
    /// ```
    /// # use std::fmt;
    /// # #[derive(Debug)]
    /// # struct VaultError;
    /// # impl fmt::Display for VaultError {
    /// #     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("the vault is sealed") }
    /// # }
    /// # impl std::error::Error for VaultError {}
    /// use tower_wechat::TokenError;
    ///
    /// let error = TokenError::other(VaultError);
    /// assert_eq!(error.to_string(), "the token source failed: the vault is sealed");
    /// ```
    pub fn other(error: impl Into<BoxError> + 'static) -> Self {
        TokenError::Other(ClientError::of_source(error))
    }

    pub(crate) fn invalid(reason: &'static str) -> Self {
        TokenError::InvalidReply { reason }
    }

    /// What to do about it, if WeChat gave an errcode that has a remedy.
    ///
    /// `Display` ends with it. Where the errmsg names the address to allow, so does the advice.
    pub fn advice(&self) -> Option<Cow<'static, str>> {
        match self {
            TokenError::Api { errcode, errmsg } => advice(*errcode, errmsg),
            _ => None,
        }
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

    /// Whether WeChat has said no, and would say it again: a wrong secret, a foreign address, no
    /// quota.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, TokenError::Api { errcode, .. } if *errcode != platform::BUSY)
    }
}

/// Whether Redis is what is away: it has been waited for already, and attempts at attempts
/// multiply.
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
                match self.advice() {
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

/// The variant's name, and what `Display` says: a program that ends with this error is to help as
/// well.
impl fmt::Debug for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = match self {
            TokenError::Api { .. } => "Api",
            TokenError::Transport(_) => "Transport",
            TokenError::Status(_) => "Status",
            TokenError::InvalidReply { .. } => "InvalidReply",
            TokenError::Timeout { .. } => "Timeout",
            TokenError::Panicked => "Panicked",
            TokenError::OverBudget => "OverBudget",
            TokenError::Futile => "Futile",
            TokenError::NoRuntime => "NoRuntime",
            TokenError::Other(_) => "Other",
        };
        write!(f, "{variant}({self})")
    }
}

impl StdError for TokenError {}

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
    fn debug_says_what_display_says() {
        for error in [
            TokenError::api(40164, "invalid ip 203.0.113.7, not in whitelist"),
            TokenError::transport("reset"),
            TokenError::Status(StatusCode::BAD_GATEWAY),
            TokenError::invalid("it is empty"),
            TokenError::Timeout {
                after: Duration::from_secs(10),
            },
            TokenError::Panicked,
            TokenError::OverBudget,
            TokenError::NoRuntime,
            TokenError::other("the vault is sealed"),
        ] {
            let (debug, pretty) = (format!("{error:?}"), format!("{error:#?}"));
            assert!(debug.ends_with(&format!("({error})")), "{debug}");
            assert_eq!(debug, pretty);
        }
    }
}
