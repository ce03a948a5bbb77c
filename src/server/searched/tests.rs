use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::http::{HeaderValue, header};
use http_body_util::BodyExt;
use proptest::prelude::*;

use super::super::http::BoxFuture;
use super::super::secrets::Sent;
use super::*;
use crate::token::{AccessToken, TokenManager, source_fn};

const TOKEN: &str = "78_Zx0-secret/of%WeChat";

/// Frames that are there at once, then an error if there is one.
struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    error: Option<BodyError>,
    /// Whether the last frame says that it is the last.
    knows_its_end: bool,
}

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Ready(self.error.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.knows_its_end && self.frames.is_empty() && self.error.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.frames.iter().filter_map(Frame::data_ref);
        SizeHint::with_exact(data.map(|data| data.len() as u64).sum())
    }
}

fn secrets() -> Secrets {
    let sent = Sent::default();
    let encoded = TOKEN.replace('/', "%2F").replace("%W", "%25W");
    sent.note(
        &format!("https://h/?access_token={encoded}")
            .parse()
            .unwrap(),
    );
    let none = TokenManager::new(source_fn(|_| async {
        Ok(AccessToken::new("x", std::time::Duration::from_secs(1)))
    }));
    Secrets::of_call(&sent, &none)
}

fn frames(text: &[u8], cuts: &[usize], knows_its_end: bool) -> Frames {
    let mut frames = VecDeque::new();
    let mut rest = Bytes::copy_from_slice(text);
    for cut in cuts {
        let cut = (*cut).min(rest.len());
        frames.push_back(Frame::data(rest.split_to(cut)));
    }
    frames.push_back(Frame::data(rest));
    Frames {
        frames,
        error: None,
        knows_its_end,
    }
}

fn of_type(content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

/// What came of it to the client, and whether it was whole.
fn pass(body: Frames, headers: &HeaderMap) -> (Vec<u8>, Result<(), &'static str>) {
    let all: BoxFuture<_> = {
        let headers = headers.clone();
        Box::pin(async move {
            let mut came = Vec::new();
            let body = match Searched::begin(body, &headers, secrets()).await {
                Ok(body) => body,
                Err(why) => return (came, Err(why.kind())),
            };
            let ended = Arc::new(Mutex::new(None));
            let told = Arc::clone(&ended);
            let mut body = body.telling(move |end| {
                *told.lock().unwrap() = Some(match end {
                    End::Whole => Ok(()),
                    End::Unfit(why) => Err(why.kind()),
                    End::Left => Err("left"),
                });
            });
            let mut failed = Ok(());
            loop {
                let length = body.size_hint().exact();
                let Some(frame) = body.frame().await else {
                    break;
                };
                match frame {
                    Ok(frame) => {
                        let data = frame.into_data().expect("no trailers");
                        assert!(!data.is_empty());
                        if let Some(length) = length {
                            let rest = body.size_hint().exact();
                            let failed = body.failed.is_some();
                            assert!(failed || rest == Some(length - data.len() as u64));
                        }
                        came.extend_from_slice(&data);
                    }
                    Err(why) => failed = Err(why.kind()),
                }
            }
            drop(body);
            assert_eq!(ended.lock().unwrap().take(), Some(failed));
            (came, failed)
        })
    };
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(all)
}

fn spelled(how: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for (byte, how) in TOKEN.bytes().zip(how.iter().cycle()) {
        match how % 5 {
            0 => text.push(byte),
            1 => text.extend(format!("%{byte:02X}").bytes()),
            2 => text.extend(format!("%25{byte:02x}").bytes()),
            3 => text.extend(format!("\\u{byte:04x}").bytes()),
            _ => text.extend(format!("\\\\u{byte:04X}").bytes()),
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn s5_the_token_leaves_whole_in_no_spelling_and_however_the_text_is_cut(
        how in prop::collection::vec(any::<u8>(), 1..30),
        before in 0..40_000_usize,
        after in 0..100_usize,
        cuts in prop::collection::vec(0..9_000_usize, 0..20),
        fine in prop::collection::vec(0..9_usize, 0..200),
        knows_its_end in any::<bool>(),
    ) {
        let mut text = b"{ \"errmsg\": \"".repeat(before / 13 + 1);
        let begins = text.len();
        text.extend(spelled(&how));
        let ends = text.len();
        text.extend(b" and more".repeat(after / 9));
        // Cut finely where the token stands.
        let mut cuts = cuts;
        cuts.push(begins.saturating_sub(cuts.iter().sum()));
        cuts.extend(fine);
        let (came, ended) = pass(frames(&text, &cuts, knows_its_end), &of_type("application/json"));
        prop_assert_eq!(ended, Err("telling"));
        // Not even its beginning.
        prop_assert!(came.len() <= begins, "{} of {begins}", came.len());
        // Of what is read before the head is sent, nothing goes out.
        prop_assert!(ends > AHEAD || came.is_empty());
    }

    #[test]
    fn without_a_secret_every_byte_passes_unchanged(
        text in prop::collection::vec(prop_oneof![
            4 => any::<u8>().prop_map(|byte| vec![byte]),
            1 => Just(b"78_Zx0-secre".to_vec()),
            1 => Just(b"%37%38".to_vec()),
            1 => Just(b"\\u0037".to_vec()),
            1 => Just(vec![b'x'; 5000]),
        ], 0..30),
        cuts in prop::collection::vec(0..6_000_usize, 0..20),
        knows_its_end in any::<bool>(),
        content_type in prop_oneof![Just(""), Just("text/plain"), Just("image/png")],
    ) {
        let text = text.concat();
        let (came, ended) = pass(frames(&text, &cuts, knows_its_end), &of_type(content_type));
        prop_assert_eq!(ended, Ok(()));
        prop_assert!(came == text);
    }
}

#[test]
fn s5_a_token_that_begins_before_the_head_is_sent_and_ends_after_it_does_not_leave() {
    let begins = AHEAD - 17;
    let mut text = vec![b' '; begins];
    text.extend(TOKEN.bytes());
    let body = frames(&text, &[AHEAD], false);
    let (came, ended) = pass(body, &of_type("application/json"));
    assert_eq!((came.len(), ended), (begins, Err("telling")));
}

#[test]
fn s2_a_body_that_breaks_off_at_once_has_not_begun() {
    for (error, kind) in [
        (BodyError::Broken("reset".into()), "broken_off"),
        (BodyError::Paused, "stalled"),
    ] {
        let mut body = frames(b"{\"errcode\":0", &[], false);
        body.error = Some(error);
        assert_eq!(pass(body, &HeaderMap::new()), (Vec::new(), Err(kind)));
    }
}

#[tokio::test]
async fn s2_an_error_comes_after_what_came_before_it_has_had_time_to_go_out() {
    let mut body = frames(b"\x89PNG\0", &[], false);
    body.error = Some(BodyError::Broken("reset".into()));
    let mut body = Searched::begin(body, &HeaderMap::new(), secrets())
        .await
        .unwrap();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut poll = || Pin::new(&mut body).poll_frame(&mut cx);
    assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
    assert!(poll().is_pending());
    assert!(matches!(poll(), Poll::Ready(Some(Err(Unfit::Broken)))));
    assert!(matches!(poll(), Poll::Ready(None)));
}

#[test]
fn trailers_are_dropped() {
    let mut body = frames(b"\x89PNG\0", &[], false);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-token", HeaderValue::from_static(TOKEN));
    body.frames.push_back(Frame::trailers(trailers));
    let (came, ended) = pass(body, &HeaderMap::new());
    assert_eq!((&came[..], ended), (&b"\x89PNG\0"[..], Ok(())));
}
