//! reqwest's types into http's and back, and what must not get out on the way.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt::Write;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, Full, Limited};
use percent_encoding::percent_decode_str;

use super::reqwest::{Body, Error, Request, Response, ResponseBuilderExt, Url};
use crate::body::ReplyBody;
use crate::outcome::AuthOutcome;

/// reqwest's request in http's type.
pub(super) fn into_http(request: Request) -> Result<http::Request<Body>, Error> {
    http::Request::try_from(request).map_err(Error::without_url)
}

/// The layer's reply in reqwest's type; `url` is where one that the layer made would have come
/// from.
pub(super) fn into_reqwest(reply: http::Response<ReplyBody<Body>>, url: Url) -> Response {
    let outcome = reply.extensions().get::<AuthOutcome>();
    let made = outcome.is_some_and(AuthOutcome::answered);
    let mut reply = reply.map(Body::wrap);
    if made {
        let url = Sent::to(url.clone()).out_of(url);
        set_url(&mut reply, url);
    }
    Response::from(reply)
}

fn set_url<B>(reply: &mut http::Response<B>, url: Url) {
    // Only a builder takes it.
    let with_url = http::Response::builder().url(url).body(());
    if let Ok(with_url) = with_url {
        let (parts, ()) = with_url.into_parts();
        reply.extensions_mut().extend(parts.extensions);
    }
}

/// The URL of a request, which says what must not come back with its reply.
pub(super) struct Sent {
    url: Url,
}

impl Sent {
    pub(super) fn to(url: Url) -> Self {
        Sent { url }
    }

    /// The reply in http's type. reqwest's own comes back from it with a URL without secrets.
    pub(super) fn into_http(self, reply: Response) -> http::Response<Body> {
        let url = self.out_of(reply.url().clone());
        let mut reply = http::Response::<Body>::from(reply);
        set_url(&mut reply, url);
        reply
    }

    /// `url` without the secrets that were sent, which a redirect may have carried on.
    fn out_of(&self, mut url: Url) -> Url {
        let Some(query) = url.query() else {
            return url;
        };
        let redirected = url != self.url;
        let pairs = query.split('&');
        let kept: Vec<&str> = pairs.clone().filter(|pair| !self.is_sent(pair)).collect();
        if kept.len() < pairs.count() {
            let kept = Some(kept.join("&")).filter(|kept| !kept.is_empty());
            url.set_query(kept.as_deref());
        }
        // As a login page has it, which is told the whole URL to come back to.
        if redirected && self.is_in(url.as_str()) {
            url.set_query(None);
        }
        url
    }

    /// Whether a secret that was sent is in this parameter, maybe written in another way.
    fn is_sent(&self, pair: &str) -> bool {
        secret_in(pair).is_some_and(|secret| {
            self.secrets()
                .any(|sent| sent.pair == pair || sent.value() == secret.value())
        })
    }

    /// `error` without its URL, and another in its place if it still tells what was sent.
    pub(super) fn out_of_error(&self, error: Error) -> Error {
        let error = error.without_url();
        if !self.is_told_by(&error) {
            return error;
        }
        let what = error.to_string();
        failure(match self.is_in(&what) {
            true => "an error of the client's, not printed here since it holds a secret".into(),
            false => what,
        })
    }

    /// Whether what prints `error`, or those within it, would print a secret that was sent.
    pub(super) fn is_told_by(&self, error: &(dyn StdError + 'static)) -> bool {
        let mut told = String::new();
        let mut next = Some(error);
        while let Some(error) = next {
            // Nothing that writes into a `String` fails, and an error that does has said what it
            // could.
            let _ = write!(told, "{error}\n{error:?}\n");
            next = error.source();
        }
        self.is_in(&told)
    }

    fn is_in(&self, text: &str) -> bool {
        /// Shorter ones are no secrets of WeChat's, and stand in any text by chance.
        const SHORTEST: usize = 16;

        self.secrets().any(|secret| {
            let known = |value: &str| value.len() >= SHORTEST && text.contains(value);
            text.contains(secret.pair) || known(secret.raw) || known(&secret.value())
        })
    }

    fn secrets(&self) -> impl Iterator<Item = Secret<'_>> {
        let query = self.url.query().unwrap_or_default();
        query.split('&').filter_map(secret_in)
    }
}

/// A parameter of a query that holds a secret.
struct Secret<'a> {
    pair: &'a str,
    raw: &'a str,
}

impl<'a> Secret<'a> {
    fn value(&self) -> Cow<'a, str> {
        percent_decode_str(self.raw).decode_utf8_lossy()
    }
}

fn secret_in(pair: &str) -> Option<Secret<'_>> {
    let (name, raw) = pair.split_once('=')?;
    let name = percent_decode_str(name).decode_utf8_lossy();
    let is_secret = name.ends_with("access_token") || name.ends_with("secret");
    (is_secret && !raw.is_empty()).then_some(Secret { pair, raw })
}

/// An error of reqwest's type that says `what`.
///
/// reqwest has no constructor for one, but makes one of what fails a body.
pub(super) fn failure(what: String) -> Error {
    let fails = Limited::new(Full::new(Bytes::from_static(b"x")), 0);
    let mut body = Body::wrap(fails.map_err(move |_| what.clone()));
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(&mut body).poll_frame(&mut cx) {
        Poll::Ready(Some(Err(error))) => error,
        _ => unreachable!("a byte is more than none, and it is there"),
    }
}

#[cfg(test)]
mod tests;
