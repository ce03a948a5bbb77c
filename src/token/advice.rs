//! What to do about an errcode of a token request, where we know.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::platform::Platform;

/// What to do, with the address to allow where the errmsg names it.
pub(super) fn advice(errcode: i64, errmsg: &str) -> Option<Cow<'static, str>> {
    let words = match (platform_of(errmsg), errcode) {
        (Platform::WeCom, 40001) | (_, 40091) => {
            "the corpsecret is wrong or was reset: copy it anew from this application's page in WeCom's console"
        }
        (Platform::WeCom, 40013) => "the corpid is wrong: copy it anew from WeCom's console",
        (Platform::WeCom, 41002) => "the corpid is missing",
        (Platform::WeCom, 41004) => "the corpsecret is missing",
        (Platform::WeCom, 45009) => {
            "too many token requests: look for who asks so often, and wait an hour"
        }
        (_, 60020) => return Some(allow(errmsg, "the application's list of trusted addresses")),
        (_, 40164) => return Some(allow(errmsg, "the account's IP allow-list")),
        (_, 61004) => return Some(allow(errmsg, "the third-party platform's IP allow-list")),
        (_, 45035) => return Some(allow(errmsg, "the IP allow-list in the product's console")),
        (_, 89501) => return Some(confirm(errmsg, "is waiting for a confirmation")),
        (_, 89503) => return Some(confirm(errmsg, "needs a confirmation first")),
        (_, 89506) => return Some(refused(errmsg, "24 hours")),
        (_, 89507) => return Some(refused(errmsg, "an hour")),
        (_, 40001 | 40125) => {
            "the secret is wrong or was reset: copy it anew from the account's console"
        }
        (_, 40002) => "grant_type must be client_credential",
        (_, 40013) => "the appid is wrong: copy it anew from the account's console",
        (_, 40243) => {
            "the AppSecret is frozen: unfreeze it in the account's console, which takes 10 minutes"
        }
        (_, 41002) => "the appid is missing",
        (_, 41004) => "the secret is missing",
        (_, 45009) => {
            "the day's quota of token requests is used up: look for who asks so often; the next day \
             brings a new one, and so does clear_quota"
        }
        (_, 45011) => "too many token requests this minute: look for who asks so often",
        (_, 50002 | 50004) => "the account may not use this API now: look into its console",
        (_, 50007) => "the account is frozen: look into its console, and have that lifted",
        (_, 61024) => {
            "this appid is a third-party platform's, and its token comes from api_component_token: \
             use the appid and the secret of the account itself"
        }
        _ => return None,
    };
    Some(words.into())
}

/// Whose errmsg it is: WeCom's say `from ip:` where the others say `rid:`. Only for words: nothing
/// is decided by it.
fn platform_of(errmsg: &str) -> Platform {
    if errmsg.contains("from ip:") && !errmsg.contains("rid:") {
        Platform::WeCom
    } else {
        Platform::OfficialAccount
    }
}

fn allow(errmsg: &str, list: &str) -> Cow<'static, str> {
    format!("put {} on {list}", this_address(errmsg)).into()
}

fn confirm(errmsg: &str, what: &str) -> Cow<'static, str> {
    let address = this_address(errmsg);
    format!("{address} {what}: an administrator of the account must confirm it").into()
}

fn refused(errmsg: &str, wait: &str) -> Cow<'static, str> {
    let address = this_address(errmsg);
    format!(
        "an administrator of the account refused {address}: talk to them; WeChat asks them again \
         after {wait} at the earliest"
    )
    .into()
}

fn this_address(errmsg: &str) -> Cow<'static, str> {
    match address_in(errmsg) {
        Some(address) => address.to_string().into(),
        None => "this address".into(),
    }
}

/// The address that the errmsg names: the first of IPv4, else the first of IPv6.
///
/// It is parsed, and printed from what was parsed: no other text of an errmsg gets into an advice.
fn address_in(errmsg: &str) -> Option<IpAddr> {
    let of_an_address = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':';
    let words = errmsg.split(|c: char| !of_an_address(c));
    let mut sixth = None;
    for word in words {
        let word = word.trim_end_matches(['.', ':']);
        let four = word.trim_start_matches(':').parse::<Ipv4Addr>();
        if let Ok(address) = four {
            return Some(address.into());
        }
        let six = word.parse::<Ipv6Addr>().ok();
        match six.map(|address| address.to_canonical()) {
            Some(address @ IpAddr::V4(_)) => return Some(address),
            Some(address) if !address.is_unspecified() => sixth = sixth.or(Some(address)),
            _ => {}
        }
    }
    sixth
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(errcode: i64, errmsg: &str) -> String {
        advice(errcode, errmsg).unwrap_or_default().into_owned()
    }

    #[test]
    fn an_address_that_is_not_allowed_is_named() {
        for (errcode, errmsg, named) in [
            (
                40164,
                "invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist rid: 5e-1.2.3-4",
                "put 203.0.113.7 on the account's IP allow-list",
            ),
            (
                40164,
                "invalid ip 2001:db8::7, not in whitelist",
                "put 2001:db8::7 on the account's IP allow-list",
            ),
            (
                40164,
                "invalid ipv6 ::ffff:203.0.113.7, not in whitelist",
                "put 203.0.113.7 on",
            ),
            (
                60020,
                "not allow to access from your ip, hint: [1681069200_5_041ab], from ip: 203.0.113.7, \
                 more info at https://open.work.weixin.qq.com/devtool/query?e=60020",
                "put 203.0.113.7 on the application's list of trusted addresses",
            ),
            (
                60020,
                "not allow to access from your ip, from ip: 203.0.113.7",
                "put 203.0.113.7 on",
            ),
            (
                61004,
                "access clientip is not registered requestIP:203.0.113.7.",
                "put 203.0.113.7 on the third-party platform's",
            ),
            (
                89503,
                "ip 203.0.113.7 needs",
                "203.0.113.7 needs a confirmation",
            ),
        ] {
            let said = said(errcode, errmsg);
            assert!(said.contains(named), "{errmsg}: {said}");
        }
    }

    #[test]
    fn an_errmsg_without_an_address_has_advice_as_well() {
        for errmsg in [
            "",
            "invalid ip",
            "invalid ip 999.1.1.1 or 1.2.3 or ::",
            "e.g. a:b",
        ] {
            assert_eq!(
                said(40164, errmsg),
                "put this address on the account's IP allow-list"
            );
        }
        for errcode in [
            61004, 45035, 60020, 89501, 89503, 89506, 89507, 50007, 61024, 40091, 40001, 40125,
            40013, 40243, 45009, 45011, 50004,
        ] {
            assert!(!said(errcode, "x").is_empty(), "{errcode}");
        }
        assert_eq!(advice(-1, "system error"), None);
        assert_eq!(advice(99999, "203.0.113.7"), None);
    }

    #[test]
    fn a_wrong_secret_of_wecom_is_called_a_corpsecret() {
        let wecom = "invalid credential, hint: [1700_1_a], from ip: 203.0.113.7, more info at …";
        assert!(said(40001, wecom).contains("corpsecret"));
        assert!(said(40013, wecom).contains("corpid"));
        let other = "invalid credential, access_token is invalid or not latest rid: 6-7-8";
        assert!(!said(40001, other).contains("corpsecret"));
    }

    proptest! {
        #[test]
        fn of_an_errmsg_nothing_but_an_address_is_echoed(
            errmsg in "(invalid ip |from ip: |[0-9a-f:.]{0,24}|\\PC{0,8}){0,8}",
            errcode in prop::sample::select(vec![40164, 60020, 61004, 89503, 45035, 89506]),
        ) {
            let plain = said(errcode, "");
            let said = said(errcode, &errmsg);
            let parts = plain.split_once("this address").unwrap();
            let middle = said.strip_prefix(parts.0).and_then(|said| said.strip_suffix(parts.1));
            let middle = middle.unwrap();
            prop_assert!(middle == "this address" || middle.parse::<IpAddr>().is_ok(), "{}", said);
        }

        #[test]
        fn an_address_is_found_in_any_text(
            address: [u8; 4], before in "[g-z ]{0,9} ", after in "( |,|\\. )\\PC{0,9}",
        ) {
            let address = IpAddr::from(address);
            let errmsg = format!("{before}{address}{after}");
            prop_assert_eq!(address_in(&errmsg), Some(address));
        }
    }
}
