/// What to do for a token while Redis is away.
///
/// Only where one is needed: a token that lives goes on being used, Redis or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outage {
    /// Ask the source for one of this process's own.
    ///
    /// Several processes that do so get a token each. From [`StableToken`](crate::StableToken) they all get the same; those of
    /// [`ClientCredential`](crate::ClientCredential) void each other, as far as the processes' refresh budgets go: by default
    /// one request a minute for each, and two of them would spend WeChat's 2000 a day in 17 hours.
    #[default]
    IssueLocally,
    /// Fail, with [`TokenError::Transport`](crate::TokenError::Transport).
    Fail,
}
