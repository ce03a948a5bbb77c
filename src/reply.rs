//! errcode out of a reply.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body::SizeHint;
use memchr::memchr;
use memchr::memmem::Finder;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::outcome::Rejection;

/// Looks at the first bytes of a reply until it is known whether it is a rejection of the token.
pub(crate) struct Inspector {
    /// The reply's bytes to look at, at most.
    limit: usize,
    coding: Coding,
    /// How many bytes had come at the last look.
    looked: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Not known yet.
    More,
    /// No rejection, whatever follows.
    Pass,
    /// WeChat's word that the call was well, and so was the token: errcode 0.
    Accepted,
    /// The token was turned down.
    Rejected(Rejection),
}

impl Inspector {
    /// `None` when the reply is too large to be a rejection.
    pub(crate) fn new(coding: Coding, hint: &SizeHint, limit: usize) -> Option<Self> {
        let fits = usize::try_from(hint.lower()).is_ok_and(|lower| lower <= limit);
        fits.then_some(Inspector {
            limit,
            coding,
            looked: 0,
        })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether a look is worth its while after `seen` bytes. Not for each frame while there are
    /// more at hand, or a reply in frames of one byte would be read again for each of them.
    pub(crate) fn is_due(&self, seen: usize, more_at_hand: bool) -> bool {
        if more_at_hand {
            seen >= self.looked.saturating_mul(2) || seen > self.limit
        } else {
            seen > self.looked
        }
    }

    /// Looks at `bytes`, the beginning of a reply; all of it when it has `ended`.
    pub(crate) fn look(&mut self, bytes: &[u8], ended: bool, refresh_on: &[i64]) -> Look {
        self.looked = bytes.len();
        if bytes.len() > self.limit {
            return Look::Pass;
        }
        match self.coding.decode(bytes, self.limit) {
            Decoded::Whole(text) => look_at_text(&text, ended, refresh_on),
            Decoded::Part(text) if !ended => look_at_text(&text, false, refresh_on),
            Decoded::Part(_) | Decoded::Unreadable => Look::Pass,
        }
    }
}

fn look_at_text(text: &[u8], ended: bool, refresh_on: &[i64]) -> Look {
    /// How WeChat answers nearly every call that went well and has nothing to tell.
    const WELL: &[u8] = br#"{"errcode":0,"errmsg":"ok"}"#;

    if text == WELL {
        return Look::Accepted;
    }
    match Lead::of(text) {
        Lead::Object => {}
        Lead::Unknown if !ended => return Look::More,
        Lead::Unknown | Lead::Other => return Look::Pass,
    }
    if ended && !may_hold_errcode(text) {
        return Look::Pass;
    }
    let text = if ended {
        text
    } else {
        before_open_number(text)
    };
    match lenient::<Errcode>(text) {
        Ok(Errcode(Some(errcode))) if refresh_on.contains(&errcode) => {
            if ended {
                Look::Rejected(Rejection::new(errcode, errmsg(text).as_deref()))
            } else {
                Look::More
            }
        }
        Ok(Errcode(Some(0))) => Look::Accepted,
        // The object is complete, or broken, and says something else: nothing to wait for.
        Ok(_) => Look::Pass,
        Err(error) if error.is_eof() && !ended => Look::More,
        Err(_) => Look::Pass,
    }
}

/// What a reply begins with.
#[derive(Debug, PartialEq, Eq)]
enum Lead {
    Object,
    Other,
    /// White space so far.
    Unknown,
}

impl Lead {
    fn of(text: &[u8]) -> Lead {
        match blank(text).split_first() {
            Some((b'{', _)) => Lead::Object,
            Some(_) if !BOM.starts_with(blank(text)) => Lead::Other,
            _ => Lead::Unknown,
        }
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// `text` after its leading white space and byte order mark.
pub(crate) fn blank(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_start();
    match text.strip_prefix(BOM) {
        Some(text) => text.trim_ascii_start(),
        None => text,
    }
}

/// `text` without a sign, point or exponent at its end: serde_json calls a skipped number that
/// stops there broken, and not cut off. No object ends so.
fn before_open_number(text: &[u8]) -> &[u8] {
    let last = text.iter().rposition(|byte| !b"-+.eE".contains(byte));
    &text[..last.map_or(0, |last| last + 1)]
}

/// Whether a reply to `method` can be WeChat's word about a call, by its head alone (R3).
///
/// A file, or a part of one, is somebody's content, whatever it looks like; and a reply to HEAD, a
/// 204 and a 304 have nothing to read.
pub(crate) fn may_be_wechats_word<B>(method: &Method, reply: &Response<B>) -> bool {
    let headers = reply.headers();
    let is_of_parts = |value: &header::HeaderValue| {
        let parts = value.as_bytes().get(..b"multipart/".len());
        parts.is_some_and(|parts| parts.eq_ignore_ascii_case(b"multipart/"))
    };
    method != Method::HEAD
        && !matches!(
            reply.status(),
            StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED
        )
        && !headers.contains_key(header::CONTENT_DISPOSITION)
        && !headers.get(header::CONTENT_TYPE).is_some_and(is_of_parts)
}

/// The errcode of a reply of which this is the beginning; `None` until the object is whole.
pub(crate) fn errcode_in(text: &[u8]) -> Option<i64> {
    if Lead::of(text) != Lead::Object {
        return None;
    }
    lenient::<Errcode>(text).ok().and_then(|errcode| errcode.0)
}

/// A quick no to replies of a few kilobytes: an escaped key is the only other way to write it.
fn may_hold_errcode(text: &[u8]) -> bool {
    static ERRCODE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"errcode"));

    ERRCODE.find(text).is_some() || memchr(b'\\', text).is_some()
}

/// Reads JSON as WeChat writes it: with raw control characters and broken UTF-8 in its strings.
pub(crate) fn lenient<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let text = blank(text);
    match serde_json::from_slice(text) {
        Err(error) if !error.is_eof() => {
            // Line breaks stand between the fields as well, the others in strings only.
            let clean = String::from_utf8_lossy(text)
                .replace(['\t', '\n', '\r'], " ")
                .replace(|c: char| c < ' ', "\u{fffd}");
            serde_json::from_str(&clean)
        }
        done => done,
    }
}

/// A number, or a string of digits.
pub(crate) fn errcode_of(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(digits) => digits.parse().ok(),
        _ => None,
    }
}

fn errmsg(text: &[u8]) -> Option<String> {
    let mut reply = lenient::<Value>(text).ok()?;
    match reply.get_mut("errmsg").map(Value::take) {
        Some(Value::String(errmsg)) => Some(errmsg),
        _ => None,
    }
}

/// The errcode at the top level of an object, the last one should there be several.
struct Errcode(Option<i64>);

impl<'de> Deserialize<'de> for Errcode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Errcode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Errcode, A::Error> {
                let mut errcode = None;
                while let Some(IsErrcode(is_errcode)) = fields.next_key()? {
                    if is_errcode {
                        errcode = errcode_of(&fields.next_value()?);
                    } else {
                        fields.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Errcode(errcode))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// Whether a field's name is `errcode`; compared where it stands, without a copy.
struct IsErrcode(bool);

impl<'de> Deserialize<'de> for IsErrcode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = IsErrcode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_str<E>(self, name: &str) -> Result<IsErrcode, E> {
                Ok(IsErrcode(name == "errcode"))
            }
        }

        deserializer.deserialize_str(Name)
    }
}

/// How a reply's body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    #[cfg(feature = "decompression")]
    Gzip,
    #[cfg(feature = "decompression")]
    Deflate,
    #[cfg(feature = "decompression")]
    Brotli,
}

enum Decoded<'a> {
    Whole(Cow<'a, [u8]>),
    /// As much as the bytes so far give.
    #[cfg_attr(not(feature = "decompression"), expect(dead_code))]
    Part(Vec<u8>),
    #[cfg_attr(not(feature = "decompression"), expect(dead_code))]
    Unreadable,
}

impl Coding {
    /// `None` for a coding that cannot be read here.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Coding> {
        let mut codings = headers.get_all(header::CONTENT_ENCODING).into_iter();
        let Some(coding) = codings.next() else {
            return Some(Coding::Identity);
        };
        if codings.next().is_some() {
            return None;
        }
        match coding.to_str().ok()?.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Coding::Identity),
            #[cfg(feature = "decompression")]
            "gzip" | "x-gzip" => Some(Coding::Gzip),
            #[cfg(feature = "decompression")]
            "deflate" => Some(Coding::Deflate),
            #[cfg(feature = "decompression")]
            "br" => Some(Coding::Brotli),
            _ => None,
        }
    }

    /// All of a body, if it can be decoded to at most `limit` bytes.
    pub(crate) fn whole(self, bytes: &[u8], limit: usize) -> Option<Cow<'_, [u8]>> {
        match self.decode(bytes, limit) {
            Decoded::Whole(text) => Some(text),
            Decoded::Part(_) | Decoded::Unreadable => None,
        }
    }

    /// Decodes to at most `limit` bytes: what is more than that is unreadable.
    #[cfg_attr(not(feature = "decompression"), expect(unused_variables))]
    fn decode(self, bytes: &[u8], limit: usize) -> Decoded<'_> {
        match self {
            Coding::Identity => Decoded::Whole(Cow::Borrowed(bytes)),
            #[cfg(feature = "decompression")]
            Coding::Gzip => read_to_limit(flate2::bufread::MultiGzDecoder::new(bytes), limit),
            #[cfg(feature = "decompression")]
            Coding::Deflate => {
                // The name stands for zlib's format, and some servers leave out its header.
                if bytes.first().is_some_and(|first| first & 0x0f == 8) {
                    read_to_limit(flate2::bufread::ZlibDecoder::new(bytes), limit)
                } else {
                    read_to_limit(flate2::bufread::DeflateDecoder::new(bytes), limit)
                }
            }
            // A "large window" is no part of the coding (RFC 7932), and takes a gigabyte.
            #[cfg(feature = "decompression")]
            Coding::Brotli if bytes.first().is_some_and(|first| first & 0x7f == 0x11) => {
                Decoded::Unreadable
            }
            #[cfg(feature = "decompression")]
            Coding::Brotli => {
                read_to_limit(brotli_decompressor::Decompressor::new(bytes, 4096), limit)
            }
        }
    }
}

#[cfg(feature = "decompression")]
fn read_to_limit(decoder: impl std::io::Read, limit: usize) -> Decoded<'static> {
    use std::io::{ErrorKind, Read};

    let mut text = Vec::new();
    let over = u64::try_from(limit).map_or(u64::MAX, |limit| limit.saturating_add(1));
    let read = decoder.take(over).read_to_end(&mut text);
    match read {
        _ if text.len() > limit => Decoded::Unreadable,
        Ok(_) => Decoded::Whole(Cow::Owned(text)),
        // flate2's word for what more bytes cannot mend. Brotli has one word for that and for an
        // end that is missing.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Decoded::Unreadable,
        Err(_) => Decoded::Part(text),
    }
}

#[cfg(test)]
mod tests;
