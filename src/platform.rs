//! The facts of each platform: its hosts, the paths with rules of their own, the errcodes.

use std::time::Duration;

/// Which of WeChat's platforms the wrapped client talks to.
///
/// The platform decides which hosts may be sent the token, which paths never get one, and which
/// errcodes mean that the token is no longer good.
///
/// ```
/// use tower_wechat::Platform;
///
/// assert_eq!(Platform::default(), Platform::OfficialAccount);
/// assert_eq!(Platform::OfficialAccount.refresh_codes(), [40001, 42001, 40014]);
/// // With WeCom 40001 is a wrong secret, which no new token cures.
/// assert_eq!(Platform::WeCom.refresh_codes(), [40014, 42001]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// Official accounts; mini programs and mini games follow the same rules.
    #[default]
    OfficialAccount,
    /// WeCom, WeChat for companies (`qyapi.weixin.qq.com`).
    WeCom,
}

impl Platform {
    /// The errcodes that mean "this token is no longer good" (WeChat's page "Global return codes").
    pub fn refresh_codes(self) -> &'static [i64] {
        match self {
            Platform::OfficialAccount => &[40001, 42001, 40014],
            Platform::WeCom => &[40014, 42001],
        }
    }

    /// Where the platform's API lives.
    pub(crate) fn base_url(self) -> &'static str {
        match self {
            Platform::OfficialAccount => "https://api.weixin.qq.com",
            Platform::WeCom => "https://qyapi.weixin.qq.com",
        }
    }

    pub(crate) fn hosts(self) -> &'static [&'static str] {
        match self {
            Platform::OfficialAccount => &[
                "api.weixin.qq.com",
                "api2.weixin.qq.com",
                "sh.api.weixin.qq.com",
                "sz.api.weixin.qq.com",
                "hk.api.weixin.qq.com",
                "mp.weixin.qq.com",
            ],
            Platform::WeCom => &["qyapi.weixin.qq.com"],
        }
    }

    /// Whether `path` asks for an access token.
    pub(crate) fn is_token_request(self, path: &str) -> bool {
        match self {
            Platform::OfficialAccount => {
                matches!(path, "/cgi-bin/token" | "/cgi-bin/stable_token")
            }
            Platform::WeCom => path == "/cgi-bin/gettoken",
        }
    }

    /// Whether `path` takes no access token, or one of another kind under the same name.
    pub(crate) fn is_exempt(path: &str) -> bool {
        const PATHS: [&str; 6] = [
            "/cgi-bin/token",
            "/cgi-bin/stable_token",
            "/cgi-bin/gettoken",
            "/cgi-bin/clear_quota/v2",
            "/cgi-bin/showqrcode",
            "/cgi-bin/webhook/send",
        ];
        const FOLDERS: [&str; 3] = ["/cgi-bin/component/", "/sns/", "/cgi-bin/service/"];
        PATHS.contains(&path) || FOLDERS.iter().any(|folder| path.starts_with(folder))
    }
}

/// WeChat ignores a forced refresh that follows another within this time (its page "Get stable access token").
pub(crate) const FORCES_APART: Duration = Duration::from_secs(30);

/// WeChat is busy; the one errcode of a token request that asking again can cure.
pub(crate) const BUSY: i64 = -1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_another_token_are_exempt_and_their_neighbours_are_not() {
        for path in [
            "/cgi-bin/token",
            "/cgi-bin/clear_quota/v2",
            "/cgi-bin/component/api_query_auth",
            "/sns/userinfo",
            "/cgi-bin/service/get_corp_token",
        ] {
            assert!(Platform::is_exempt(path), "{path}");
        }
        for path in [
            "/cgi-bin/tokens",
            "/cgi-bin/clear_quota",
            "/cgi-bin/menu/get",
            "/snsx",
            "/",
            "",
        ] {
            assert!(!Platform::is_exempt(path), "{path}");
        }
    }
}
