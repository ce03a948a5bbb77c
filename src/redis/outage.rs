/// What to do for a token while Redis is away, or refuses this program.
///
/// This is about a token that is needed: one that lives goes on being used, Redis or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outage {
    /// Ask the source for one of this process's own.
    ///
    /// Several processes that do so get a token each. From [`StableToken`](crate::StableToken) they
    /// all get the same; those of [`ClientCredential`](crate::ClientCredential) void each other, as
    /// far as the processes' refresh budgets go: by default one request a minute for each, and two
    /// of them would spend WeChat's 2000 a day in 17 hours. A wrong password, which lasts until
    /// somebody corrects it, leads to the same: the log has it as an error.
    #[default]
    IssueLocally,
    /// Fail, with [`TokenError::Transport`](crate::TokenError::Transport), when Redis has been
    /// asked for [`RedisTokens::timeout`](crate::redis::RedisTokens::timeout); the next caller may
    /// try again at once. A Redis that refuses makes it
    /// [`TokenError::Other`](crate::TokenError::Other).
    Fail,
}
