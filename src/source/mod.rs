//! The sources that ask WeChat for a token.

mod client;
mod client_credential;
mod exchange;
mod secret;
mod spelling;
mod stable_token;
mod token_reply;
mod wecom;

pub use self::client::{IncomingReply, OutgoingRequest};
pub use self::client_credential::ClientCredential;
#[cfg(feature = "server")]
pub(crate) use self::exchange::{SAYS, TAKES_REJECTED_TOKEN};
pub(crate) use self::secret::Secret;
#[cfg(feature = "server")]
pub(crate) use self::spelling::{Found, find, replace, search};
pub use self::stable_token::StableToken;
pub use self::wecom::WeComCredential;
