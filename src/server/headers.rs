//! Which headers go through a gateway.

use axum::http::{HeaderMap, HeaderName, header};

/// How long a body is, and in what form it comes: said anew in both directions, by whoever sends it
/// on. A copy may contradict the body (aspnet/Proxy#30, servicetalk#1349).
fn is_framing(name: &HeaderName) -> bool {
    [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TRAILER,
    ]
    .contains(name)
}

/// Of one connection only (RFC 9110, 7.6.1), beside those that `Connection` names.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "upgrade"
    )
}

/// What may be meant for WeChat. A list of what is not would never be whole: there is no end of
/// headers by which some proxy is told another path, another method or whom it speaks for.
fn is_for_wechat(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "accept" | "accept-language" | "cache-control" | "date" | "range" | "user-agent"
    ) || ["content-", "if-", "wechatmp-"]
        .iter()
        .any(|family| name.starts_with(family))
}

/// What speaks for WeChat's host, and would be taken as a word about the gateway's.
fn is_of_wechats_host(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "alt-svc" | "set-cookie" | "strict-transport-security"
    )
}

/// The headers of a client's request as they go to WeChat. `Accept-Encoding` is none of them: the
/// layer must be able to read the replies.
pub(super) fn clean_request(headers: &mut HeaderMap) {
    clean(headers, |name| !is_for_wechat(name) || is_framing(name));
}

/// The headers of a reply of WeChat's as they go to a client.
pub(super) fn clean_reply(headers: &mut HeaderMap) {
    clean(headers, |name| {
        is_hop_by_hop(name) || is_framing(name) || is_of_wechats_host(name)
    });
}

fn clean(headers: &mut HeaderMap, is_to_go: impl Fn(&HeaderName) -> bool) {
    let connection = headers.get_all(header::CONNECTION).iter();
    let named = connection
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse::<HeaderName>().ok());
    let listed = headers.keys().filter(|name| is_to_go(name)).cloned();
    for name in named.chain(listed).collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// The one length that the headers declare; `None` where they declare none, several, or chunks
/// beside it.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next()?.to_str().ok()?;
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let is_the_only_one =
        lengths.next().is_none() && !headers.contains_key(header::TRANSFER_ENCODING);
    (is_number && is_the_only_one).then(|| length.parse().ok())?
}

/// Whether the body of a reply is what its sender wrote: no HTTP client undoes a transfer coding
/// but `chunked`.
pub(super) fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.all(|coding| {
        coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
    }) && headers.get_all(header::TRANSFER_ENCODING).iter().count() < 2
}

/// What describes a body, of a reply that has lost it.
pub(super) fn forget_body(headers: &mut HeaderMap) {
    clean(headers, |name| name.as_str().starts_with("content-"));
}

/// What a server that counts bytes of headers counts.
pub(super) fn size(headers: &HeaderMap) -> usize {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let parse = |(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().copied().map(parse) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn what_belongs_to_the_connection_stays_with_it() {
        let mut cleaned = headers(&[
            ("connection", "close, X-Once"),
            ("connection", "x-twice"),
            ("x-once", "1"),
            ("x-twice", "2"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic x"),
            ("content-type", "application/json"),
            ("x-other", "3"),
        ]);
        clean_reply(&mut cleaned);
        let kept = headers(&[("content-type", "application/json"), ("x-other", "3")]);
        assert_eq!(cleaned, kept);
    }

    #[test]
    fn nothing_of_the_clients_goes_to_wechat_but_what_is_meant_for_it() {
        let mut cleaned = headers(&[
            ("host", "evil.example"),
            ("expect", "100-continue"),
            ("accept-encoding", "br"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "10.0.0.1"),
            ("content-length", "2"),
            ("content-type", "multipart/form-data; boundary=x"),
            ("user-agent", "wechatpy"),
            ("wechatmp-signature", "x"),
        ]);
        clean_request(&mut cleaned);
        let kept = headers(&[
            ("content-type", "multipart/form-data; boundary=x"),
            ("user-agent", "wechatpy"),
            ("wechatmp-signature", "x"),
        ]);
        assert_eq!(cleaned, kept);
    }

    #[test]
    fn s4_framing_is_copied_in_neither_direction() {
        let framing = [
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x"),
        ];
        let (mut request, mut reply) = (headers(&framing), headers(&framing));
        clean_request(&mut request);
        clean_reply(&mut reply);
        assert!(request.is_empty() && reply.is_empty());
    }

    #[test]
    fn a_length_counts_where_it_is_one_number_and_all_that_is_said() {
        for (lines, expected) in [
            (&[("content-length", "27")][..], Some(27)),
            (&[("content-length", "0")], Some(0)),
            (&[("content-length", "27, 27")], None),
            (&[("content-length", "27"), ("content-length", "27")], None),
            (&[("content-length", "+27")], None),
            (&[("content-length", "99999999999999999999")], None),
            (
                &[("content-length", "27"), ("transfer-encoding", "chunked")],
                None,
            ),
            (&[], None),
        ] {
            assert_eq!(length(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_transfer_coding_beside_chunked_is_not_plain() {
        for (lines, plain) in [
            (&[][..], true),
            (&[("transfer-encoding", "Chunked")], true),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "identity")], false),
            (
                &[
                    ("transfer-encoding", "gzip"),
                    ("transfer-encoding", "chunked"),
                ],
                false,
            ),
        ] {
            assert_eq!(is_plainly_framed(&headers(lines)), plain, "{lines:?}");
        }
    }
}
