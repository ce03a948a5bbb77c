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
                // International accounts.
                "api.wechat.com",
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
    pub(crate) fn is_exempt(self, path: &str) -> bool {
        is_exempt_on_both(path)
            || match self {
                Platform::OfficialAccount => is_exempt_official(path),
                Platform::WeCom => is_exempt_wecom(path),
            }
    }

    /// The platform that has this host, if one has it.
    pub(crate) fn of_host(host: &str) -> Option<Platform> {
        const ALL: [Platform; 2] = [Platform::OfficialAccount, Platform::WeCom];

        ALL.into_iter().find(|platform| platform.has_host(host))
    }

    pub(crate) fn has_host(self, host: &str) -> bool {
        let mut hosts = self.hosts().iter();
        hosts.any(|own| own.eq_ignore_ascii_case(host))
    }
}

/// Neither platform takes the account's token here, so a `platform` that was forgotten does no
/// harm.
fn is_exempt_on_both(path: &str) -> bool {
    /// The third-party platform's token; a user's, or a code and the AppSecret; on WeCom a suite's
    /// token or a service provider's; and a robot's `key`.
    const FOLDERS: [&str; 4] = [
        "/cgi-bin/component/",
        "/sns/",
        "/cgi-bin/service/",
        "/cgi-bin/webhook/",
    ];
    // The one before the last takes the AppSecret (its page "Reset API call counts by AppSecret").
    matches!(
        path,
        "/cgi-bin/token"
            | "/cgi-bin/stable_token"
            | "/cgi-bin/gettoken"
            | "/cgi-bin/clear_quota/v2"
            | "/cgi-bin/showqrcode"
    ) || FOLDERS.iter().any(|folder| path.starts_with(folder))
}

/// A third-party platform's token, as `access_token` or named `component_access_token`. The folder
/// is cloud development of many mini programs at once.
fn is_exempt_official(path: &str) -> bool {
    matches!(
        path,
        "/product/register/check_audit_status"
            | "/product/register/register_shop"
            | "/wxa/addtotemplate"
            | "/wxa/component/fastregisterbetaweapp"
            | "/wxa/component/fastregisterpersonalweapp"
            | "/wxa/deletetemplate"
            | "/wxa/gettemplatedraftlist"
            | "/wxa/gettemplatelist"
    ) || path.starts_with("/componenttcb/")
}

/// A service provider's token; the last two take the one that comes with a company's registration
/// (WeCom's pages "Set the visible scope of an authorised application" and "Set contact
/// synchronisation complete").
fn is_exempt_wecom(path: &str) -> bool {
    matches!(
        path,
        "/cgi-bin/hardware/get_device_feature"
            | "/cgi-bin/agent/set_scope"
            | "/cgi-bin/sync/contact_sync_success"
    ) || path.starts_with("/cgi-bin/license/")
}

/// WeChat ignores a forced refresh that follows another within this time (its page "Get stable
/// access token").
pub(crate) const FORCES_APART: Duration = Duration::from_secs(30);

/// WeChat is busy; the one errcode of a token request that asking again can cure.
pub(crate) const BUSY: i64 = -1;

/// Too many token requests this minute.
pub(crate) const TOO_MANY_THIS_MINUTE: i64 = 45011;

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Platform; 2] = [Platform::OfficialAccount, Platform::WeCom];

    #[test]
    fn paths_with_another_token_are_exempt_and_their_neighbours_are_not() {
        for platform in BOTH {
            for path in [
                "/cgi-bin/token",
                "/cgi-bin/stable_token",
                "/cgi-bin/gettoken",
                "/cgi-bin/clear_quota/v2",
                "/cgi-bin/component/api_query_auth",
                "/cgi-bin/component/fastregisterweapp",
                "/sns/userinfo",
                "/sns/component/jscode2session",
                "/cgi-bin/service/get_login_info",
                "/cgi-bin/service/get_corp_token",
                "/cgi-bin/webhook/send",
                "/cgi-bin/webhook/upload_media",
            ] {
                assert!(platform.is_exempt(path), "{platform:?} {path}");
            }
            for path in [
                "/cgi-bin/tokens",
                "/cgi-bin/clear_quota",
                "/cgi-bin/menu/get",
                "/cgi-bin/open/have",
                "/cgi-bin/component",
                "/wxa/component/",
                "/wxa/getwxacode",
                "/product/register/submit_basicinfo",
                "/snsx",
                "/x/sns/userinfo",
                "/",
                "",
            ] {
                assert!(!platform.is_exempt(path), "{platform:?} {path}");
            }
        }
    }

    #[test]
    fn what_one_platform_gives_to_others_is_exempt_there_only() {
        for (path, on) in [
            ("/wxa/gettemplatelist", Platform::OfficialAccount),
            (
                "/wxa/component/fastregisterbetaweapp",
                Platform::OfficialAccount,
            ),
            (
                "/product/register/check_audit_status",
                Platform::OfficialAccount,
            ),
            ("/product/register/register_shop", Platform::OfficialAccount),
            ("/componenttcb/batchgetenvid", Platform::OfficialAccount),
            ("/cgi-bin/license/list_order", Platform::WeCom),
            ("/cgi-bin/hardware/get_device_feature", Platform::WeCom),
            ("/cgi-bin/agent/set_scope", Platform::WeCom),
            ("/cgi-bin/sync/contact_sync_success", Platform::WeCom),
        ] {
            for platform in BOTH {
                let exempt = platform.is_exempt(path);
                assert_eq!(exempt, platform == on, "{platform:?} {path}");
            }
        }
    }

    #[test]
    fn codes_that_mean_authorize_again_never_mean_refresh() {
        // 42007 of the official platform is a user's word, WeCom's is "pre_auth_code expired";
        // 61023 is a refresh token's death.
        for platform in BOTH {
            for code in [42007, 61023, 42009, 40082, 41001, 48001, -1] {
                assert!(!platform.refresh_codes().contains(&code), "{code}");
            }
        }
    }

    #[test]
    fn every_host_is_one_platforms_in_any_case() {
        for platform in BOTH {
            for host in platform.hosts() {
                let of_host = Platform::of_host(&host.to_ascii_uppercase());
                assert_eq!(of_host, Some(platform), "{host}");
            }
        }
        // Articles and QR codes are there, and no API.
        assert_eq!(Platform::of_host("mp.weixin.qq.com"), None);
    }
}
