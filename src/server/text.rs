//! Which bodies are text.

use axum::http::{HeaderMap, header};

/// Whether a body is searched: WeChat's word is text, whatever its content-type says of it. What is
/// none flows at its first frame.
pub(super) fn is_text(headers: &HeaderMap, beginning: &[u8]) -> bool {
    const TYPES: [&str; 6] = [
        "text/",
        "application/json",
        "application/xml",
        "application/javascript",
        "application/x-www-form-urlencoded",
        "application/problem",
    ];

    let coding = headers.get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return false;
    }
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| {
        let value = String::from_utf8_lossy(value.as_bytes());
        let value = value.split(';').next().unwrap_or_default();
        value.trim().to_ascii_lowercase()
    });
    let Some(content_type) = content_type.filter(|content_type| !content_type.is_empty()) else {
        return looks_like_text(beginning);
    };
    let is_text = TYPES.iter().any(|text| content_type.starts_with(text))
        || ["+json", "+xml"]
            .iter()
            .any(|end| content_type.ends_with(end));
    // A refusal of WeChat's is JSON also where a picture was asked for.
    is_text || beginning.trim_ascii_start().starts_with(b"{")
}

fn looks_like_text(beginning: &[u8]) -> bool {
    let beginning = &beginning[..beginning.len().min(512)];
    let is_valid = match std::str::from_utf8(beginning) {
        Ok(_) => true,
        // Cut within a character.
        Err(error) => error.error_len().is_none(),
    };
    let is_binary = |byte: &u8| *byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c);
    is_valid && !beginning.iter().any(is_binary)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of_type(content_type: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers
    }

    #[test]
    fn what_is_text_and_what_is_not() {
        for (content_type, beginning, expected) in [
            ("text/plain", &b"\x00\x01"[..], true),
            ("Application/JSON; charset=utf-8", b"x", true),
            ("application/vnd.api+json", b"x", true),
            ("", b"{", true),
            ("", "\u{5fae}\u{4fe1}".as_bytes(), true),
            ("", &"\u{5fae}".as_bytes()[..2], true),
            ("", b"\x89PNG\r\n\x1a\n\0", false),
            ("", b"\xff\xd8\xff", false),
            ("image/jpeg", b"\xff\xd8\xff", false),
            // trap 19: a refusal called a picture
            ("image/jpeg", b" {\"errcode\":40001", true),
            ("application/octet-stream", b"text", false),
        ] {
            let headers = of_type(content_type);
            assert_eq!(is_text(&headers, beginning), expected, "{content_type}");
        }
        let mut encoded = of_type("text/plain");
        encoded.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(!is_text(&encoded, b"x"));
    }
}
