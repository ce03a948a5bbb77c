//! Where WxJava has its tokens.

use std::borrow::Cow;
use std::time::Duration;

use super::layout::Layout;

impl Layout {
    /// What WxJava has for official accounts (`WxMpRedisConfigImpl`), so that this program and
    /// those share one token.
    ///
    /// The token is a plain string at `PREFIX:access_token:APPID`, the prefix being `wx` unless
    /// yours is another. Its TTL is the token's life, as WxJava has it since 4.6.0; before, it
    /// ended 200 s early, and an older WxJava is joined by `.ends_early(Duration::from_secs(200))`.
    /// The lease is WxJava's lock, `PREFIX:lock:APPID:accessTokenLock`, in a form that it takes
    /// with `RedisTemplate` and with Jedis: while one side asks WeChat the other waits.
    ///
    /// With Redisson that lock has another form. This program waits for such a lock, but Redisson
    /// fails on a string at its key: give [`lease`](Layout::lease) another key then, at the price
    /// of a token request too many where both sides refresh at one moment. The same goes for a
    /// Redis Cluster, unless the prefix has a hash tag. A Java process that dies with the lock
    /// keeps everybody waiting for as long as it has taken it, 60 s by WxJava's default, and a
    /// minute at most ([`longest_lock`](Layout::longest_lock)). All names begin with the prefix, as
    /// an ACL may want. Such a token cannot be sealed.
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
    /// As [`wx_java_mp`](Layout::wx_java_mp), but that WxJava has the TTL end 200 s before the
    /// token does; the prefix is `wa` unless yours is another.
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

    /// What WxJava has for an application of WeCom's (`WxCpRedisTemplateConfigImpl`,
    /// `WxCpJedisConfigImpl` and their kind).
    ///
    /// The token is a plain string at `PREFIX:wechat_cp_access_token_key:CORPID:AGENTID`, or
    /// without `PREFIX:` if the prefix is empty, and its TTL is the token's life. For the rest see
    /// [`wx_java_mp`](Layout::wx_java_mp).
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
        self.lease(format!("{locks}{lock}"))
            .refreshes(format!("{locks}:refreshes"))
            .channel(format!("{locks}:issued"))
            // WxJava's own locks live for so long.
            .longest_lock(Duration::from_secs(60))
            .read_by_others()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
