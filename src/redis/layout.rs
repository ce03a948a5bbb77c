use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::token::AccessToken;

type Write = dyn Fn(&AccessToken) -> String + Send + Sync;
type Read = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Where a shared token stands in Redis, and in which form.
///
/// The token is the value of one key, whose TTL is its life; that is all that another program
/// needs. Beside it are a key for the lease of whoever is getting a new one, a key for the refresh
/// budget, and a channel on which a new token is announced (not told). Without a layout of your own
/// they are, for the account `wx0123456789abcdef`,
///
/// ```text
/// tower-wechat:{wx0123456789abcdef}:access_token
/// tower-wechat:{wx0123456789abcdef}:lease
/// tower-wechat:{wx0123456789abcdef}:refreshes
/// tower-wechat:{wx0123456789abcdef}:issued
/// ```
///
/// All of an account's keys have to be in one slot of a Redis Cluster, which is what the braces are
/// for.
///
/// ```
/// use std::time::Duration;
/// use tower_wechat::redis::Layout;
///
/// // As another program has it: {"token":"78_Zx0"}
/// let layout = Layout::new("sessions:wechat:wx0123456789abcdef").format(
///     |token| serde_json::json!({ "token": token.secret() }).to_string(),
///     |value| {
///         let value: serde_json::Value = serde_json::from_str(value).ok()?;
///         Some(value.get("token")?.as_str()?.to_owned())
///     },
/// );
/// assert_eq!(layout.token_key(), "sessions:wechat:wx0123456789abcdef");
/// assert_eq!(layout.lease_key(), "{sessions:wechat:wx0123456789abcdef}:lease");
/// ```
#[derive(Clone)]
pub struct Layout {
    token: String,
    lease: String,
    refreshes: String,
    channel: String,
    ends_early: Duration,
    format: Option<(Arc<Write>, Arc<Read>)>,
    /// For how long a program that is not ours may hold the lease.
    lock: Option<Duration>,
    /// Whether a program that is not ours reads the token.
    #[cfg(feature = "redis-seal")]
    is_foreign: bool,
}

impl Layout {
    /// The token as a plain string at `token_key`; the other names are made from that one.
    pub fn new(token_key: impl Into<String>) -> Self {
        let token = token_key.into();
        let beside = |name: &str| {
            if has_hash_tag(&token) {
                format!("{token}:{name}")
            } else {
                // In the slot of a key is whatever has the key for its hash tag.
                format!("{{{token}}}:{name}")
            }
        };
        Layout {
            lease: beside("lease"),
            refreshes: beside("refreshes"),
            channel: beside("issued"),
            ends_early: Duration::ZERO,
            format: None,
            lock: None,
            #[cfg(feature = "redis-seal")]
            is_foreign: false,
            token,
        }
    }

    /// The layout of those who set none.
    pub(super) fn of(name: &str) -> Self {
        let prefix = format!("tower-wechat:{{{name}}}");
        Layout::new(format!("{prefix}:access_token"))
            .lease(format!("{prefix}:lease"))
            .refreshes(format!("{prefix}:refreshes"))
            .channel(format!("{prefix}:issued"))
    }

    /// The key of the lease.
    pub fn lease(mut self, key: impl Into<String>) -> Self {
        self.lease = key.into();
        self
    }

    /// The key of the refresh budget.
    pub fn refreshes(mut self, key: impl Into<String>) -> Self {
        self.refreshes = key.into();
        self
    }

    /// The channel on which a new token is announced.
    pub fn channel(mut self, name: impl Into<String>) -> Self {
        self.channel = name.into();
        self
    }

    /// By how much the key's life is shorter than the token's; default: not at all.
    ///
    /// For programs that use a token for as long as its key is there. A token with no more than
    /// this left is written with what it has.
    pub fn ends_early(mut self, by: Duration) -> Self {
        self.ends_early = by;
        self
    }

    /// For how long another program may hold the lease; default: a minute with WxJava, else twice
    /// as long as [`RedisTokens::lease`](super::RedisTokens::lease).
    ///
    /// A lease that has longer to live, or no TTL, is cut to this: by a mistake, or after the clock
    /// of Redis was set back, it would keep everybody waiting for years.
    pub fn longest_lock(mut self, longest: Duration) -> Self {
        self.lock = Some(longest);
        self
    }

    /// Another form of the value than the plain token.
    ///
    /// `read` makes the token out of what `write` makes of one; `None` says that the value is none
    /// of the kind. Such a token cannot be sealed.
    pub fn format(
        mut self,
        write: impl Fn(&AccessToken) -> String + Send + Sync + 'static,
        read: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.format = Some((Arc::new(write), Arc::new(read)));
        self.read_by_others()
    }

    /// The key of the token.
    pub fn token_key(&self) -> &str {
        &self.token
    }

    /// The key of the lease.
    pub fn lease_key(&self) -> &str {
        &self.lease
    }

    /// The key of the refresh budget.
    pub fn refreshes_key(&self) -> &str {
        &self.refreshes
    }

    /// The channel on which a new token is announced.
    pub fn channel_name(&self) -> &str {
        &self.channel
    }

    /// By how much a token outlives its key.
    pub(super) fn early(&self) -> Duration {
        self.ends_early
    }

    /// Programs that are not ours read the token, which cannot be sealed then.
    #[cfg(feature = "redis-seal")]
    pub(super) fn read_by_others(mut self) -> Self {
        self.is_foreign = true;
        self
    }

    #[cfg(not(feature = "redis-seal"))]
    pub(super) fn read_by_others(self) -> Self {
        self
    }

    #[cfg(feature = "redis-seal")]
    pub(super) fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// The longest life that is believed of somebody else's lease, where ours live for `lease`.
    pub(super) fn longest_lease(&self, lease: Duration) -> Duration {
        let ours = lease.saturating_mul(2);
        self.lock.map_or(ours, |longest| longest.max(ours))
    }

    /// The token as it is written.
    pub(super) fn text_of(&self, token: &AccessToken) -> Zeroizing<String> {
        Zeroizing::new(match &self.format {
            Some((write, _)) => write(token),
            None => token.secret().to_owned(),
        })
    }

    /// The life of the key of a token with `life` before it.
    pub(super) fn life_of_key(&self, life: Duration) -> Duration {
        let shorter = life.checked_sub(self.ends_early);
        shorter.filter(|life| !life.is_zero()).unwrap_or(life)
    }

    /// The token in a value, should there be one.
    pub(super) fn token_in(&self, value: &[u8]) -> Option<Zeroizing<String>> {
        /// Real ones have up to 512 characters or so.
        const LONGEST: usize = 16 * 1024;

        let value = std::str::from_utf8(value).ok()?;
        let token = match &self.format {
            Some((_, read)) => read(value)?,
            None => value.to_owned(),
        };
        let token = Zeroizing::new(token);
        let whole = !token.is_empty() && token.len() <= LONGEST;
        // No more is known of what WeChat may put into one, and a good one that is not taken would
        // be asked for again and again.
        (whole && !token.chars().any(|c| c.is_control() || c.is_whitespace())).then_some(token)
    }
}

/// Whether Redis Cluster places `key` by a part of it.
fn has_hash_tag(key: &str) -> bool {
    let tagged = key.split_once('{').and_then(|(_, rest)| rest.find('}'));
    tagged.is_some_and(|length| length > 0)
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layout")
            .field("token_key", &self.token)
            .field("lease_key", &self.lease)
            .field("refreshes_key", &self.refreshes)
            .field("channel_name", &self.channel)
            .field("ends_early", &self.ends_early)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_names_of_an_account_share_a_slot() {
        for layout in [Layout::of("wx1"), Layout::new("a:{wx1}:token")] {
            for key in [
                layout.token_key(),
                layout.lease_key(),
                layout.refreshes_key(),
            ] {
                assert!(key.contains("{wx1}"), "{key}");
            }
        }
        let layout = Layout::new("a{}b");
        assert_eq!(layout.lease_key(), "{a{}b}:lease");
    }

    #[test]
    fn a_key_ends_early_but_never_before_it_begins() {
        let seconds = Duration::from_secs;
        let layout = Layout::new("k").ends_early(seconds(200));
        assert_eq!(layout.life_of_key(seconds(7200)), seconds(7000));
        assert_eq!(layout.life_of_key(seconds(100)), seconds(100));
    }

    #[test]
    fn a_lease_of_ones_own_is_believed_and_wxjavas_lock_too() {
        let seconds = Duration::from_secs;
        assert_eq!(Layout::new("k").longest_lease(seconds(3)), seconds(6));
        let wx_java = Layout::wx_java_mp("wx", "wx1");
        assert_eq!(wx_java.longest_lease(seconds(3)), seconds(60));
        assert_eq!(wx_java.longest_lease(seconds(100)), seconds(200));
    }

    #[test]
    fn what_cannot_be_a_token_is_none() {
        let layout = Layout::new("k");
        for value in [
            &b""[..],
            b"\xac\xed\0\x05t\0\x03abc",
            b"a b",
            b"a\n",
            &[b'x'; 20_000],
        ] {
            assert!(layout.token_in(value).is_none());
        }
        assert_eq!(*layout.token_in(b"78_Zx0").unwrap(), "78_Zx0");
    }

    proptest! {
        #[test]
        fn any_value_is_read_or_refused(value: Vec<u8>) {
            let _ = Layout::new("k").token_in(&value);
        }

        #[test]
        fn what_is_written_is_read(secret in "[!-~]{1,600}") {
            let layout = Layout::new("k");
            let token = AccessToken::new(secret.as_str(), Duration::from_secs(7200));
            let read = layout.token_in(layout.text_of(&token).as_bytes());
            prop_assert_eq!(read.as_deref(), Some(&secret));
        }
    }
}
