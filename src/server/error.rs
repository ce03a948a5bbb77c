use std::error::Error as StdError;
use std::fmt;

/// What is wrong with what a server was set up with; one sentence, with no secret in it.
///
/// ```
/// use tower_wechat::server::TokenServer;
///
/// let error = TokenServer::builder().build().unwrap_err();
/// assert_eq!(error.to_string(), "there is no account: give each with its tokens");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct BuildError {
    message: String,
}

impl BuildError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        BuildError {
            message: message.into(),
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What `Display` says, for programs whose `main` returns it.
impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildError({self})")
    }
}

impl StdError for BuildError {}
