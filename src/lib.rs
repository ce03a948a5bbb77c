//! draft

mod body;
mod error;
mod future;
mod layer;
mod outcome;
mod platform;
mod reply;
mod request;
mod service;
mod source;
mod token;

#[cfg(feature = "mock")]
pub mod mock;

pub use self::body::{Replay, ReplayBody, ReplyBody, RequestBody};
pub use self::error::{Error, ErrorKind};
pub use self::future::ResponseFuture;
pub use self::layer::WechatAuthLayer;
pub use self::outcome::{AuthOutcome, NotReplayed};
pub use self::platform::Platform;
pub use self::request::SkipAuth;
pub use self::service::WechatAuth;
pub use self::source::{ClientCredential, StableToken, WeComCredential};
pub use self::token::{
    AccessToken, ClientError, KeepFresh, SourceFn, TokenError, TokenManager, TokenManagerBuilder,
    TokenSource, source_fn,
};
