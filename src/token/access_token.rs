use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// What may stand in a query value as it is: RFC 3986's unreserved characters and nothing else.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// `text` as the value of a query parameter.
pub(crate) fn query_value(text: &str) -> Zeroizing<String> {
    // Room for all of it, so that growing leaves no copies of a secret behind.
    let mut value = Zeroizing::new(String::with_capacity(3 * text.len()));
    value.extend(utf8_percent_encode(text, UNRESERVED));
    value
}

/// An access token and how long it still lives.
///
/// Clones share one copy, which is zeroized when the last of them is dropped. Two tokens are equal
/// when their secrets are. `Debug` never prints the secret.
///
/// ```
/// use std::time::Duration;
/// use tower_wechat::AccessToken;
///
/// let token = AccessToken::new("78_Zx0", Duration::from_secs(7200));
/// assert_eq!(token.secret(), "78_Zx0");
/// assert!(token.expires_in() <= Duration::from_secs(7200));
/// assert!(!format!("{token:?}").contains("78_Zx0"));
/// ```
#[derive(Clone)]
pub struct AccessToken {
    inner: Arc<Inner>,
}

struct Inner {
    secret: Zeroizing<String>,
    /// The secret percent-encoded, where that differs from the secret.
    encoded: Option<Zeroizing<String>>,
    issued_at: Instant,
    expires_at: Instant,
    cost: Cost,
}

/// What a token cost of what the platform gives in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// It counts for this process.
    Counted,
    /// A server that keeps a budget of its own has counted it.
    CountedElsewhere,
    /// It came without a forced request.
    Free,
}

impl AccessToken {
    /// A token that lives for `expires_in` from now on.
    pub fn new(secret: impl Into<String>, expires_in: Duration) -> Self {
        AccessToken::issued_at(secret, Instant::now(), expires_in)
    }

    /// A token that somebody else has had for a while, and that has `expires_in` left.
    ///
    /// WeChat's tokens are made for 7200 s, which tells how old this one is.
    #[cfg(feature = "redis")]
    pub(crate) fn shared(secret: impl Into<String>, expires_in: Duration) -> Self {
        let lived = Duration::from_secs(7200).saturating_sub(expires_in);
        let now = Instant::now();
        let issued_at = now.checked_sub(lived).unwrap_or(now);
        AccessToken::issued_at(secret, issued_at, now - issued_at + expires_in)
    }

    fn issued_at(secret: impl Into<String>, issued_at: Instant, life: Duration) -> Self {
        /// Longer lives than this are cut, so that adding them to an instant cannot overflow.
        const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

        let secret = Zeroizing::new(secret.into());
        let encoded = Some(query_value(&secret)).filter(|encoded| *encoded != secret);
        AccessToken {
            inner: Arc::new(Inner {
                secret,
                encoded,
                issued_at,
                expires_at: issued_at + life.min(LONGEST),
                cost: Cost::Counted,
            }),
        }
    }

    #[cfg(test)]
    pub(crate) fn made_at(secret: String, issued_at: Instant, life: Duration) -> Self {
        AccessToken::issued_at(secret, issued_at, life)
    }

    /// The same token, of which its source knows that it cost nothing of the platform's quota.
    pub(crate) fn at_no_cost(self) -> Self {
        let inner = &self.inner;
        self.with(inner.issued_at, inner.expires_at, Cost::Free)
    }

    /// The same token, which a server with a budget of its own has counted.
    pub(crate) fn counted_elsewhere(self) -> Self {
        let inner = &self.inner;
        self.with(inner.issued_at, inner.expires_at, Cost::CountedElsewhere)
    }

    /// The same token, whose life counts from when it was asked for: the source knows only when the
    /// reply came, and that may have taken its time.
    pub(super) fn counted_from(self, asked_at: Instant) -> Self {
        let inner = &self.inner;
        let life = inner.expires_at.saturating_duration_since(inner.issued_at);
        let expires_at = inner.expires_at.min(asked_at + life);
        if expires_at == inner.expires_at {
            return self;
        }
        self.with(asked_at, expires_at, inner.cost)
    }

    fn with(&self, issued_at: Instant, expires_at: Instant, cost: Cost) -> Self {
        let Inner {
            secret, encoded, ..
        } = &*self.inner;
        AccessToken {
            inner: Arc::new(Inner {
                secret: secret.clone(),
                encoded: encoded.clone(),
                issued_at,
                expires_at,
                cost,
            }),
        }
    }

    /// Whether it came without a forced request, as from a store that processes share.
    pub(crate) fn came_free(&self) -> bool {
        self.inner.cost == Cost::Free
    }

    /// Whether it counts for the budget of this process.
    pub(crate) fn counts_here(&self) -> bool {
        self.inner.cost == Cost::Counted
    }

    /// The token itself. Keep it out of logs.
    pub fn secret(&self) -> &str {
        &self.inner.secret
    }

    /// What is left of its life; zero once it has expired.
    pub fn expires_in(&self) -> Duration {
        self.inner
            .expires_at
            .saturating_duration_since(Instant::now())
    }

    /// [`expires_in`](AccessToken::expires_in) as WeChat tells it: a live token's last second is
    /// not 0.
    pub(crate) fn seconds_left(&self) -> u64 {
        let left = self.expires_in();
        left.as_secs().max(u64::from(!left.is_zero()))
    }

    /// The token as it stands in a query.
    pub(crate) fn encoded(&self) -> &str {
        self.inner.encoded.as_ref().unwrap_or(&self.inner.secret)
    }

    #[cfg(any(feature = "server", test))]
    pub(crate) fn age(&self) -> Duration {
        self.age_at(Instant::now())
    }

    pub(crate) fn age_at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.inner.issued_at)
    }

    pub(crate) fn expires_at(&self) -> Instant {
        self.inner.expires_at
    }

    pub(crate) fn lives_at(&self, now: Instant) -> bool {
        now < self.inner.expires_at
    }
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) || self.inner.secret == other.inner.secret
    }
}

impl Eq for AccessToken {}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_cannot_break_out_of_its_parameter() {
        let token = AccessToken::new("a&b=c#d\r\ne f%26", Duration::from_secs(1));
        assert_eq!(token.encoded(), "a%26b%3Dc%23d%0D%0Ae%20f%2526");
    }

    #[test]
    fn an_ordinary_token_is_not_stored_twice() {
        let token = AccessToken::new("78_Az-09.~", Duration::from_secs(1));
        assert!(token.inner.encoded.is_none());
        assert_eq!(token.encoded(), token.secret());
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_shared_token_is_as_old_as_its_life_tells() {
        let token = AccessToken::shared("t", Duration::from_secs(7000));
        assert!(token.age() >= Duration::from_secs(200));
        assert!(token.expires_in() <= Duration::from_secs(7000));
        for life in [Duration::ZERO, Duration::from_secs(9000), Duration::MAX] {
            assert!(AccessToken::shared("t", life).expires_in() <= life);
        }
    }

    #[test]
    fn an_endless_life_does_not_overflow() {
        assert!(AccessToken::new("t", Duration::MAX).expires_in() > Duration::from_secs(1 << 20));
    }
}
