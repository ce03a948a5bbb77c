use std::fmt;

use super::scripts;
use super::tokens::RedisTokens;
use super::trouble::is_refusal;
use crate::token::TokenSource;

/// Why a Redis cannot be used, in one sentence; from [`RedisTokens::check`].
///
/// Neither `Display` nor `Debug` tells a password.
#[derive(Clone)]
pub struct CheckError {
    text: String,
    refused: bool,
}

impl CheckError {
    /// Whether waiting is of no use: the password is wrong, a right is missing, or so is something
    /// of the settings.
    ///
    /// Otherwise Redis is away, or is starting, and is used as soon as it is there.
    pub fn is_refusal(&self) -> bool {
        self.refused
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckError({self})")
    }
}

impl std::error::Error for CheckError {}

impl<T> RedisTokens<T>
where
    T: TokenSource,
{
    /// Connects to Redis and tries all that is going to be done there, within
    /// [`timeout`](RedisTokens::timeout).
    ///
    /// For the start of a program, which without it learns of a wrong password when the first token
    /// is wanted. It neither asks the source nor changes anything in Redis.
    ///
    /// ```no_run
    /// # use tower_wechat::redis::RedisTokens;
    /// # use tower_wechat::{StableToken, TokenManager, TokenSource};
    /// # async fn start(source: impl TokenSource) -> Result<(), Box<dyn std::error::Error>> {
    /// let redis = redis::Client::open("redis://127.0.0.1/")?;
    /// let tokens = RedisTokens::new(redis, source);
    /// match tokens.check().await {
    ///     // It may come later, and is not needed for a start.
    ///     Err(error) if !error.is_refusal() => eprintln!("{error}"),
    ///     checked => checked?,
    /// }
    /// let tokens = TokenManager::new(tokens);
    /// # drop(tokens);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Says what is wrong, and what to do about it.
    pub async fn check(&self) -> Result<(), CheckError> {
        let layout = self.layout_or_why().map_err(|why| CheckError {
            text: why.to_owned(),
            refused: true,
        })?;
        let _closing = self.server.closing();
        match self.server.run::<i64>(&scripts::check(layout)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(CheckError {
                text: self.server.told(&error),
                refused: is_refusal(&error),
            }),
        }
    }
}
