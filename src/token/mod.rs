//! The token, where it is kept, and where it comes from.

mod access_token;
mod advice;
mod budget;
mod client_error;
mod error;
mod flight;
mod keep_fresh;
mod manager;
mod source;

pub use self::access_token::AccessToken;
pub(crate) use self::access_token::query_value;
#[cfg(feature = "server")]
pub(crate) use self::budget::Budget;
pub use self::budget::RateLimit;
pub use self::client_error::ClientError;
pub(crate) use self::client_error::{BoxError, fmt_foreign};
pub use self::error::TokenError;
pub use self::keep_fresh::KeepFresh;
pub use self::manager::{TokenManager, TokenManagerBuilder};
pub use self::source::{SourceFn, TokenSource, source_fn};
