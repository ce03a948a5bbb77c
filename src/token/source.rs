use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{AccessToken, RateLimit, TokenError};

/// Where a token comes from.
///
/// [`ClientCredential`](crate::ClientCredential), [`StableToken`](crate::StableToken) and
/// [`WeComCredential`](crate::WeComCredential) ask WeChat itself. Write your own for a token that
/// another process keeps; a closure will do, by [`source_fn`]. A source that wraps a source passes
/// all five methods on.
///
/// The [`TokenManager`](crate::TokenManager) asks for one token at a time, in a task of its own,
/// repeats what fails for a passing reason and gives up at its `issue_timeout`: a source does none
/// of that.
///
/// ```
/// use std::time::Duration;
/// use tower_wechat::{AccessToken, RateLimit, TokenError, TokenSource};
///
/// /// Counts the tokens that another source gives out.
/// struct Counted<T>(T, std::sync::atomic::AtomicU64);
///
/// impl<T: TokenSource> TokenSource for Counted<T> {
///     async fn issue(&self, rejected: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
///         let token = self.0.issue(rejected).await?;
///         self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///         Ok(token)
///     }
///
///     async fn renew(&self, current: &AccessToken) -> Result<AccessToken, TokenError> {
///         let token = self.0.renew(current).await?;
///         self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///         Ok(token)
///     }
///
///     fn account(&self) -> Option<&str> {
///         self.0.account()
///     }
///
///     fn shared_as(&self) -> Option<&str> {
///         self.0.shared_as()
///     }
///
///     fn refresh_limit(&self) -> Option<RateLimit> {
///         self.0.refresh_limit()
///     }
/// }
/// ```
pub trait TokenSource: Send + Sync + 'static {
    /// Gets a token; not `rejected`, the one that WeChat has just turned down, if there is one.
    ///
    /// # Errors
    ///
    /// Use the constructors of [`TokenError`]. One with an errcode other than -1 is taken for
    /// WeChat's last word: the manager does not ask again for 30 seconds, and for up to ten minutes
    /// if the same errcode comes again.
    fn issue(
        &self,
        rejected: Option<&AccessToken>,
    ) -> impl Future<Output = Result<AccessToken, TokenError>> + Send;

    /// Gets a token to follow `current`, which is still good but expires soon.
    ///
    /// Default: as [`issue`](TokenSource::issue) does with nothing rejected. A source that could
    /// give `current` itself, out of a store that many processes share, has to tell the two apart.
    ///
    /// # Errors
    ///
    /// As of [`issue`](TokenSource::issue). The current token stays in use then.
    fn renew(
        &self,
        current: &AccessToken,
    ) -> impl Future<Output = Result<AccessToken, TokenError>> + Send {
        let _ = current;
        self.issue(None)
    }

    /// What the account is called in logs and metrics: its appid. Default: nothing.
    fn account(&self) -> Option<&str> {
        None
    }

    /// The name by which processes that share this source's token find it. Default: none.
    ///
    /// The account is one only where it has no other token: in WeCom each application of a company
    /// has its own.
    fn shared_as(&self) -> Option<&str> {
        None
    }

    /// How often the platform lets a rejected token be replaced, with a reserve left. Default:
    /// unknown.
    ///
    /// `TokenManager` keeps to it, and `redis::RedisTokens` counts it for all processes together.
    /// `burst` plus what grows in 24 hours should stay below the platform's quota of a day.
    fn refresh_limit(&self) -> Option<RateLimit> {
        None
    }
}

impl<T: TokenSource> TokenSource for Arc<T> {
    fn issue(
        &self,
        rejected: Option<&AccessToken>,
    ) -> impl Future<Output = Result<AccessToken, TokenError>> + Send {
        T::issue(self, rejected)
    }

    fn renew(
        &self,
        current: &AccessToken,
    ) -> impl Future<Output = Result<AccessToken, TokenError>> + Send {
        T::renew(self, current)
    }

    fn account(&self) -> Option<&str> {
        T::account(self)
    }

    fn shared_as(&self) -> Option<&str> {
        T::shared_as(self)
    }

    fn refresh_limit(&self) -> Option<RateLimit> {
        T::refresh_limit(self)
    }
}

/// A [`TokenSource`] out of a closure.
///
/// ```
/// use std::time::Duration;
/// use tower_wechat::{AccessToken, TokenError, TokenManager, source_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), TokenError> {
/// let tokens = TokenManager::new(source_fn(|_rejected: Option<AccessToken>| async {
///     // Ask your own service here.
///     Ok(AccessToken::new("78_Zx0", Duration::from_secs(7200)))
/// }));
/// assert_eq!(tokens.token().await?.secret(), "78_Zx0");
/// # Ok(())
/// # }
/// ```
pub fn source_fn<F, Fut>(issue: F) -> SourceFn<F>
where
    F: Fn(Option<AccessToken>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<AccessToken, TokenError>> + Send,
{
    SourceFn { issue }
}

/// What [`source_fn`] makes of a closure.
#[derive(Clone, Copy)]
pub struct SourceFn<F> {
    issue: F,
}

impl<F, Fut> TokenSource for SourceFn<F>
where
    F: Fn(Option<AccessToken>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<AccessToken, TokenError>> + Send,
{
    fn issue(
        &self,
        rejected: Option<&AccessToken>,
    ) -> impl Future<Output = Result<AccessToken, TokenError>> + Send {
        (self.issue)(rejected.cloned())
    }
}

impl<F> fmt::Debug for SourceFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceFn").finish_non_exhaustive()
    }
}

pub(super) type Issuing<'a> =
    Pin<Box<dyn Future<Output = Result<AccessToken, TokenError>> + Send + 'a>>;

/// [`TokenSource`] in a form that a manager without a type parameter can hold.
pub(super) trait ErasedSource: Send + Sync {
    fn issue<'a>(&'a self, rejected: Option<&'a AccessToken>) -> Issuing<'a>;

    fn renew<'a>(&'a self, current: &'a AccessToken) -> Issuing<'a>;
}

impl<T: TokenSource> ErasedSource for T {
    fn issue<'a>(&'a self, rejected: Option<&'a AccessToken>) -> Issuing<'a> {
        Box::pin(TokenSource::issue(self, rejected))
    }

    fn renew<'a>(&'a self, current: &'a AccessToken) -> Issuing<'a> {
        Box::pin(TokenSource::renew(self, current))
    }
}
