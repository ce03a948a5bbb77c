//! Whose token a request for one is about.

use std::borrow::Cow;
use std::fmt;
use std::hint::black_box;

use percent_encoding::percent_decode;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::platform::Platform;
use crate::reply::blank;
use crate::source::Secret;

/// An account, as a request for its token names it.
///
/// For [`answer_token_requests`](crate::WechatAuthLayer::answer_token_requests).
///
/// ```
/// use tower_wechat::AccountId;
///
/// let account = AccountId::appid("wx0123456789abcdef");
/// assert_eq!(format!("{account:?}"), r#"AccountId("wx0123456789abcdef")"#);
/// let application = AccountId::wecom("ww0123456789abcdef", "its corpsecret");
/// assert_eq!(format!("{application:?}"), r#"AccountId("ww0123456789abcdef", …)"#);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct AccountId {
    id: Id,
}

#[derive(Clone)]
enum Id {
    Appid(String),
    WeCom { corpid: String, corpsecret: Secret },
}

impl AccountId {
    /// An official account or a mini program, by its AppID.
    pub fn appid(appid: impl Into<String>) -> Self {
        AccountId {
            id: Id::Appid(appid.into()),
        }
    }

    /// An application of WeCom's: a company has many, and only the secret tells which one is meant.
    ///
    /// The secret is compared in constant time, and printed by nothing.
    pub fn wecom(corpid: impl Into<String>, corpsecret: impl Into<String>) -> Self {
        AccountId {
            id: Id::WeCom {
                corpid: corpid.into(),
                corpsecret: Secret::new(corpsecret),
            },
        }
    }

    /// Whether `asked` is about this account.
    pub(crate) fn is_meant(&self, asked: &Asked) -> bool {
        match (&self.id, asked) {
            (Id::Appid(appid), Asked::Appid(asked)) => appid == asked,
            (Id::WeCom { corpid, corpsecret }, Asked::WeCom(id, secret)) => {
                corpid == id && same(corpsecret.expose(), secret)
            }
            _ => false,
        }
    }

    pub(crate) fn is_appid(&self) -> bool {
        matches!(self.id, Id::Appid(_))
    }
}

/// Takes as long wherever the first difference is; only the length shows.
fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let differences = one
        .iter()
        .zip(other)
        .fold(0, |d, (a, b)| black_box(d | (a ^ b)));
    one.len() == other.len() && differences == 0
}

impl From<&str> for AccountId {
    fn from(appid: &str) -> Self {
        AccountId::appid(appid)
    }
}

impl From<&String> for AccountId {
    fn from(appid: &String) -> Self {
        AccountId::appid(appid)
    }
}

impl From<String> for AccountId {
    fn from(appid: String) -> Self {
        AccountId::appid(appid)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Id::Appid(appid) => write!(f, "AccountId({appid:?})"),
            Id::WeCom { corpid, .. } => write!(f, "AccountId({corpid:?}, …)"),
        }
    }
}

/// The account that a token request names.
pub(crate) enum Asked {
    Appid(String),
    WeCom(String, Zeroizing<String>),
}

impl Asked {
    /// By its query; `None` unless it is named there, and once.
    pub(crate) fn in_query(platform: Platform, query: &str) -> Option<Asked> {
        match platform {
            Platform::OfficialAccount => only(query, "appid").map(Asked::Appid),
            Platform::WeCom => Some(Asked::WeCom(
                only(query, "corpid")?,
                Zeroizing::new(only(query, "corpsecret")?),
            )),
        }
    }
}

/// The value of a parameter that stands in `query` once; `None` of one that is no UTF-8.
fn only(query: &str, name: &str) -> Option<String> {
    let mut values = query.split('&').filter_map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (&*decoded(key) == name.as_bytes()).then_some(value)
    });
    let value = decoded(values.next()?).into_owned();
    let value = String::from_utf8(value).ok()?;
    (values.next().is_none() && !value.is_empty()).then_some(value)
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    percent_decode(text.as_bytes()).into()
}

/// What the beginning of a token request's JSON says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum InJson {
    /// The object goes on.
    More,
    /// The AppID, if it is named, and once.
    Known(Option<String>),
}

impl InJson {
    /// Looks at `text`, the beginning of a body.
    pub(crate) fn look(text: &[u8]) -> InJson {
        let text = blank(text);
        let mut json = serde_json::Deserializer::from_slice(text);
        match Appid::deserialize(&mut json) {
            Ok(Appid(appid)) => InJson::Known(appid),
            Err(error) if error.is_eof() => InJson::More,
            Err(_) => InJson::Known(None),
        }
    }
}

/// The field `appid` at the top level of an object.
struct Appid(Option<String>);

impl<'de> Deserialize<'de> for Appid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Appid;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Appid, A::Error> {
                let mut appid = None;
                while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
                    if name != "appid" {
                        fields.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let value = match fields.next_value()? {
                        Value::String(value) if !value.is_empty() => value,
                        _ => return Err(A::Error::custom("no AppID")),
                    };
                    // It would be up to the server which of them counts.
                    if appid.replace(value).is_some() {
                        return Err(A::Error::custom("two AppIDs"));
                    }
                }
                Ok(Appid(appid))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests;
