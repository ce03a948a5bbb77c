//! Why a request is sent as it is.

use std::fmt;

/// Why a request was sent as it is, with no token of the layer's.
///
/// "Why is a call answered 41001, access_token missing?" is often answered by one of these.
///
/// ```
/// use tower_wechat::{AuthOutcome, PassedThrough};
///
/// fn note<B>(reply: &http::Response<B>) {
///     let outcome = reply.extensions().get::<AuthOutcome>();
///     if let Some(why) = outcome.and_then(AuthOutcome::passed_through) {
///         println!("sent as it is: {why}");
///         assert_ne!(why, PassedThrough::Elsewhere, "is an api_origin missing?");
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PassedThrough {
    /// The host is not the platform's, and the URL is below no `api_origin`.
    Elsewhere,
    /// The host is the other platform's.
    OtherPlatform,
    /// The host is the platform's, but the call goes over http.
    WithoutTls,
    /// The path takes another token, or none.
    OtherPath,
    /// The query names another credential, such as `component_access_token`.
    OtherCredential,
    /// It asks for a token, of an account that `answer_token_requests` does not name.
    TokenRequest,
    /// It has [`SkipAuth`](crate::SkipAuth).
    Skipped,
    /// `select` names no account for it.
    NoAccount,
}

impl PassedThrough {
    fn as_str(self) -> &'static str {
        match self {
            PassedThrough::Elsewhere => {
                "the host is not the platform's, and the URL is below no api_origin"
            }
            PassedThrough::OtherPlatform => "the host is the other platform's",
            PassedThrough::WithoutTls => "the platform's hosts get the token over https only",
            PassedThrough::OtherPath => "the path takes another token, or none",
            PassedThrough::OtherCredential => "the query names another credential",
            PassedThrough::TokenRequest => {
                "it asks for a token, of an account that answer_token_requests does not name"
            }
            PassedThrough::Skipped => "it has SkipAuth",
            PassedThrough::NoAccount => "select names no account for it",
        }
    }
}

impl fmt::Display for PassedThrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
