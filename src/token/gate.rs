use super::AccessToken;

/// Decides which refreshes one handle of a [`TokenManager`](crate::TokenManager) may cause.
///
/// A server that passes the calls of many clients on gives each of them a handle of its own, by
/// [`TokenManager::with_gate`](crate::TokenManager::with_gate). The gate charges the client when a
/// refresh takes off because of it, whatever becomes of the call, and gives the charge back when
/// the outcome shows that the refresh was right, or cost nothing. So no client can use up the
/// refreshes that WeChat allows to all.
///
/// The methods are called often and must not block.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use std::time::Duration;
/// use tower_wechat::{AccessToken, RefreshGate, RefreshOutcome, TokenManager, source_fn};
///
/// /// Allows so many refreshes in all.
/// struct Allowance(AtomicU32);
///
/// impl RefreshGate for Allowance {
///     fn take_off(&self, _rejected: &AccessToken) -> bool {
///         let left = self.0.load(Ordering::Relaxed);
///         self.0.store(left.saturating_sub(1), Ordering::Relaxed);
///         left > 0
///     }
///
///     fn outcome(&self, _rejected: &AccessToken, outcome: RefreshOutcome) {
///         if matches!(outcome, RefreshOutcome::Free | RefreshOutcome::ReplayAccepted) {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// # let tokens = TokenManager::new(source_fn(|_| async {
/// #     Ok(AccessToken::new("78_Zx0", Duration::from_secs(7200)))
/// # }));
/// let of_this_client = tokens.with_gate(Allowance(AtomicU32::new(3)));
/// # drop(of_this_client);
/// ```
pub trait RefreshGate: Send + Sync + 'static {
    /// Whether a refresh in place of `rejected` may take off for this handle; charges it.
    ///
    /// Asked only when nobody else's refresh is under way and the account's own limits allow one.
    fn take_off(&self, rejected: &AccessToken) -> bool;

    /// A call of this handle was rejected with `rejected`, whether it causes a refresh or not.
    ///
    /// Default: nothing.
    fn reported(&self, rejected: &AccessToken) {
        let _ = rejected;
    }

    /// What became of a refresh that took off for this handle. Default: nothing.
    ///
    /// Called when the source has answered, also if the caller is gone, and once more when the call
    /// was sent again and accepted.
    fn outcome(&self, rejected: &AccessToken, outcome: RefreshOutcome) {
        let _ = (rejected, outcome);
    }
}

/// What became of a refresh that a [`RefreshGate`] let take off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefreshOutcome {
    /// There is a new token.
    Renewed,
    /// It cost nothing of what the platform allows: another process had renewed the token already,
    /// the source gave the rejected one again, or it failed.
    Free,
    /// The call that caused it was sent again with the new token, and was not rejected.
    ReplayAccepted,
}
