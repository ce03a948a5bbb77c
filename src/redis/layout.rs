use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::token::AccessToken;

type Write = dyn Fn(&AccessToken) -> String + Send + Sync;
type Read = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Where a shared token stands in Redis, and in which form.
///
/// The token is the value of one key, whose TTL is its life; that is all that another program needs. Beside it are a key
/// for the lease of whoever is getting a new one, a key for the refresh budget, and a channel on which a new token is
/// announced (not told). Without a layout of your own they are, for the account `wx0123456789abcdef`,
///
/// ```text
/// tower-wechat:{wx0123456789abcdef}:access_token
/// tower-wechat:{wx0123456789abcdef}:lease
/// tower-wechat:{wx0123456789abcdef}:refreshes
/// tower-wechat:{wx0123456789abcdef}:issued
/// ```
///
/// All of an account's keys have to be in one slot of a Redis Cluster, which is what the braces are for.
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
            token,
        }
    }

    /// What WxJava's `WxMpRedisConfigImpl` and `WxMaRedisBetterConfigImpl` use, so that this program and those share one token.
    ///
    /// The token is a plain string at `PREFIX:access_token:APPID`, the prefix being `wx` unless yours is another (`wa` for
    /// mini programs). Its TTL ends 200 s before the token does, as WxJava has it. The lease is WxJava's lock,
    /// `PREFIX:lock:APPID:accessTokenLock`, in a form that it takes with `RedisTemplate` and with Jedis: while one side asks WeChat
    /// the other waits.
    ///
    /// With Redisson that lock has another form. This program waits for such a lock, but Redisson fails on a string at its key: give
    /// [`lease`](Layout::lease) another key then, at the price of a token request too many where both sides refresh at one
    /// moment. The same goes for a Redis Cluster, unless the prefix has a hash tag. A Java process that dies with the lock keeps
    /// everybody waiting for as long as it has taken it, 60 s by WxJava's default. All names begin with the prefix, as an ACL may want.
    ///
    /// ```
    /// use tower_wechat::redis::Layout;
    ///
    /// let layout = Layout::wx_java("wx", "wx0123456789abcdef");
    /// assert_eq!(layout.token_key(), "wx:access_token:wx0123456789abcdef");
    /// assert_eq!(layout.lease_key(), "wx:lock:wx0123456789abcdef:accessTokenLock");
    /// ```
    pub fn wx_java<'a>(prefix: impl Into<Cow<'a, str>>, appid: impl Into<Cow<'a, str>>) -> Self {
        let (prefix, appid) = (prefix.into(), appid.into());
        Layout::new(format!("{prefix}:access_token:{appid}"))
            .lease(format!("{prefix}:lock:{appid}:accessTokenLock"))
            .refreshes(format!("{prefix}:lock:{appid}:refreshes"))
            .channel(format!("{prefix}:lock:{appid}:issued"))
            .ends_early(Duration::from_secs(200))
    }

    /// The layout of those who set none.
    pub(super) fn of(name: &str) -> Self {
        let prefix = format!("tower-wechat:{{{name}}}");
        Layout {
            token: format!("{prefix}:access_token"),
            lease: format!("{prefix}:lease"),
            refreshes: format!("{prefix}:refreshes"),
            channel: format!("{prefix}:issued"),
            ends_early: Duration::ZERO,
            format: None,
        }
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
    /// For programs that use a token for as long as its key is there. A token with no more than this left is written with
    /// what it has.
    pub fn ends_early(mut self, by: Duration) -> Self {
        self.ends_early = by;
        self
    }

    /// Another form of the value than the plain token.
    ///
    /// `read` makes the token out of what `write` makes of one; `None` says that the value is none of the kind.
    pub fn format(
        mut self,
        write: impl Fn(&AccessToken) -> String + Send + Sync + 'static,
        read: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.format = Some((Arc::new(write), Arc::new(read)));
        self
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

    /// The value for the token, and the key's life.
    pub(super) fn written(&self, token: &AccessToken) -> (Zeroizing<String>, Duration) {
        let value = match &self.format {
            Some((write, _)) => write(token),
            None => token.secret().to_owned(),
        };
        let life = token.expires_in();
        let shorter = life.checked_sub(self.ends_early);
        let life = shorter.filter(|life| !life.is_zero()).unwrap_or(life);
        (Zeroizing::new(value), life)
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
        // No more is known of what WeChat may put into one, and a good one that is not taken would be asked for again and again.
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

    fn token(life: u64) -> AccessToken {
        AccessToken::new("78_Zx0", Duration::from_secs(life))
    }

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
        let layout = Layout::new("k").ends_early(Duration::from_secs(200));
        assert!(layout.written(&token(7200)).1 <= Duration::from_secs(7000));
        assert!(layout.written(&token(100)).1 > Duration::from_secs(99));
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
            let (value, _) = layout.written(&token);
            let read = layout.token_in(value.as_bytes());
            prop_assert_eq!(read.as_deref(), Some(&secret));
        }
    }
}
