//! How the length of a request's body is told: by one header, or by the client.

use http::header::{CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method};

use crate::body::Length;

/// The length that the headers say, of which one header is left that says it.
///
/// A Transfer-Encoding is for the client to write, who frames the body. What a Content-Length says
/// beside it does not count (RFC 9112, 6.3), and neither does one that is no number, or another
/// number than the next one: clients send it along with the framing that they make out by
/// themselves, and what reads it may follow the one or the other.
pub(crate) fn declared(headers: &mut HeaderMap) -> Option<u64> {
    let encoded = headers.remove(TRANSFER_ENCODING).is_some();
    if !headers.contains_key(CONTENT_LENGTH) {
        return None;
    }
    let length = if encoded { None } else { agreed(headers) };
    match length {
        Some(length) if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Some(_) => {}
        None => {
            headers.remove(CONTENT_LENGTH);
        }
    }
    length
}

/// What all values say. A list in one value is what some proxy made of two headers.
fn agreed(headers: &HeaderMap) -> Option<u64> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        // `parse` would take a `+`, which is no digit.
        let digits = value.as_bytes();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let value = value.to_str().ok()?.parse::<u64>().ok()?;
        if length.replace(value).is_some_and(|length| length != value) {
            return None;
        }
    }
    length
}

/// Makes the headers fit the body that is sent with them, the first time and each time after.
pub(crate) fn settle(headers: &mut HeaderMap, method: &Method, length: Length) {
    match length {
        Length::Known(bytes) => {
            // hyper takes the header's word against the body's, and cuts the body off there;
            // without a body it leaves the header, and what is sent next on the connection is taken
            // for the body.
            if headers
                .get(CONTENT_LENGTH)
                .is_some_and(|length| *length != HeaderValue::from(bytes))
            {
                headers.remove(CONTENT_LENGTH);
            }
        }
        Length::Collected(bytes) => {
            headers.remove(TRAILER);
            // Clients write the length of a body, and of none for no body.
            if bytes == 0 && has_a_body(method) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            }
        }
        Length::Unsaid | Length::PastLimit => {}
    }
}

/// Whether a server expects one of this method (RFC 9110, 8.6).
fn has_a_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn lengths(values: &[&str]) -> HeaderMap {
        let lines: Vec<_> = values
            .iter()
            .map(|value| (CONTENT_LENGTH, *value))
            .collect();
        headers(&lines)
    }

    #[test]
    fn r11_a_length_counts_if_all_headers_agree() {
        let cases = [
            (&["5"][..], Some(5)),
            (&["5", "5"], Some(5)),
            (&["05"], Some(5)),
            (&["18446744073709551615"], Some(u64::MAX)),
            (&["18446744073709551616"], None),
            (&["5", "6"], None),
            (&["5, 5"], None),
            (&["+5"], None),
            (&["-5"], None),
            (&["0x5"], None),
            (&[" "], None),
            (&[""], None),
            (&[], None),
        ];
        for (values, expected) in cases {
            let mut headers = lengths(values);
            assert_eq!(declared(&mut headers), expected, "{values:?}");
            let left = headers.get_all(CONTENT_LENGTH).iter().count();
            assert_eq!(left, usize::from(expected.is_some()), "{values:?}");
        }
    }

    #[test]
    fn r11_a_transfer_encoding_goes_and_takes_the_length_beside_it_along() {
        for encoding in ["chunked", "gzip, chunked", "identity", ""] {
            let mut headers = headers(&[(TRANSFER_ENCODING, encoding), (CONTENT_LENGTH, "5")]);
            assert_eq!(declared(&mut headers), None);
            assert!(headers.is_empty(), "{encoding}");
        }
    }

    #[test]
    fn r11_a_length_that_is_not_the_bodys_goes() {
        for (value, kept) in [("5", true), ("6", false), ("0", false)] {
            let mut headers = lengths(&[value]);
            settle(&mut headers, &Method::POST, Length::Known(5));
            assert_eq!(headers.contains_key(CONTENT_LENGTH), kept, "{value}");
        }
    }

    #[test]
    fn r11_a_collected_body_has_no_trailers_and_a_length_also_if_it_is_empty() {
        for (method, bytes, length) in [
            (Method::POST, 0, Some("0")),
            (Method::PUT, 0, Some("0")),
            (Method::GET, 0, None),
            (Method::HEAD, 0, None),
            (Method::DELETE, 0, None),
            (Method::POST, 1, None),
        ] {
            let mut headers = headers(&[(TRAILER, "etag")]);
            settle(&mut headers, &method, Length::Collected(bytes));
            assert!(!headers.contains_key(TRAILER));
            let written = headers
                .get(CONTENT_LENGTH)
                .map(|value| value.to_str().unwrap());
            assert_eq!(written, length, "{method} {bytes}");
        }
    }

    proptest! {
        #[test]
        fn r11_there_are_never_two_framings(
            values in prop::collection::vec("[0-9+, x-]{0,4}", 0..4), encoded in any::<bool>(),
            length in prop_oneof![
                Just(Length::Unsaid), Just(Length::PastLimit),
                (0..20_u64).prop_map(Length::Known), (0..20_u64).prop_map(Length::Collected),
            ],
        ) {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            let mut headers = lengths(&values);
            if encoded {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            let declared = declared(&mut headers);
            settle(&mut headers, &Method::POST, length);
            prop_assert!(!headers.contains_key(TRANSFER_ENCODING));
            let left: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
            prop_assert!(left.len() <= 1);
            if let ([left], Length::Known(bytes)) = (&left[..], length) {
                prop_assert_eq!(left.to_str().unwrap().parse(), Ok(bytes));
                prop_assert_eq!(declared, Some(bytes));
            }
        }
    }
}
