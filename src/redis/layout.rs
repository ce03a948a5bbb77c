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

    /// What WxJava has for official accounts (`WxMpRedisConfigImpl`), so that this program and those share one token.
    ///
    /// The token is a plain string at `PREFIX:access_token:APPID`, the prefix being `wx` unless yours is another. Its TTL is the
    /// token's life, as WxJava has it since 4.6.0; before, it ended 200 s early, and an older WxJava is joined by
    /// `.ends_early(Duration::from_secs(200))`. The lease is WxJava's lock, `PREFIX:lock:APPID:accessTokenLock`, in a form that it
    /// takes with `RedisTemplate` and with Jedis: while one side asks WeChat the other waits.
    ///
    /// With Redisson that lock has another form. This program waits for such a lock, but Redisson fails on a string at its key: give
    /// [`lease`](Layout::lease) another key then, at the price of a token request too many where both sides refresh at one
    /// moment. The same goes for a Redis Cluster, unless the prefix has a hash tag. A Java process that dies with the lock keeps
    /// everybody waiting for as long as it has taken it, 60 s by WxJava's default, and a minute at most
    /// ([`longest_lock`](Layout::longest_lock)). All names begin with the prefix, as an ACL may want. Such a token cannot be sealed.
    ///
    /// ```
    /// use tower_wechat::redis::Layout;
    ///
    /// let layout = Layout::wx_java_mp("wx", "wx0123456789abcdef");
    /// assert_eq!(layout.token_key(), "wx:access_token:wx0123456789abcdef");
    /// assert_eq!(layout.lease_key(), "wx:lock:wx0123456789abcdef:accessTokenLock");
    /// ```
    pub fn wx_java_mp<'a>(prefix: impl Into<Cow<'a, str>>, appid: impl Into<Cow<'a, str>>) -> Self {
        let (prefix, appid) = (prefix.into(), appid.into());
        Layout::new(format!("{prefix}:access_token:{appid}"))
            .of_wx_java(format!("{prefix}:lock:{appid}"), ":accessTokenLock")
    }

    /// What WxJava has for mini programs (`WxMaRedisBetterConfigImpl`).
    ///
    /// As [`wx_java_mp`](Layout::wx_java_mp), but that WxJava has the TTL end 200 s before the token does; the prefix is `wa`
    /// unless yours is another.
    ///
    /// ```
    /// use tower_wechat::redis::Layout;
    ///
    /// let layout = Layout::wx_java_miniapp("wa", "wx0123456789abcdef");
    /// assert_eq!(layout.token_key(), "wa:access_token:wx0123456789abcdef");
    /// ```
    pub fn wx_java_miniapp<'a>(
        prefix: impl Into<Cow<'a, str>>,
        appid: impl Into<Cow<'a, str>>,
    ) -> Self {
        Layout::wx_java_mp(prefix, appid).ends_early(Duration::from_secs(200))
    }

    /// What WxJava has for an application of WeCom's (`WxCpRedisTemplateConfigImpl`, `WxCpJedisConfigImpl` and their kind).
    ///
    /// The token is a plain string at `PREFIX:wechat_cp_access_token_key:CORPID:AGENTID`, or without `PREFIX:` if the prefix is
    /// empty, and its TTL is the token's life. For the rest see [`wx_java_mp`](Layout::wx_java_mp).
    ///
    /// ```
    /// use tower_wechat::redis::Layout;
    ///
    /// let layout = Layout::wx_java_cp("", "ww0123456789abcdef", 1000002);
    /// assert_eq!(layout.token_key(), "wechat_cp_access_token_key:ww0123456789abcdef:1000002");
    /// assert_eq!(layout.lease_key(), "wechat_cp_lock:ww0123456789abcdef:1000002:accessToken");
    /// ```
    pub fn wx_java_cp<'a>(
        prefix: impl Into<Cow<'a, str>>,
        corpid: impl Into<Cow<'a, str>>,
        agent_id: u32,
    ) -> Self {
        let (mut prefix, corpid) = (prefix.into().into_owned(), corpid.into());
        if !prefix.is_empty() && !prefix.ends_with(':') {
            prefix.push(':');
        }
        Layout::new(format!(
            "{prefix}wechat_cp_access_token_key:{corpid}:{agent_id}"
        ))
        .of_wx_java(
            format!("{prefix}wechat_cp_lock:{corpid}:{agent_id}"),
            ":accessToken",
        )
    }

    /// With the lock and the other names beside it.
    fn of_wx_java(self, locks: String, lock: &str) -> Self {
        let layout = self
            .lease(format!("{locks}{lock}"))
            .refreshes(format!("{locks}:refreshes"))
            .channel(format!("{locks}:issued"))
            // WxJava's own locks live for so long.
            .longest_lock(Duration::from_secs(60));
        #[cfg(feature = "redis-seal")]
        let layout = Layout {
            is_foreign: true,
            ..layout
        };
        layout
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
    /// For programs that use a token for as long as its key is there. A token with no more than this left is written with
    /// what it has.
    pub fn ends_early(mut self, by: Duration) -> Self {
        self.ends_early = by;
        self
    }

    /// For how long another program may hold the lease; default: a minute with WxJava, else twice as long as
    /// [`RedisTokens::lease`](super::RedisTokens::lease).
    ///
    /// A lease that has longer to live, or no TTL, is cut to this: by a mistake, or after the clock of Redis was set back, it would
    /// keep everybody waiting for years.
    pub fn longest_lock(mut self, longest: Duration) -> Self {
        self.lock = Some(longest);
        self
    }

    /// Another form of the value than the plain token.
    ///
    /// `read` makes the token out of what `write` makes of one; `None` says that the value is none of the kind. Such a token cannot
    /// be sealed.
    pub fn format(
        mut self,
        write: impl Fn(&AccessToken) -> String + Send + Sync + 'static,
        read: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.format = Some((Arc::new(write), Arc::new(read)));
        #[cfg(feature = "redis-seal")]
        {
            self.is_foreign = true;
        }
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

    /// Whether a program that is not ours reads the token, which cannot be sealed then.
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
    fn wxjava_has_the_keys_of_mini_programs_end_early_and_no_others() {
        for (layout, early) in [
            (Layout::wx_java_mp("wx", "wx1"), 0),
            (Layout::wx_java_miniapp("wa", "wx1"), 200),
            (Layout::wx_java_cp("", "ww1", 1), 0),
        ] {
            assert_eq!(layout.early(), Duration::from_secs(early), "{layout:?}");
        }
        let layout = Layout::wx_java_cp("app", "ww1", 1);
        assert_eq!(layout.token_key(), "app:wechat_cp_access_token_key:ww1:1");
        assert_eq!(layout.lease_key(), "app:wechat_cp_lock:ww1:1:accessToken");
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
