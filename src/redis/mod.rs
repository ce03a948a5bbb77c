//! One token for many processes, kept in Redis (feature `redis`).
//!
//! [`RedisTokens`] is a [`TokenSource`](crate::TokenSource) around another one. Give it to the
//! [`TokenManager`](crate::TokenManager) of each process, and they use one token: whichever needs a
//! new one first asks WeChat, and the others find it in Redis.
//!
//! ```no_run
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::Layer;
//! use tower_wechat::redis::RedisTokens;
//! use tower_wechat::{StableToken, TokenManager, WechatAuthLayer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let redis = redis::Client::open("redis://127.0.0.1/")?;
//! let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
//! let source = StableToken::new(http.clone(), "wx0123456789abcdef", "the AppSecret");
//!
//! let tokens = TokenManager::new(RedisTokens::new(redis, source));
//! let service = WechatAuthLayer::new(tokens).layer(http);
//! # drop(service);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! An API call makes no call to Redis: the manager has the token in memory. Redis is asked when the
//! manager would ask WeChat:
//!
//! 1. It reads the shared token. One that lives, and is not the one that WeChat has just turned
//!    down (or that is to be renewed), is the answer.
//! 2. Otherwise it takes a lease, provided that the token still is what was read, and asks the
//!    source. The lease lasts 3 s and is renewed while the source works.
//! 3. It writes the token, unless the lease is gone and something else has been written: a process
//!    that slept through its lease never overwrites a newer token, and takes that one.
//! 4. Who does not get the lease waits for the announcement of the new token, and looks from time
//!    to time, until the manager's `issue_timeout`. A holder that died is succeeded when its lease
//!    is over.
//!
//! Lives are the TTLs of keys, so the machines' clocks do not matter. Refreshes of rejected tokens
//! have a budget ([`RedisTokens::refresh_budget`]) for all processes together, by default what the
//! source's platform allows: any 24 hours of endless rejections force fewer than 20 of
//! [`StableToken`](crate::StableToken)'s. Each manager has a budget of its own besides. While Redis
//! is away there is only that one, and so many processes may force so many times as much.
//!
//! # What Redis is trusted with
//!
//! Little. A value that is no token, and a key of another type or without a TTL, is replaced. No
//! life is believed that is longer than it can be, as after a mistake or after the clock of Redis
//! was set back: a token's TTL is cut to 7200 s, that of a lease to what [`Layout::longest_lock`]
//! says, a budget's level to its size. A warning tells of each.
//!
//! Redis holds the tokens in the open: whoever can read it can call WeChat for the account, and
//! whoever can write to it can have this program use another account's token. With the feature
//! `redis-seal` and `RedisTokens::sealed` they stand there encrypted, and bound to their account.
//! AppSecrets are never written to it.
//!
//! # When Redis is away
//!
//! A token that lives goes on being used. Where one is needed [`Outage`] decides; by default the
//! process asks the source for itself. The next one is shared again as soon as Redis is back.
//! Whoever wants a token waits for Redis for [`RedisTokens::timeout`] (2 s) at most, all attempts
//! together. A failover that loses a lease or a token costs one more token request, and one that
//! loses the budget's level begins it anew.
//!
//! A Redis that answers and refuses (a wrong password, a missing right) is treated the same, and
//! told at error level, as only a person can mend that. A program learns of it at its start by
//! [`RedisTokens::check`].
//!
//! The source inside matters then, as it does for processes that do not share.
//! [`StableToken`](crate::StableToken) gives all processes the same token, Redis or not, and is the
//! better one; with [`ClientCredential`](crate::ClientCredential) processes void each other's while
//! Redis is away.
//!
//! # Redis itself
//!
//! Use the crate `redis` of version 1. For `rediss://` add its feature `tokio-rustls-comp`. rustls
//! then wants one provider of cryptography: in a program with none, or with two, call
//! `rustls::crypto::ring::default_provider().install_default()` first, or connecting panics. For a
//! cluster (`cluster-async`) and Sentinel see [`RedisTokens::with_connections`]. The server needs
//! scripts (`EVALSHA`) of Redis 5 or later, or of Valkey. A user of Redis who may do this and no
//! more will do:
//!
//! ```text
//! ACL SETUSER app on >PASSWORD ~tower-wechat:* &tower-wechat:* +evalsha +script|load +get +set +del +pttl +pexpire +publish +subscribe
//! ```
//!
//! With the feature `metrics` the counter `wechat_shared_tokens_total` has a `result` for each
//! question that comes to an end: `shared` (it stood in Redis), `issued` (this process got it),
//! `superseded` (it slept through its lease), `not_stored`, `failed` (the source did),
//! `over_budget`, `local` (Redis was away, and the source was asked), `outage` (Redis was away, and
//! the source was not asked), `refused` (Redis answered, and will not have this program: a person
//! has to mend that).

mod alone;
mod announcements;
mod check;
mod connection;
mod known;
mod layout;
mod lease;
mod lua;
mod outage;
mod scripts;
#[cfg(feature = "redis-seal")]
mod seal;
mod share;
mod tokens;
mod trouble;
mod value;
mod wx_java;

pub use self::check::CheckError;
pub use self::layout::Layout;
pub use self::outage::Outage;
#[cfg(feature = "redis-seal")]
pub use self::seal::Seal;
pub use self::tokens::RedisTokens;
