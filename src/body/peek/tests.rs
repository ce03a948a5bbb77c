use std::borrow::Cow;
use std::convert::Infallible;
use std::io;

use futures_util::stream;
use http_body::{Body, Frame};
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Either, Empty, Full, StreamBody};
use proptest::prelude::*;
use tokio_test::block_on;

use super::*;
use crate::body::{Captured, Keep, Replay, ReplayBody, RequestBody};

const LIMIT: usize = 16;

fn wait<B>(peek: Peek<B>) -> (B, Option<Bytes>) {
    match peek.ready() {
        Ok(here) => here,
        Err(later) => block_on(later),
    }
}

/// At once, and again with one byte more than may be read.
#[track_caller]
fn assert_in_memory<B: RequestBody + From<&'static str> + PartialEq + fmt::Debug>() {
    let peek = B::from("{\"appid\":\"wx\"}").peek(LIMIT).ready();
    let (body, bytes) = peek.ok().expect("at once");
    assert_eq!(body, B::from("{\"appid\":\"wx\"}"));
    assert_eq!(bytes.unwrap(), "{\"appid\":\"wx\"}");
    let (body, bytes) = wait(B::from("01234567890123456").peek(LIMIT));
    assert_eq!(body, B::from("01234567890123456"));
    assert_eq!(bytes, None);
}

#[test]
fn what_is_in_memory_is_there_at_once() {
    assert_in_memory::<String>();
    assert_in_memory::<Vec<u8>>();
    assert_in_memory::<Bytes>();
    assert_in_memory::<&'static str>();
    assert_in_memory::<Cow<'static, str>>();
    for (text, known) in [("{}", true), ("", true), ("01234567890123456", false)] {
        let full = Full::<Bytes>::from(text);
        let (body, bytes) = wait(full.peek(LIMIT));
        assert_eq!(block_on(body.collect()).unwrap().to_bytes(), text);
        assert_eq!(bytes, known.then(|| Bytes::from(text)));
    }
    assert_eq!(wait(().peek(LIMIT)).1, Some(Bytes::new()));
    assert_eq!(
        wait(Empty::<Bytes>::new().peek(LIMIT)).1,
        Some(Bytes::new())
    );
}

#[test]
fn what_is_wrapped_is_looked_into() {
    assert_eq!(
        wait(Some("{}").peek(LIMIT)),
        (Some("{}"), Some("{}".into()))
    );
    assert_eq!(wait(None::<&str>.peek(LIMIT)), (None, Some(Bytes::new())));
    for body in [Either::Left("{}"), Either::Right(String::from("{}"))] {
        assert_eq!(wait(body.peek(LIMIT)).1, Some("{}".into()));
    }
    let full = || Full::<Bytes>::from("{}").map_err(|never| match never {});
    assert_eq!(
        wait(BoxBody::<Bytes, io::Error>::new(full()).peek(LIMIT)).1,
        Some("{}".into())
    );
    #[cfg(feature = "axum")]
    assert_eq!(
        wait(axum_core::body::Body::from("{}").peek(LIMIT)).1,
        Some("{}".into())
    );
}

#[cfg(feature = "reqwest")]
#[test]
fn reqwests_body_is_looked_into_and_stays_what_it_was() {
    use ::reqwest::Body;

    let (body, bytes) = wait(Body::from("{}").peek(LIMIT));
    // One that reqwest can send again.
    assert_eq!(body.as_bytes(), Some(&b"{}"[..]));
    assert_eq!(bytes, Some("{}".into()));

    let frames = ["{\"appid\":", "\"wx\"}", " more"].map(|data| Ok(Frame::data(Bytes::from(data))));
    let frames = stream::iter(Vec::<Result<_, Infallible>>::from(frames));
    let (body, bytes) = wait(Body::wrap(StreamBody::new(frames)).peek(LIMIT));
    assert!(bytes.unwrap().starts_with(b"{\"appid\":\"wx\"}"));
    assert_eq!(body.size_hint().exact(), None);
    let sent = block_on(body.collect()).unwrap().to_bytes();
    assert_eq!(sent, "{\"appid\":\"wx\"} more");
}

#[test]
fn by_default_nothing_is_known() {
    struct Own;

    impl RequestBody for Own {
        fn capture(self, _: &Keep) -> Captured<Self> {
            Captured::now(Own, Replay::unavailable())
        }
    }

    assert_eq!(wait(Own.peek(LIMIT)).1, None);
}

type Boxed = UnsyncBoxBody<Bytes, Infallible>;

proptest! {
    /// However a stream is cut into frames, and whatever it holds: it is sent on as it was, and
    /// nobody knows more of its length than before.
    #[test]
    fn a_stream_that_was_looked_into_is_sent_on_as_it_was(
        frames in prop::collection::vec("[ {}\":,a-d]{0,9}", 0..9),
        waits in any::<bool>(),
    ) {
        let whole = frames.concat();
        let first_object = (0..=whole.len())
            .find(|end| crate::account_id::InJson::look(&whole.as_bytes()[..*end])
                != crate::account_id::InJson::More);
        let frames = frames.into_iter().map(Bytes::from);
        let ready = frames.map(|data| Ok::<_, Infallible>(Frame::data(data)));
        let stream = stream::iter(ready);
        let stream = futures_util::StreamExt::then(stream, move |frame| async move {
            if waits {
                tokio::task::yield_now().await;
            }
            frame
        });
        let boxed = Boxed::new(ReplayBody::new(Box::pin(StreamBody::new(stream))));
        let (body, bytes) = wait(boxed.peek(LIMIT));
        prop_assert_eq!(body.size_hint().exact(), None);
        prop_assert!(!body.is_end_stream());
        let sent = block_on(body.collect()).unwrap().to_bytes();
        prop_assert_eq!(&sent, &whole);
        match bytes {
            Some(bytes) => {
                prop_assert!(bytes.len() <= LIMIT && whole.as_bytes().starts_with(&bytes));
                let enough = first_object.is_some_and(|end| bytes.len() >= end);
                prop_assert!(enough || bytes.len() == whole.len());
            }
            None => prop_assert!(whole.len() > LIMIT && first_object.is_none_or(|end| end > LIMIT)),
        }
    }
}
