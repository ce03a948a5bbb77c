//! What the layer did about a call, for whoever wants to know.

use std::fmt;
use std::net::IpAddr;

use crate::passed::PassedThrough;
use crate::token::TokenError;

/// What the layer did about a call; in the extensions of every reply that went through it.
///
/// ```
/// use tower_wechat::AuthOutcome;
///
/// fn note<B>(reply: &http::Response<B>) {
///     if let Some(outcome) = reply.extensions().get::<AuthOutcome>() {
///         if outcome.replayed() {
///             println!("sent twice; the first was answered with {:?}", outcome.errcode());
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct AuthOutcome {
    /// In a box, as nearly every call goes well.
    rejected: Option<Box<Rejected>>,
    made: Made,
    passed: Option<PassedThrough>,
}

/// Whether the layer itself made the reply, and of what.
#[derive(Clone, Debug, Default)]
enum Made {
    #[default]
    No,
    OfToken,
    OfError(Box<TokenError>),
}

#[derive(Clone, Debug)]
struct Rejected {
    rejection: Rejection,
    refreshed: bool,
    replayed: bool,
    rejected_again: bool,
    not_replayed: Option<NotReplayed>,
}

/// Why a call whose token was rejected was not sent again.
#[derive(Clone)]
#[non_exhaustive]
pub enum NotReplayed {
    /// No other token could be had.
    NoToken(TokenError),
    /// The new token is the rejected one.
    SameToken,
    /// The request's body was streamed and is larger than `replay_limit`, or there was no room for
    /// a copy in the [`ReplayBudget`](crate::ReplayBudget), or it failed.
    BodyNotKept,
    /// The new token is longer, and the URI would be too long with it.
    UriTooLong,
}

impl fmt::Display for NotReplayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReplayed::NoToken(error) => write!(f, "no other access_token: {error}"),
            NotReplayed::SameToken => f.write_str("the source gives the rejected token again"),
            NotReplayed::BodyNotKept => {
                f.write_str("the request's body could not be kept for a replay")
            }
            NotReplayed::UriTooLong => {
                f.write_str("the URI is too long with the new access_token in it")
            }
        }
    }
}

/// The variant's name, and what `Display` says.
impl fmt::Debug for NotReplayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = match self {
            NotReplayed::NoToken(_) => "NoToken",
            NotReplayed::SameToken => "SameToken",
            NotReplayed::BodyNotKept => "BodyNotKept",
            NotReplayed::UriTooLong => "UriTooLong",
        };
        write!(f, "{variant}({self})")
    }
}

/// WeChat's word that a token is no longer good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    errcode: i64,
    rid: Option<String>,
}

impl Rejection {
    pub(crate) fn new(errcode: i64, errmsg: Option<&str>) -> Self {
        Rejection {
            errcode,
            rid: errmsg.and_then(rid).map(str::to_owned),
        }
    }

    pub(crate) fn errcode(&self) -> i64 {
        self.errcode
    }

    pub(crate) fn rid(&self) -> Option<&str> {
        self.rid.as_deref()
    }
}

/// By what the call is found again.
///
/// WeChat ends its messages with `rid: ` and a number in groups of hexadecimal digits. WeCom has
/// `hint: [digits_number_hex]` in place of it, and `from ip: ` with the caller's address, which is
/// what is left to find a call by where there is no hint.
fn rid(errmsg: &str) -> Option<&str> {
    let after = |label| errmsg.rsplit_once(label).map(|(_, rest)| rest.trim_start());
    let rid = after("rid:").map(|rest| leading(rest, |c| c.is_ascii_hexdigit() || c == '-'));
    let hint = || after("hint:").and_then(hint);
    let address = || {
        let rest = after("from ip:")?;
        let address = leading(rest, |c| c.is_ascii_hexdigit() || matches!(c, '.' | ':'));
        address.parse::<IpAddr>().is_ok().then_some(address)
    };
    rid.filter(|rid| !rid.is_empty())
        .or_else(hint)
        .or_else(address)
}

fn hint(rest: &str) -> Option<&str> {
    let (hint, _) = rest.strip_prefix('[')?.split_once(']')?;
    let mut groups = hint.split('_');
    let mut next = |is: fn(&char) -> bool| {
        let group = groups.next()?;
        (!group.is_empty() && group.chars().all(|c| is(&c))).then_some(())
    };
    next(char::is_ascii_digit)?;
    next(char::is_ascii_digit)?;
    next(char::is_ascii_hexdigit)?;
    groups.next().is_none().then_some(hint)
}

fn leading(text: &str, is: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !is(c));
    &text[..end.unwrap_or(text.len())]
}

impl AuthOutcome {
    /// Whether the rejected token was replaced by another.
    pub fn refreshed(&self) -> bool {
        self.rejected.as_ref().is_some_and(|r| r.refreshed)
    }

    /// Whether the request was sent again.
    pub fn replayed(&self) -> bool {
        self.rejected.as_ref().is_some_and(|r| r.replayed)
    }

    /// Whether the token of the replay was rejected too. The reply is WeChat's second one, then.
    pub fn rejected_again(&self) -> bool {
        self.rejected.as_ref().is_some_and(|r| r.rejected_again)
    }

    /// The errcode of the first rejection; `None` when the token was good.
    pub fn errcode(&self) -> Option<i64> {
        self.rejected.as_ref().map(|r| r.rejection.errcode())
    }

    /// The request id in the first rejection, which WeChat's support asks for: its `rid`, or
    /// WeCom's `hint`, or else the address that WeCom says the call came from.
    pub fn rid(&self) -> Option<&str> {
        self.rejected.as_ref()?.rejection.rid()
    }

    /// Why a rejected request was not sent again; the reply is WeChat's rejection, then.
    pub fn not_replayed(&self) -> Option<&NotReplayed> {
        self.rejected.as_ref()?.not_replayed.as_ref()
    }

    /// Why the request was sent as it is, if it was: with no token of the layer's.
    pub fn passed_through(&self) -> Option<PassedThrough> {
        self.passed
    }

    /// Whether the layer itself made the reply: it answered a request for a token
    /// (`answer_token_requests`), or there was no token and the caller takes no error of ours
    /// (`ReqwestAuthLayer`). Nothing was sent to WeChat then.
    pub fn answered(&self) -> bool {
        !matches!(self.made, Made::No)
    }

    /// Why no token could be had, where the layer itself made the reply for want of one.
    pub fn token_error(&self) -> Option<&TokenError> {
        match &self.made {
            Made::OfError(error) => Some(error),
            Made::No | Made::OfToken => None,
        }
    }

    pub(crate) fn made_of_token() -> Self {
        AuthOutcome {
            made: Made::OfToken,
            ..AuthOutcome::default()
        }
    }

    pub(crate) fn made_of_error(error: TokenError) -> Self {
        AuthOutcome {
            made: Made::OfError(Box::new(error)),
            ..AuthOutcome::default()
        }
    }

    pub(crate) fn passed(why: PassedThrough) -> Self {
        AuthOutcome {
            passed: Some(why),
            ..AuthOutcome::default()
        }
    }

    pub(crate) fn rejected(rejection: Rejection) -> Self {
        AuthOutcome {
            rejected: Some(Box::new(Rejected {
                rejection,
                refreshed: false,
                replayed: false,
                rejected_again: false,
                not_replayed: None,
            })),
            ..AuthOutcome::default()
        }
    }

    pub(crate) fn set_refreshed(&mut self) {
        self.change(|r| r.refreshed = true);
    }

    pub(crate) fn set_replayed(&mut self) {
        self.change(|r| r.replayed = true);
    }

    pub(crate) fn set_rejected_again(&mut self) {
        self.change(|r| r.rejected_again = true);
    }

    pub(crate) fn set_not_replayed(&mut self, why: NotReplayed) {
        self.change(|r| r.not_replayed = Some(why));
    }

    fn change(&mut self, change: impl FnOnce(&mut Rejected)) {
        if let Some(rejected) = &mut self.rejected {
            change(rejected);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rid_is_what_follows_rid_in_the_errmsg() {
        let errmsg =
            "invalid credential, access_token is invalid or not latest rid: 66f0-1a2b-3c4d";
        assert_eq!(rid(errmsg), Some("66f0-1a2b-3c4d"));
        assert_eq!(rid("hint: [abc] rid:66f0-1a, more"), Some("66f0-1a"));
        assert_eq!(rid("access_token expired"), None);
        assert_eq!(rid("rid: "), None);
    }

    #[test]
    fn wecoms_hint_is_a_rid_and_else_the_address_is() {
        let errmsg = "access_token expired, hint: [1606905187_33_8cdcfb8a], from ip: 203.0.113.7, \
                      more info at https://open.work.weixin.qq.com/devtool/query?e=42001";
        assert_eq!(rid(errmsg), Some("1606905187_33_8cdcfb8a"));
        for (errmsg, expected) in [
            (
                "invalid access_token, from ip: 203.0.113.7",
                Some("203.0.113.7"),
            ),
            ("x, from ip:2001:db8::7, more", Some("2001:db8::7")),
            ("x, hint: [], from ip: 203.0.113.7", Some("203.0.113.7")),
            ("x, hint: [1606905187], from ip: ", None),
            ("x, hint: [1606905187_33_secret]", None),
            ("x, hint: [1606905187_33_8c_1]", None),
            ("x, hint: [1606905187_33_8c", None),
            ("x, hint: 1606905187_33_8c]", None),
            ("x, from ip: 203.0.113", None),
            ("x, from ip: example.com", None),
        ] {
            assert_eq!(rid(errmsg), expected, "{errmsg}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_rid_is_made_of_few_characters_whatever_the_errmsg(
            errmsg in "(rid:|hint:|from ip:|[ \\[\\]_a-f0-9.:,-]|\\PC){0,20}",
        ) {
            if let Some(rid) = rid(&errmsg) {
                let well = |c: char| c.is_ascii_hexdigit() || "-_.:".contains(c);
                proptest::prop_assert!(!rid.is_empty() && rid.chars().all(well));
            }
        }
    }
}
