//! The token, where it is kept, and where it comes from.

mod access_token;
mod advice;
mod budget;
mod builder;
mod client_error;
mod error;
mod evidence;
mod flight;
mod gate;
mod holds;
mod keep_fresh;
mod manager;
mod policy;
mod shared;
mod source;
mod why;

pub use self::access_token::AccessToken;
pub(crate) use self::access_token::query_value;
pub(crate) use self::budget::Budget;
pub use self::budget::RateLimit;
pub use self::builder::TokenManagerBuilder;
pub use self::client_error::ClientError;
#[cfg(feature = "server")]
pub(crate) use self::client_error::causes;
pub(crate) use self::client_error::{BoxError, fmt_foreign};
pub use self::error::TokenError;
pub(crate) use self::evidence::Endpoint;
pub use self::gate::{RefreshGate, RefreshOutcome};
pub use self::keep_fresh::KeepFresh;
pub use self::manager::TokenManager;
pub(crate) use self::manager::{Moment, Refreshed};
pub use self::source::{SourceFn, TokenSource, source_fn};
pub(crate) use self::why::Why;
