//! What the layer did about a call, for whoever wants to know.

use std::fmt;

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
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NotReplayed {
    /// No other token could be had.
    NoToken(TokenError),
    /// The new token is the rejected one.
    SameToken,
    /// The request's body was streamed and is larger than `replay_limit`, or there was no room for a copy in the
    /// [`ReplayBudget`](crate::ReplayBudget), or it failed.
    BodyNotKept,
}

impl fmt::Display for NotReplayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReplayed::NoToken(error) => write!(f, "no other access_token: {error}"),
            NotReplayed::SameToken => f.write_str("the source gives the rejected token again"),
            NotReplayed::BodyNotKept => {
                f.write_str("the request's body could not be kept for a replay")
            }
        }
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

/// WeChat ends its messages with `rid: ` and a number in groups of hexadecimal digits.
fn rid(errmsg: &str) -> Option<&str> {
    let (_, rest) = errmsg.rsplit_once("rid:")?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_hexdigit() && c != '-');
    let rid = &rest[..end.unwrap_or(rest.len())];
    (!rid.is_empty()).then_some(rid)
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

    /// The request id in the first rejection, which WeChat's support asks for.
    pub fn rid(&self) -> Option<&str> {
        self.rejected.as_ref()?.rejection.rid()
    }

    /// Why a rejected request was not sent again; the reply is WeChat's rejection, then.
    pub fn not_replayed(&self) -> Option<&NotReplayed> {
        self.rejected.as_ref()?.not_replayed.as_ref()
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
            rejected: None,
            made: Made::OfToken,
        }
    }

    pub(crate) fn made_of_error(error: TokenError) -> Self {
        AuthOutcome {
            rejected: None,
            made: Made::OfError(Box::new(error)),
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
            made: Made::No,
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
}
