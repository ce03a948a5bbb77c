use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Either, Empty, Full};
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::reply::{Coding, Inspector, Look};

// Bodies that follow a script, polled by hand.

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Data(Bytes),
    Trailers,
    Error,
    /// Not yet; wakes the one who asks.
    Pending,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Declares {
    Nothing,
    AtLeast,
    Exactly,
}

pub(super) struct Script {
    pub(super) steps: VecDeque<Step>,
    declares: Declares,
    /// Steps taken, also for those who have given the body away.
    pub(super) read: Arc<AtomicUsize>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

pub(super) fn script(steps: impl IntoIterator<Item = Step>, declares: Declares) -> Script {
    Script {
        steps: steps.into_iter().collect(),
        declares,
        read: Arc::default(),
    }
}

pub(super) fn stream(steps: impl IntoIterator<Item = Step>) -> Script {
    script(steps, Declares::Nothing)
}

pub(super) fn data(bytes: impl AsRef<[u8]>) -> Step {
    Step::Data(Bytes::copy_from_slice(bytes.as_ref()))
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::header::ETAG, "t".parse().unwrap())])
}

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(step) = self.steps.pop_front() else {
            return Poll::Ready(None);
        };
        self.read.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(match step {
            Step::Data(data) => Ok(Frame::data(data)),
            Step::Trailers => Ok(Frame::trailers(trailers())),
            Step::Error => Err(Broken),
            Step::Pending => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        !matches!(self.declares, Declares::Nothing) && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let left = bytes_in(&self.steps) as u64;
        match self.declares {
            Declares::Nothing => SizeHint::new(),
            Declares::Exactly => SizeHint::with_exact(left),
            Declares::AtLeast => {
                let mut hint = SizeHint::new();
                hint.set_lower(left / 2);
                hint
            }
        }
    }
}

pub(super) fn bytes_in<'a>(steps: impl IntoIterator<Item = &'a Step>) -> usize {
    let lengths = steps.into_iter().map(|step| match step {
        Step::Data(data) => data.len(),
        _ => 0,
    });
    lengths.sum()
}

pub(super) fn without_pending(steps: &[Step]) -> Vec<Step> {
    let steps = steps.iter().filter(|step| **step != Step::Pending);
    steps.cloned().collect()
}

/// All data put together, and whether trailers came.
pub(super) fn whole(steps: &[Step]) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    for step in steps {
        if let Step::Data(data) = step {
            bytes.extend_from_slice(data);
        }
    }
    (bytes, steps.contains(&Step::Trailers))
}

pub(super) fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Polls until there is an answer.
pub(super) fn drive<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    for _ in 0..1_000_000 {
        if let Poll::Ready(done) = poll(&mut noop()) {
            return done;
        }
    }
    panic!("pending for ever")
}

/// The next frame, as a step of the script that it comes from.
pub(super) fn next<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Step> {
    let frame = drive(|cx| Pin::new(&mut *body).poll_frame(cx))?;
    Some(frame.map_or(Step::Error, |frame| match frame.into_data() {
        Ok(data) => Step::Data(data),
        Err(frame) => {
            assert_eq!(frame.into_trailers().unwrap(), trailers());
            Step::Trailers
        }
    }))
}

pub(super) fn read<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Vec<Step> {
    std::iter::from_fn(|| next(body)).collect()
}

/// Reads to the end and holds what the body said of itself on the way against what came.
pub(super) fn read_and_check<B: Body<Data = Bytes> + Unpin>(
    body: &mut B,
    exact: bool,
) -> Vec<Step> {
    let (mut steps, mut said) = (Vec::new(), Vec::new());
    loop {
        said.push((body.size_hint(), body.is_end_stream()));
        match next(body) {
            Some(step) => steps.push(step),
            None => break,
        }
    }
    for (came, (hint, ended)) in said.into_iter().enumerate() {
        let left = bytes_in(&steps[came..]) as u64;
        assert!(hint.lower() <= left, "{hint:?} {left}");
        assert!(
            hint.upper().is_none_or(|upper| left <= upper),
            "{hint:?} {left}"
        );
        if exact {
            assert_eq!(hint.exact(), Some(left));
        }
        assert!(!ended || steps.len() == came, "frames came after the end");
    }
    assert!(next(body).is_none(), "the end is the end");
    steps
}

fn a_chunk() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        prop::sample::select(vec![
            &b"{\"errcode\":40001}"[..],
            b"{\"errcode\":",
            b"40001",
            b"}",
            b"\n",
            b"{}",
            b"\xff\xd8",
        ])
        .prop_map(Bytes::from_static),
        (0..9_000_usize).prop_map(|length| Bytes::from(vec![b'x'; length])),
    ]
}

pub(super) fn some_steps(errors: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => a_chunk().prop_map(Step::Data),
        3 => Just(Step::Pending),
        errors => Just(Step::Error),
    ];
    (prop::collection::vec(step, 0..12), any::<bool>()).prop_map(|(mut steps, trailers)| {
        if trailers {
            steps.push(Step::Trailers);
        }
        steps
    })
}

fn some_declaration() -> impl Strategy<Value = Declares> {
    prop::sample::select(vec![
        Declares::Nothing,
        Declares::AtLeast,
        Declares::Exactly,
    ])
}

// ReplyBody.

const CODES: &[i64] = &[40001];

/// Reads ahead as the layer does.
fn inspect(body: &mut ReplyBody<Script>, limit: usize) -> Look {
    match Inspector::new(Coding::Identity, &body.size_hint(), limit) {
        Some(mut inspector) => drive(|cx| body.poll_inspect(cx, &mut inspector, CODES)),
        None => Look::Pass,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    // linkerd2-proxy#3947: peeking drops a frame, or swallows an error.
    #[test]
    fn what_was_read_ahead_comes_out_as_it_went_in(
        steps in some_steps(1), declares in some_declaration(), limit in 0..10_000_usize,
    ) {
        let mut body = ReplyBody::new(script(steps.clone(), declares));
        inspect(&mut body, limit);
        let exact = matches!(declares, Declares::Exactly);
        prop_assert_eq!(read_and_check(&mut body, exact), without_pending(&steps));
    }

    #[test]
    fn a_body_that_nobody_looked_into_comes_out_as_it_went_in(
        steps in some_steps(1), declares in some_declaration(),
    ) {
        let mut body = ReplyBody::new(script(steps.clone(), declares));
        let exact = matches!(declares, Declares::Exactly);
        prop_assert_eq!(read_and_check(&mut body, exact), without_pending(&steps));
    }

    #[test]
    fn the_frames_of_a_rejection_do_not_matter(
        cuts in prop::collection::vec(0..17_usize, 0..6), declares in some_declaration(), ends_with in any::<bool>(),
    ) {
        let text = b"{\"errcode\":40001}";
        let mut cuts = cuts;
        cuts.sort_unstable();
        let mut steps = Vec::new();
        let mut from = 0;
        for cut in cuts {
            steps.extend([data(&text[from..cut]), Step::Pending]);
            from = cut;
        }
        steps.push(data(&text[from..]));
        if ends_with {
            steps.push(Step::Trailers);
        }
        let mut body = ReplyBody::new(script(steps.clone(), declares));
        prop_assert!(matches!(inspect(&mut body, 4096), Look::Rejected(_)));
        prop_assert_eq!(read(&mut body), without_pending(&steps));
    }
}

// linkerd2-proxy#3947: peeking buffers a download.
#[test]
fn of_a_download_only_the_first_frame_is_read_ahead() {
    let steps = (0..1_000).map(|_| data([0xff; 1_000]));
    let picture = stream(steps);
    let read = Arc::clone(&picture.read);
    let mut body = ReplyBody::new(picture);
    assert_eq!(inspect(&mut body, 1 << 20), Look::Pass);
    assert_eq!(read.load(Ordering::Relaxed), 1);
}

#[test]
fn of_a_body_that_says_it_is_too_large_nothing_is_read_ahead() {
    let large = script([data([b'{'; 5_000])], Declares::Exactly);
    let read = Arc::clone(&large.read);
    let mut body = ReplyBody::new(large);
    assert_eq!(inspect(&mut body, 4096), Look::Pass);
    assert_eq!(read.load(Ordering::Relaxed), 0);
}

#[test]
fn of_a_json_download_no_more_is_read_ahead_than_the_limit() {
    let steps = [data("{\"a\":\"")].into_iter();
    let download = stream(steps.chain((0..1_000).map(|_| data([b'x'; 100]))));
    let read = Arc::clone(&download.read);
    let mut body = ReplyBody::new(download);
    assert_eq!(inspect(&mut body, 1_000), Look::Pass);
    assert_eq!(read.load(Ordering::Relaxed), 11);
}

#[test]
fn success_is_handed_on_before_the_stream_ends() {
    let reply = stream([data("{\"errcode\":0}"), Step::Pending, data(" ")]);
    let read = Arc::clone(&reply.read);
    let mut body = ReplyBody::new(reply);
    assert_eq!(inspect(&mut body, 4096), Look::Accepted);
    assert_eq!(read.load(Ordering::Relaxed), 1);
}

// hyper#1353: what is not read to its end costs the connection.
#[test]
fn a_rejection_is_read_to_its_end() {
    let steps = [
        data("{\"errcode\":40001}"),
        Step::Pending,
        data("\n"),
        Step::Trailers,
    ];
    let reply = stream(steps.clone());
    let read = Arc::clone(&reply.read);
    let mut body = ReplyBody::new(reply);
    assert!(matches!(inspect(&mut body, 4096), Look::Rejected(_)));
    assert_eq!(read.load(Ordering::Relaxed), steps.len());
    assert!(body.size_hint().exact().is_some(), "the end was seen");
}

// WxJava#3196: an error that was saved as a picture.
#[test]
fn a_rejection_is_found_in_a_reply_of_any_kind() {
    let mut body = ReplyBody::new(stream([data("\n{\"errcode\":40001}")]));
    assert!(matches!(inspect(&mut body, 4096), Look::Rejected(_)));
}

#[test]
fn an_error_while_reading_ahead_stays_in_its_place() {
    let steps = [data("{\"errcode\":"), Step::Error, data("40001}")];
    let mut body = ReplyBody::new(stream(steps.clone()));
    assert_eq!(inspect(&mut body, 4096), Look::Pass);
    assert_eq!(read(&mut body), steps);
}

#[test]
fn reading_ahead_once_more_keeps_the_order() {
    let steps = ["{", "\"a\":", "1", ",", "}"].map(data);
    let mut body = ReplyBody::new(stream(steps.clone()));
    inspect(&mut body, 2);
    assert_eq!(next(&mut body).as_ref(), steps.first());
    inspect(&mut body, 4096);
    assert_eq!(read(&mut body), steps[1..]);
}

#[test]
fn empty_frames_without_end_are_not_collected() {
    let reply = stream(std::iter::repeat_n(data(""), 100_000));
    let read = Arc::clone(&reply.read);
    let mut body = ReplyBody::new(reply);
    assert_eq!(inspect(&mut body, 100), Look::Pass);
    assert!(read.load(Ordering::Relaxed) <= 102);
}

#[test]
fn a_body_that_the_layer_made_is_its_bytes() {
    let mut body = ReplyBody::<Script>::made(Bytes::from_static(b"{}"));
    assert_eq!(read_and_check(&mut body, true), [data("{}")]);
}

#[test]
fn the_data_of_a_reply_is_not_copied() {
    let bytes = Bytes::from(vec![b'{'; 100]);
    let mut body = ReplyBody::new(stream([Step::Data(bytes.clone())]));
    inspect(&mut body, 4096);
    assert_eq!(next(&mut body), Some(Step::Data(bytes.clone())));
    let mut body = ReplyBody::new(Full::new(bytes.clone()));
    let frame = drive(|cx| Pin::new(&mut body).poll_frame(cx))
        .unwrap()
        .unwrap();
    assert_eq!(frame.into_data().unwrap().as_ptr(), bytes.as_ptr());
}

// ReplayBody.

type Kept = Replay<ReplayBody<Script>>;

const NO_LIMIT: usize = 1 << 24;

/// Of a body whose request says how long it is.
fn capture(body: Script, limit: usize) -> (ReplayBody<Script>, Kept) {
    let keep = Keep::up_to(limit).of_length(bytes_in(&body.steps) as u64);
    split(ReplayBody::new(body).capture(&keep))
}

/// What is sent at once, and what can be sent again.
#[track_caller]
fn split<B>(captured: Captured<B>) -> (B, Replay<B>) {
    let sendable = at_once(captured);
    (sendable.body, sendable.again)
}

#[track_caller]
pub(super) fn at_once<B>(captured: Captured<B>) -> Sendable<B> {
    let captured = captured.into_result();
    captured.unwrap_or_else(|_| panic!("it is collected first"))
}

/// The body for the second sending, of which the first is over; a clock is there, but is not moved.
pub(super) fn kept<B>(mut replay: Replay<B>) -> Option<B> {
    match with_clock(|| replay.poll_body(&mut noop())) {
        Poll::Ready(body) => body,
        Poll::Pending => panic!("waits although the first sending is over"),
    }
}

fn with_clock<T>(test: impl FnOnce() -> T) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    test()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_first_sending_is_the_body_as_it_is(
        steps in some_steps(1), declares in some_declaration(), limit in 0..30_000_usize,
    ) {
        // One that says that it is empty is collected, to see whether it is.
        prop_assume!(bytes_in(&steps) > 0);
        let (mut first, _replay) = capture(script(steps.clone(), declares), limit);
        let exact = matches!(declares, Declares::Exactly);
        prop_assert_eq!(read_and_check(&mut first, exact), without_pending(&steps));
    }

    // octocrab#835, linkerd2#15649, linkerd2-proxy#3216: the first sending may stop anywhere,
    // before its first frame too.
    #[test]
    fn the_second_sending_has_every_byte_once_however_far_the_first_one_came(
        steps in some_steps(0), declares in some_declaration(), limit in 0..30_000_usize,
        sent in 0..14_usize,
    ) {
        // One that says that it is empty is collected, to see whether it is.
        prop_assume!(bytes_in(&steps) > 0);
        let (mut first, replay) = capture(script(steps.clone(), declares), limit);
        let all = (0..sent).map_while(|_| next(&mut first)).count() < sent;
        drop(first);
        let again = kept(replay);
        if bytes_in(&steps) <= limit {
            prop_assert!(again.is_some());
        } else if all && steps.contains(&Step::Pending) {
            // Any other was in memory, as far as can be told.
            prop_assert!(again.is_none());
        }
        if let Some(mut again) = again {
            let exact = matches!(declares, Declares::Exactly);
            prop_assert_eq!(whole(&read_and_check(&mut again, exact)), whole(&steps));
        }
    }

    /// A layer in a layer, or a client that retries.
    #[test]
    fn a_second_sending_can_be_captured_like_a_first(
        steps in some_steps(0), sent in prop::array::uniform2(0..14_usize),
    ) {
        // One that says that it is empty is collected, to see whether it is.
        prop_assume!(bytes_in(&steps) > 0);
        let keep = Keep::up_to(NO_LIMIT).of_length(bytes_in(&steps) as u64);
        let (mut body, mut replay) = capture(stream(steps.clone()), NO_LIMIT);
        for sent in sent {
            (0..sent).map_while(|_| next(&mut body)).count();
            drop(body);
            (body, replay) = split(kept(replay).unwrap().capture(&keep));
        }
        prop_assert_eq!(whole(&read(&mut body)), whole(&steps));
        drop(body);
        prop_assert_eq!(whole(&read(&mut kept(replay).unwrap())), whole(&steps));
    }
}

#[test]
fn a_body_in_memory_is_captured_at_once_and_without_a_copy() {
    let bytes = Bytes::from(vec![1; 100_000]);
    let body = stream([Step::Data(bytes.clone()), Step::Trailers]);
    let (mut first, replay) = capture(body, NO_LIMIT);
    // The first sending is not even begun.
    let mut again = kept(replay).unwrap();
    for body in [&mut first, &mut again] {
        match next(body) {
            Some(Step::Data(data)) => assert_eq!(data.as_ptr(), bytes.as_ptr()),
            other => panic!("{other:?}"),
        }
        assert_eq!(read(body), [Step::Trailers]);
    }
}

// linkerd2#15649: "hello" was replayed as "hellohello" when nothing had been read yet.
#[test]
fn hello_is_not_replayed_as_hellohello() {
    for sent in 0..4 {
        let steps = [data("hel"), data("lo"), Step::Pending, data("!")];
        let (mut first, replay) = capture(stream(steps), NO_LIMIT);
        for _ in 0..sent {
            next(&mut first);
        }
        drop(first);
        let (bytes, _) = whole(&read(&mut kept(replay).unwrap()));
        assert_eq!(bytes, b"hello!", "after {sent} frames");
    }
}

#[test]
fn a_stream_is_sent_on_frame_by_frame() {
    let body = stream([data("a"), Step::Pending, data("b"), data("c")]);
    let read = Arc::clone(&body.read);
    let (mut first, _replay) = capture(body, NO_LIMIT);
    assert_eq!(
        read.load(Ordering::Relaxed),
        2,
        "what was there, and that no more was"
    );
    assert_eq!(next(&mut first), Some(data("a")));
    assert_eq!(read.load(Ordering::Relaxed), 2);
    assert_eq!(next(&mut first), Some(data("b")));
    assert_eq!(read.load(Ordering::Relaxed), 3);
}

#[test]
fn of_a_stream_that_says_it_is_too_large_one_frame_is_read() {
    let body = script([data([0; 60]), data([0; 41])], Declares::Exactly);
    let frames = Arc::clone(&body.read);
    let (mut first, replay) = capture(body, 100);
    assert_eq!(frames.load(Ordering::Relaxed), 1);
    assert!(kept(replay).is_none());
    assert_eq!(read(&mut first), [data([0; 60]), data([0; 41])]);
}

#[test]
fn a_stream_that_says_it_is_too_large_and_is_not_there_yet_is_sent_on() {
    let body = script([Step::Pending, data([0; 101])], Declares::Exactly);
    let (mut first, replay) = capture(body, 100);
    assert!(kept(replay).is_none());
    assert_eq!(next(&mut first), Some(data([0; 101])));
}

#[test]
fn a_box_around_bytes_is_kept_whatever_their_size() {
    let bytes = Bytes::from(vec![1; 100_000]);
    let (first, replay) = split(BoxBody::new(Full::new(bytes.clone())).capture(&Keep::up_to(100)));
    for body in [first, kept(replay).unwrap()] {
        let mut body = body;
        let frame = drive(|cx| Pin::new(&mut body).poll_frame(cx))
            .unwrap()
            .unwrap();
        assert_eq!(frame.into_data().unwrap().as_ptr(), bytes.as_ptr());
    }
}

#[test]
fn a_body_of_just_the_limit_is_kept() {
    for steps in [
        vec![data([0; 100])],
        vec![Step::Pending, data([0; 60]), data([0; 40])],
    ] {
        let (mut first, replay) = capture(stream(steps), 100);
        read(&mut first);
        assert!(kept(replay).is_some());
    }
}

/// Tells whether it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A replay that was asked for while the first sending still goes on, and that waits.
fn waiting(replay: &mut Kept) -> Arc<Woken> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let polled = replay.poll_body(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    woken
}

fn answer(replay: &mut Kept, woken: &Woken) -> Option<ReplayBody<Script>> {
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "woken once");
    match replay.poll_body(&mut noop()) {
        Poll::Ready(body) => body,
        Poll::Pending => panic!("woken for nothing"),
    }
}

fn hello() -> Script {
    stream([
        data("he"),
        Step::Pending,
        data("ll"),
        Step::Pending,
        data("o"),
        Step::Trailers,
    ])
}

#[tokio::test(start_paused = true)]
async fn a_replay_waits_while_the_first_sending_goes_on_and_comes_when_it_ends() {
    let (mut first, mut replay) = capture(hello(), NO_LIMIT);
    next(&mut first);
    let woken = waiting(&mut replay);
    next(&mut first);
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    read(&mut first);
    let mut again = answer(&mut replay, &woken).unwrap();
    assert_eq!(whole(&read(&mut again)), (b"hello".to_vec(), true));
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_waits_comes_when_the_first_sending_is_given_up() {
    let (mut first, mut replay) = capture(hello(), NO_LIMIT);
    next(&mut first);
    next(&mut first);
    let woken = waiting(&mut replay);
    drop(first);
    let mut again = answer(&mut replay, &woken).unwrap();
    assert_eq!(whole(&read(&mut again)), (b"hello".to_vec(), true));
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_waits_is_none_when_the_body_fails() {
    let body = stream([Step::Pending, data("he"), Step::Error, data("llo")]);
    let (mut first, mut replay) = capture(body, NO_LIMIT);
    next(&mut first);
    let woken = waiting(&mut replay);
    assert_eq!(next(&mut first), Some(Step::Error));
    assert!(answer(&mut replay, &woken).is_none());
    assert_eq!(read(&mut first), [data("llo")]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_waits_is_none_when_the_limit_is_exceeded() {
    let body = stream([Step::Pending, data([0; 60]), data([0; 60]), data([0; 60])]);
    let (mut first, mut replay) = capture(body, 100);
    next(&mut first);
    let woken = waiting(&mut replay);
    next(&mut first);
    assert!(answer(&mut replay, &woken).is_none());
    assert_eq!(read(&mut first).len(), 1, "the first sending goes on");
}

#[tokio::test(start_paused = true)]
async fn a_replay_does_not_wait_for_ever() {
    let (first, mut replay) = capture(hello(), NO_LIMIT);
    let asked = Instant::now();
    assert!(poll_fn(|cx| replay.poll_body(cx)).await.is_none());
    assert_eq!(asked.elapsed(), Duration::from_secs(10));
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn a_replay_waits_from_when_it_is_asked_for() {
    let (first, mut replay) = capture(hello(), NO_LIMIT);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    waiting(&mut replay);
    drop(first);
    assert!(poll_fn(|cx| replay.poll_body(cx)).await.is_some());
}

#[test]
fn a_body_that_failed_at_once_cannot_be_replayed_and_still_tells_its_error() {
    let steps = [data("he"), Step::Error];
    let (mut first, replay) = capture(stream(steps.clone()), NO_LIMIT);
    assert!(kept(replay).is_none());
    assert_eq!(read(&mut first), steps);
}

#[test]
fn an_error_that_the_first_sending_did_not_reach_is_left_to_the_second() {
    let body = stream([data("he"), Step::Pending, data("llo"), Step::Error]);
    let (mut first, replay) = capture(body, NO_LIMIT);
    next(&mut first);
    drop(first);
    let again = read(&mut kept(replay).unwrap());
    assert_eq!(again, [data("he"), data("llo"), Step::Error]);
}

#[test]
fn frames_of_one_byte_are_kept_together() {
    let body = [Step::Pending]
        .into_iter()
        .chain((0..100_000).map(|n: u32| data([n as u8])));
    let (mut first, replay) = capture(stream(body), NO_LIMIT);
    let sent = whole(&read(&mut first));
    let again = read(&mut kept(replay).unwrap());
    assert!(again.len() < 50, "{} frames", again.len());
    assert_eq!(whole(&again), sent);
}

#[test]
fn small_frames_among_large_ones_stay_in_order() {
    let frame = |n: usize| data(vec![n as u8; if n % 7 == 0 { 600 } else { 3 }]);
    let body = [Step::Pending].into_iter().chain((0..1_000).map(frame));
    let (mut first, replay) = capture(stream(body), NO_LIMIT);
    let sent = whole(&read(&mut first));
    assert_eq!(whole(&read(&mut kept(replay).unwrap())), sent);
}

#[test]
fn a_body_in_countless_frames_is_not_read_ahead_even_if_all_are_ready() {
    for frame in ["", "x"] {
        let body = stream(std::iter::repeat_n(data(frame), 100_000));
        let read_so_far = Arc::clone(&body.read);
        let (mut first, replay) = capture(body, NO_LIMIT);
        assert!(read_so_far.load(Ordering::Relaxed) <= 1024);
        let sent = whole(&read(&mut first));
        assert_eq!(whole(&read(&mut kept(replay).unwrap())), sent);
    }
}

#[test]
fn a_body_in_memory_of_several_frames_is_kept_whatever_its_size() {
    let form = [data("head"), data([0; 100_000]), data("tail")];
    let (_first, replay) = capture(stream(form.clone()), 100);
    assert_eq!(read(&mut kept(replay).unwrap()), form);
}

#[test]
fn a_stream_that_is_always_ready_is_not_read_far_past_the_limit() {
    const MIB: usize = 1024 * 1024;
    // All steps share one piece of memory, as those of a real stream would not.
    let piece = data(vec![0; MIB]);
    let body = stream(std::iter::repeat_n(piece, 100));
    let read_so_far = Arc::clone(&body.read);
    let (mut first, replay) = capture(body, 4 * MIB);
    // Up to the limit, the one that exceeds it, 16 MiB, and the one that exceeds these.
    assert_eq!(read_so_far.load(Ordering::Relaxed), 4 + 1 + 16 + 1);
    assert!(kept(replay).is_none());
    assert_eq!(read(&mut first).len(), 100);
}

#[test]
fn a_body_that_cannot_be_replayed_is_let_go_with_the_first_sending() {
    let body = stream([Step::Pending, data([0; 101]), data("x")]);
    let held = Arc::clone(&body.read);
    let (mut first, _replay) = capture(body, 100);
    next(&mut first);
    drop(first);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn a_copy_that_nobody_can_ask_for_is_not_kept() {
    let bytes = Bytes::from(vec![7; 1_000]);
    let steps = vec![
        Step::Pending,
        Step::Data(bytes.clone()),
        Step::Data(bytes.clone()),
        data("x"),
    ];
    let (mut first, replay) = capture(stream(steps), NO_LIMIT);
    next(&mut first);
    drop(replay);
    next(&mut first);
    assert!(
        bytes.is_unique(),
        "the copy of the first frame went as well"
    );
    assert_eq!(read(&mut first), [data("x")]);
}

#[test]
fn debug_tells_nothing_of_what_is_sent() {
    let (first, replay) = capture(stream([data("secret")]), NO_LIMIT);
    let printed = format!("{first:?} {replay:?}");
    assert!(!printed.contains("secret"), "{printed}");
}

// RequestBody.

/// Both sendings of a body that is there at once.
#[track_caller]
fn assert_twice<B>(body: B, expected: &str)
where
    B: RequestBody + Body<Data = Bytes> + Unpin,
{
    let (mut first, replay) = split(body.capture(&Keep::up_to(16)));
    let mut again = kept(replay).unwrap();
    for body in [&mut first, &mut again] {
        assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
        assert_eq!(whole(&read(body)).0, expected.as_bytes());
    }
}

#[test]
fn bodies_in_memory_are_sent_twice() {
    assert_twice(Full::new(Bytes::from("hello")), "hello");
    assert_twice(Empty::<Bytes>::new(), "");
    assert_twice(String::from("hello"), "hello");
    assert_twice(
        Either::<_, Empty<Bytes>>::Left(Full::new(Bytes::from("hello"))),
        "hello",
    );
    assert_twice(Either::<Full<Bytes>, _>::Right(Empty::<Bytes>::new()), "");
    assert_twice(BoxBody::new(Full::new(Bytes::from("hello"))), "hello");
    assert_twice(UnsyncBoxBody::new(Full::new(Bytes::from("hello"))), "hello");
    assert_twice(UnsyncBoxBody::new(Empty::<Bytes>::new()), "");
    assert_twice(ReplayBody::new(String::from("hello")), "hello");
    #[cfg(feature = "axum")]
    {
        assert_twice(axum_core::body::Body::from("hello"), "hello");
        assert_twice(axum_core::body::Body::empty(), "");
    }
}

#[test]
fn what_is_no_body_of_http_is_cloned() {
    fn assert_cloned<B: RequestBody + Clone + PartialEq + fmt::Debug>(body: B) {
        let (first, replay) = split(body.clone().capture(&Keep::up_to(0)));
        assert_eq!(first, body);
        assert_eq!(kept(replay), Some(body));
    }
    assert_cloned(vec![1_u8, 2]);
    assert_cloned(Bytes::from_static(b"hello"));
    assert_cloned("hello");
    assert_cloned(&b"hello"[..]);
    assert_cloned(std::borrow::Cow::Borrowed("hello"));
    assert_cloned(());
    assert_cloned(None::<String>);
    assert_cloned(Some(String::from("hello")));
}

#[test]
fn what_is_in_memory_is_kept_whatever_its_size() {
    let bytes = Bytes::from(vec![0; 1 << 20]);
    let (_first, replay) = split(Full::new(bytes.clone()).capture(&Keep::up_to(1)));
    let mut again = kept(replay).unwrap();
    match next(&mut again) {
        Some(Step::Data(data)) => assert_eq!(data.as_ptr(), bytes.as_ptr()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_in_a_box_is_kept_as_it_is_sent() {
    fn check<B: RequestBody + Body<Data = Bytes> + Unpin>(boxed: impl Fn(Script) -> B) {
        for sent in 0..5 {
            let keep = Keep::up_to(NO_LIMIT).of_length(5);
            let (mut first, replay) = split(boxed(hello()).capture(&keep));
            (0..sent).map_while(|_| next(&mut first)).count();
            drop(first);
            let again = read(&mut kept(replay).unwrap());
            assert_eq!(whole(&again), (b"hello".to_vec(), true));
        }
        let (mut first, replay) = split(boxed(hello()).capture(&Keep::up_to(4).of_length(5)));
        assert_eq!(whole(&read(&mut first)).0, b"hello");
        assert!(kept(replay).is_none());
    }
    check(|body| body.boxed());
    check(|body| body.boxed_unsync());
    check(|body| Either::<_, Full<Bytes>>::Left(ReplayBody::new(body)));
    #[cfg(feature = "axum")]
    check(axum_core::body::Body::new);
}

// reqwest-middleware#44, #214: a body that cannot be cloned made the whole request fail.
#[test]
fn a_body_that_can_be_sent_only_once_is_sent_once() {
    let (mut first, replay) = capture(stream([data([0; 200]), Step::Pending, data("x")]), 100);
    assert_eq!(bytes_in(&read(&mut first)), 201);
    assert!(kept(replay).is_none());
}

#[test]
fn a_replay_is_unavailable_after_it_was_taken() {
    let mut replay = Replay::ready("hello");
    let mut take = || replay.poll_body(&mut noop());
    assert_eq!(
        (take(), take()),
        (Poll::Ready(Some("hello")), Poll::Ready(None))
    );
}

#[test]
fn a_replay_in_another_wrapping_is_the_same() {
    assert_eq!(kept(Replay::ready(1).map(Some)), Some(Some(1)));
    assert_eq!(
        kept(Replay::later(async { Some(1) }).map(Some)),
        Some(Some(1))
    );
    assert_eq!(kept(Replay::<u8>::unavailable().map(Some)), None);
}

#[test]
fn an_error_type_of_any_kind_will_do() {
    let body = Full::new(Bytes::from("hello")).map_err(|error: Infallible| match error {});
    let body: BoxBody<Bytes, Broken> = body.boxed();
    assert_twice(body, "hello");
}
