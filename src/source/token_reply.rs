//! The reply to a token request: WeChat's, WeCom's, or that of a server that speaks as they do.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Number, Value};
use zeroize::Zeroizing;

use super::secret::Secret;
use crate::reply::{Coding, errcode_of, lenient};
use crate::token::{AccessToken, TokenError};

/// Token replies are about 200 bytes.
pub(super) const LARGEST_REPLY: usize = 64 * 1024;

/// Why a compressed reply was not read.
const COMPRESSED: &str = if cfg!(feature = "decompression") {
    "it is compressed in a way that is not known here (gzip, deflate and br are): let the client decompress it"
} else {
    "it is compressed: turn on the feature `decompression` of tower-wechat, or let the client decompress it"
};

/// A longer life than this is a mistake: WeChat's tokens live for 7200 s.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The token in a reply, or why there is none. `coding` is `None` for one that cannot be read here.
pub(super) fn read(
    status: StatusCode,
    coding: Option<Coding>,
    body: &[u8],
    secret: &Secret,
) -> Result<AccessToken, TokenError> {
    // Some clients decompress a body and leave its header.
    if body.trim_ascii_start().starts_with(b"{") {
        return read_text(status, body, secret);
    }
    let decoded = match coding {
        Some(coding) => coding.whole(body, LARGEST_REPLY),
        None if status.is_success() => return Err(TokenError::invalid(COMPRESSED)),
        None => return Err(TokenError::Status(status)),
    };
    match decoded {
        Some(Cow::Borrowed(text)) => read_text(status, text, secret),
        Some(Cow::Owned(text)) => read_text(status, &Zeroizing::new(text), secret),
        None if status.is_success() => Err(TokenError::invalid(
            "it is compressed, and broken or larger than 64 KiB",
        )),
        None => Err(TokenError::Status(status)),
    }
}

fn read_text(status: StatusCode, body: &[u8], secret: &Secret) -> Result<AccessToken, TokenError> {
    match lenient(body) {
        Ok(Value::Object(fields)) => read_fields(status, fields, secret),
        // An HTML page of a proxy's: its status says more than that it is no JSON.
        _ if !status.is_success() => Err(TokenError::Status(status)),
        _ if body.is_empty() => Err(TokenError::invalid("it is empty")),
        _ => Err(TokenError::invalid("it is not a JSON object")),
    }
}

fn read_fields(
    status: StatusCode,
    mut fields: Map<String, Value>,
    secret: &Secret,
) -> Result<AccessToken, TokenError> {
    // Moved out and not copied, so that the token's own zeroizing is enough.
    let token = fields.remove("access_token");
    let errcode = fields.get("errcode").and_then(errcode_of).unwrap_or(0);
    if errcode != 0 {
        let errmsg = fields.get("errmsg").and_then(Value::as_str).unwrap_or("");
        return Err(TokenError::api(errcode, secret.redact(errmsg)));
    }
    let token = match token {
        Some(Value::String(token)) if !token.is_empty() => Zeroizing::new(token),
        _ if !status.is_success() => return Err(TokenError::Status(status)),
        Some(Value::String(_)) => return Err(TokenError::invalid("its access_token is empty")),
        Some(_) => return Err(TokenError::invalid("its access_token is not a string")),
        None => return Err(TokenError::invalid("it has no access_token")),
    };
    let life = match fields.get("expires_in") {
        Some(Value::Number(seconds)) => whole_seconds(seconds),
        // As servers write it that keep what WeChat said as text.
        Some(Value::String(digits)) => match digits.trim() {
            digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok()
            }
            _ => return Err(TokenError::invalid("its expires_in is not a number")),
        },
        Some(_) => return Err(TokenError::invalid("its expires_in is not a number")),
        None => return Err(TokenError::invalid("it has no expires_in")),
    };
    match life.map(Duration::from_secs) {
        Some(life) if !life.is_zero() && life <= LONGEST_LIFE => {
            Ok(AccessToken::new(token.as_str(), life))
        }
        _ => Err(TokenError::invalid(
            "its expires_in is not a number of seconds between 1 and 2592000",
        )),
    }
}

/// `7200`, and `7200.0`, which languages write that have floats alone.
fn whole_seconds(seconds: &Number) -> Option<u64> {
    let exact = |seconds: f64| {
        let whole = seconds.fract() == 0.0 && (0.0..=LONGEST_LIFE.as_secs_f64()).contains(&seconds);
        whole.then_some(seconds as u64)
    };
    seconds.as_u64().or_else(|| exact(seconds.as_f64()?))
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};
    use proptest::prelude::*;

    use super::*;

    fn read_body(body: &str) -> Result<AccessToken, TokenError> {
        read_text(StatusCode::OK, body.as_bytes(), &Secret::new("S3CRET"))
    }

    fn reason(body: &str) -> String {
        read_body(body).unwrap_err().to_string()
    }

    #[test]
    fn a_token_reply_of_wechat_or_wecom_is_read() {
        let token = read_body(r#"{"access_token":"78_Zx0","expires_in":7200}"#).unwrap();
        assert_eq!(token.secret(), "78_Zx0");
        let wecom = r#"{"errcode":0,"errmsg":"ok","access_token":"Zx0","expires_in":7200}"#;
        assert_eq!(read_body(wecom).unwrap().secret(), "Zx0");
    }

    #[test]
    fn silenceper_805_an_empty_token_in_a_well_formed_reply_is_an_error() {
        let reply = r#"{"errcode":0,"errmsg":"ok","access_token":"","expires_in":7200}"#;
        assert!(reason(reply).contains("its access_token is empty"));
    }

    #[test]
    fn a_token_of_many_characters_is_fine() {
        let long = "x".repeat(2048);
        let reply = format!(r#"{{"access_token":"{long}","expires_in":7200}}"#);
        assert_eq!(read_body(&reply).unwrap().secret(), long);
    }

    #[test]
    fn an_invalid_token_reply_says_what_is_wrong_with_it() {
        for (reply, wrong) in [
            ("", "empty"),
            ("<html>busy</html>", "not a JSON object"),
            (r#"{"access_token":"t","expi"#, "not a JSON object"),
            (r#"["t"]"#, "not a JSON object"),
            (
                r#"{"access_token":"","expires_in":7200}"#,
                "access_token is empty",
            ),
            (r#"{"access_token":null,"expires_in":7200}"#, "not a string"),
            (r#"{"expires_in":7200}"#, "no access_token"),
            (r#"{"access_token":"t"}"#, "no expires_in"),
            (r#"{"access_token":"t","expires_in":"2 h"}"#, "not a number"),
            (r#"{"access_token":"t","expires_in":""}"#, "not a number"),
            (r#"{"access_token":"t","expires_in":"-7"}"#, "not a number"),
            (r#"{"access_token":"t","expires_in":[7]}"#, "not a number"),
            (r#"{"access_token":"t","expires_in":"0"}"#, "between 1 and"),
            (r#"{"access_token":"t","expires_in":-0.0}"#, "between 1 and"),
            (
                r#"{"access_token":"t","expires_in":"99999999999999999999999"}"#,
                "between 1 and",
            ),
            (r#"{"access_token":"t","expires_in":0}"#, "between 1 and"),
            (r#"{"access_token":"t","expires_in":-1}"#, "between 1 and"),
            (r#"{"access_token":"t","expires_in":1.5}"#, "between 1 and"),
            (r#"{"access_token":"t","expires_in":9e18}"#, "between 1 and"),
            (
                r#"{"access_token":"t","expires_in":99999999999}"#,
                "between 1 and",
            ),
        ] {
            let said = reason(reply);
            assert!(said.contains(wrong), "{reply}: {said}");
            assert!(matches!(
                read_body(reply),
                Err(TokenError::InvalidReply { .. })
            ));
        }
    }

    #[test]
    fn an_expires_in_is_read_as_an_errcode_is() {
        for life in ["7200", "7200.0", "7.2e3", "\"7200\"", "\" 7200 \""] {
            let token = read_body(&format!(r#"{{"access_token":"t","expires_in":{life}}}"#));
            let left = token.unwrap().seconds_left();
            assert!((7199..=7200).contains(&left), "{life}: {left}");
        }
    }

    proptest! {
        #[test]
        fn any_expires_in_is_a_life_in_bounds_or_an_error(life in "[-+0-9.eE\"]{0,12}|-?[0-9]{1,30}") {
            let reply = format!(r#"{{"access_token":"t","expires_in":{life}}}"#);
            if let Ok(token) = read_body(&reply) {
                prop_assert!(token.expires_in() <= LONGEST_LIFE);
            }
        }
    }

    fn coded(coding: &str, body: &[u8]) -> Result<AccessToken, TokenError> {
        let mut headers = http::HeaderMap::new();
        let coding = HeaderValue::from_str(coding).unwrap();
        headers.insert(header::CONTENT_ENCODING, coding);
        read(
            StatusCode::OK,
            Coding::of(&headers),
            body,
            &Secret::new("S3CRET"),
        )
    }

    #[cfg(feature = "decompression")]
    fn gzip(text: &str) -> Vec<u8> {
        use std::io::Write;

        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap()
    }

    #[cfg(feature = "decompression")]
    #[test]
    fn a_compressed_token_reply_is_read() {
        let reply = gzip(r#"{"access_token":"78_Zx0","expires_in":7200}"#);
        assert_eq!(coded("gzip", &reply).unwrap().secret(), "78_Zx0");
        let refusal = gzip(r#"{"errcode":40013,"errmsg":"invalid appid"}"#);
        assert_eq!(coded("gzip", &refusal).unwrap_err().errcode(), Some(40013));

        let broken = [
            &reply[..reply.len() / 2],
            &gzip(&" ".repeat(LARGEST_REPLY + 1)),
        ];
        for reply in broken {
            let said = coded("gzip", reply).unwrap_err().to_string();
            assert!(said.contains("broken or larger than 64 KiB"), "{said}");
        }
    }

    #[test]
    fn a_token_reply_in_a_coding_that_is_not_read_says_what_to_do() {
        let unknown = if cfg!(feature = "decompression") {
            "zstd"
        } else {
            "gzip"
        };
        let said = coded(unknown, b"\x1f\x8b\x08").unwrap_err().to_string();
        assert!(said.contains("let the client decompress it"), "{said}");
        if !cfg!(feature = "decompression") {
            assert!(said.contains("feature `decompression`"), "{said}");
        }
    }

    #[test]
    fn a_header_that_outlived_its_coding_does_no_harm() {
        let reply = br#" {"access_token":"t","expires_in":7200}"#;
        for coding in ["gzip", "zstd", "br", "identity"] {
            assert_eq!(coded(coding, reply).unwrap().secret(), "t");
        }
    }

    #[test]
    fn an_errcode_is_wechats_word_whatever_the_http_status() {
        let body = br#"{"errcode":40164,"errmsg":"invalid ip 203.0.113.7 S3CRET"}"#;
        let error = read_text(StatusCode::BAD_REQUEST, body, &Secret::new("S3CRET")).unwrap_err();
        assert_eq!(error.errcode(), Some(40164));
        assert!(!error.to_string().contains("S3CRET"), "{error}");
        assert!(error.to_string().contains("allow-list"), "{error}");
    }

    #[test]
    fn a_page_of_a_proxys_is_told_by_its_status() {
        let error = read_text(StatusCode::BAD_GATEWAY, b"<html>", &Secret::new("")).unwrap_err();
        assert!(matches!(error, TokenError::Status(StatusCode::BAD_GATEWAY)));
        let error = read_text(StatusCode::BAD_GATEWAY, b"{}", &Secret::new("")).unwrap_err();
        assert!(matches!(error, TokenError::Status(StatusCode::BAD_GATEWAY)));
    }

    #[test]
    fn a_raw_control_character_in_errmsg_is_read_over() {
        let error = read_body("\u{feff}\n{\"errcode\":40013,\"errmsg\":\"a\u{1}b\"}").unwrap_err();
        assert_eq!(error.errcode(), Some(40013));
    }
}
