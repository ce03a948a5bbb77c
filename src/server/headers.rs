//! Which headers go through a gateway.

use axum::http::{HeaderMap, HeaderName, header};

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
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What may be meant for WeChat. A list of what is not would never be whole: there is no end of headers by which some proxy is
/// told another path, another method or whom it speaks for.
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

/// The headers of a client's request as they go to WeChat. `Accept-Encoding` is none of them: the layer must be able to read the
/// replies.
pub(super) fn clean_request(headers: &mut HeaderMap) {
    clean(headers, |name| !is_for_wechat(name));
}

/// The headers of a reply of WeChat's as they go to a client.
pub(super) fn clean_reply(headers: &mut HeaderMap) {
    clean(headers, |name| {
        is_hop_by_hop(name) || is_of_wechats_host(name)
    });
}

fn clean(headers: &mut HeaderMap, is_to_go: impl Fn(&HeaderName) -> bool) {
    let connection = headers.get_all(header::CONNECTION).iter();
    let named = connection
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse::<HeaderName>().ok());
    // How long the body is, is not of one connection, whoever says so.
    let named = named.filter(|name| *name != header::CONTENT_LENGTH);
    let listed = headers.keys().filter(|name| is_to_go(name)).cloned();
    for name in named.chain(listed).collect::<Vec<_>>() {
        headers.remove(name);
    }
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
            ("content-length", "2"),
            ("content-type", "multipart/form-data; boundary=x"),
            ("user-agent", "wechatpy"),
            ("wechatmp-signature", "x"),
        ]);
        assert_eq!(cleaned, kept);
    }

    #[test]
    fn no_client_can_have_the_length_of_its_body_forgotten() {
        let mut cleaned = headers(&[("connection", "content-length"), ("content-length", "2")]);
        clean_request(&mut cleaned);
        assert_eq!(cleaned, headers(&[("content-length", "2")]));
    }
}
