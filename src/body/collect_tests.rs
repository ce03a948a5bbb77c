//! Bodies of unknown length, and the budget that they and the others count for.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::channel;
use proptest::prelude::*;
use tokio::time::Instant;

use super::captured::Length;
use super::tests::*;
use super::*;
use crate::token::BoxError;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const NO_LIMIT: usize = 16 * MIB;

type Outcome = Result<Sendable<ReplayBody<Script>>, BoxError>;

async fn collected(captured: Captured<ReplayBody<Script>>) -> Outcome {
    let Err(collecting) = captured.into_result() else {
        panic!("it is not collected");
    };
    Ok(at_once(collecting.await?))
}

/// As far as it comes without a clock.
fn collect_now(body: Script, keep: &Keep) -> Outcome {
    let mut collecting = Box::pin(collected(ReplayBody::new(body).capture(keep)));
    drive(|cx| collecting.as_mut().poll(cx))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    // fastwego/offiaccount#15, easywechat#2191: the same upload went out with a length, or in
    // chunks.
    #[test]
    fn r11_whether_frames_are_there_already_decides_nothing(
        steps in some_steps(0), pauses in prop::collection::vec(any::<bool>(), 0..30),
        limit in 0..30_000_usize,
    ) {
        let at_once = without_pending(&steps);
        let mut late = Vec::new();
        let mut pauses = pauses.into_iter().cycle();
        for step in &at_once {
            if pauses.next() == Some(true) {
                late.push(Step::Pending);
            }
            late.push(step.clone());
        }
        let keep = Keep::up_to(limit);
        let [first, second] = [at_once, late].map(|steps| collect_now(stream(steps), &keep).unwrap());
        prop_assert_eq!(first.length, second.length);
        let bytes = bytes_in(&steps);
        let expected = match bytes <= limit {
            true => Length::Collected(bytes as u64),
            false => Length::PastLimit,
        };
        prop_assert_eq!(first.length, expected);
        prop_assert_eq!(first.body.size_hint().exact(), second.body.size_hint().exact());
    }

    #[test]
    fn r11_a_collected_body_is_every_byte_twice_without_trailers(steps in some_steps(0)) {
        let mut sendable = collect_now(stream(steps.clone()), &Keep::up_to(NO_LIMIT)).unwrap();
        let (bytes, _) = whole(&steps);
        prop_assert_eq!(whole(&read_and_check(&mut sendable.body, true)), (bytes.clone(), false));
        let mut again = kept(sendable.again).unwrap();
        prop_assert_eq!(whole(&read_and_check(&mut again, true)), (bytes, false));
    }

    #[test]
    fn r11_past_the_limit_a_body_is_sent_as_it_came_and_once(
        steps in some_steps(0), limit in 0..1_000_usize,
    ) {
        prop_assume!(bytes_in(&steps) > limit);
        let mut sendable = collect_now(stream(steps.clone()), &Keep::up_to(limit)).unwrap();
        prop_assert_eq!(whole(&read(&mut sendable.body)), whole(&steps));
        prop_assert!(kept(sendable.again).is_none());
    }
}

#[test]
fn r11_a_body_that_fails_while_it_is_collected_fails_with_its_own_error() {
    for steps in [
        vec![Step::Error],
        vec![data("he"), Step::Pending, Step::Error],
    ] {
        let failed = collect_now(stream(steps), &Keep::up_to(NO_LIMIT));
        let error = failed.err().expect("it fails");
        assert!(error.downcast_ref::<Broken>().is_some(), "{error:?}");
    }
}

#[test]
fn r11_a_body_that_says_it_is_empty_and_has_not_ended_is_asked() {
    let keep = Keep::up_to(NO_LIMIT);
    for steps in [
        vec![Step::Trailers],
        vec![data("")],
        vec![Step::Pending, data("")],
    ] {
        let sendable = collect_now(script(steps, Declares::Exactly), &keep).unwrap();
        assert_eq!(sendable.length, Length::Collected(0));
        assert!(sendable.body.is_end_stream());
    }
    let failed = collect_now(script([Step::Error], Declares::Exactly), &keep);
    assert!(failed.is_err());
}

#[test]
fn r11_with_a_length_told_by_anybody_a_body_flows() {
    let steps = [data("he"), Step::Pending, data("llo")];
    let exact = script(steps.clone(), Declares::Exactly);
    let told = ReplayBody::new(exact).capture(&Keep::up_to(NO_LIMIT));
    assert_eq!(at_once(told).length, Length::Known(5));
    let keep = Keep::up_to(NO_LIMIT).of_length(5);
    let told = ReplayBody::new(stream(steps.clone())).capture(&keep);
    assert_eq!(at_once(told).length, Length::Unsaid, "the header's");
    // A lower bound is no length.
    let at_least = script(steps, Declares::AtLeast);
    let told = ReplayBody::new(at_least).capture(&Keep::up_to(NO_LIMIT));
    assert!(told.into_result().is_err());
}

#[test]
fn a_body_that_is_shorter_than_promised_does_not_say_beforehand_that_it_ends() {
    for steps in [vec![], vec![data("hel")]] {
        let keep = Keep::up_to(NO_LIMIT).of_length(5);
        let mut sendable = at_once(ReplayBody::new(stream(steps.clone())).capture(&keep));
        for step in steps.into_iter().chain([data("")]) {
            assert!(!sendable.body.is_end_stream());
            assert_eq!(next(&mut sendable.body), Some(step));
        }
        assert_eq!(next(&mut sendable.body), None);
        assert!(kept(sendable.again).is_none());
    }
}

#[test]
fn frames_that_are_empty_and_ready_for_ever_do_not_hold_the_thread() {
    let body = stream(std::iter::repeat_n(data(""), 100_000));
    let polled = Arc::clone(&body.read);
    let keep = Keep::up_to(NO_LIMIT);
    let mut collecting = Box::pin(collected(ReplayBody::new(body).capture(&keep)));
    assert!(collecting.as_mut().poll(&mut noop()).is_pending());
    assert!(polled.load(Ordering::Relaxed) <= 64);
}

// ReplayBudget.

fn within(budget: &ReplayBudget, limit: usize) -> Keep {
    Keep::up_to(limit).within(budget.clone())
}

type Piped = channel::Channel<Bytes, Infallible>;
type Sender = channel::Sender<Bytes, Infallible>;
type Collected = Result<Captured<ReplayBody<Piped>>, BoxError>;

/// `bytes` in pieces of 16 KiB that are there, and nothing more until the sender is dropped.
fn pieces(bytes: usize) -> (Sender, Piped) {
    let (mut sender, body) = Piped::new(64);
    for _ in 0..bytes / (16 * KIB) {
        let piece = Bytes::from(vec![0; 16 * KIB]);
        sender.try_send(Frame::data(piece)).unwrap();
    }
    (sender, body)
}

fn collecting(body: Piped, keep: &Keep) -> Pin<Box<dyn Future<Output = Collected> + Send>> {
    let captured = ReplayBody::new(body).capture(keep).into_result();
    captured.err().expect("it is collected")
}

#[test]
fn a_body_of_known_length_takes_all_of_it_before_anything_came_and_gives_it_back_when_dropped() {
    let budget = ReplayBudget::new(4 * MIB);
    let steps = || script([Step::Pending, data([0; 100_000])], Declares::Exactly);
    let (mut first, again) = {
        let sendable = at_once(ReplayBody::new(steps()).capture(&within(&budget, NO_LIMIT)));
        (sendable.body, sendable.again)
    };
    assert_eq!(budget.kept(), 100_000);
    read(&mut first);
    drop(first);
    assert_eq!(budget.kept(), 100_000, "the copy is there");
    let again = kept(again).unwrap();
    assert_eq!(budget.kept(), 100_000, "it is being sent again");
    drop(again);
    assert_eq!(budget.kept(), 0);

    // Given up in the middle.
    let sendable = at_once(ReplayBody::new(steps()).capture(&within(&budget, NO_LIMIT)));
    drop(sendable);
    assert_eq!(budget.kept(), 0);
}

#[test]
fn past_the_budget_a_body_of_known_length_flows_without_a_copy() {
    let budget = ReplayBudget::new(4 * MIB);
    let keep = within(&budget, NO_LIMIT);
    let upload = || script([Step::Pending, data(vec![0; 2 * MIB])], Declares::Exactly);
    let held = at_once(ReplayBody::new(upload()).capture(&keep));
    let mut second = at_once(ReplayBody::new(upload()).capture(&keep));
    assert_eq!(budget.kept(), 2 * MIB);
    assert_eq!(bytes_in(&read(&mut second.body)), 2 * MIB);
    assert!(kept(second.again).is_none());
    drop(held);
    assert_eq!(budget.kept(), 0);
    let third = at_once(ReplayBody::new(upload()).capture(&keep));
    drop(third.body);
    assert!(kept(third.again).is_some());
}

#[test]
fn uploads_do_not_take_the_room_of_messages() {
    let budget = ReplayBudget::new(4 * MIB);
    let keep = within(&budget, NO_LIMIT);
    let upload = script([Step::Pending, data(vec![0; 3 * MIB])], Declares::Exactly);
    let upload = at_once(ReplayBody::new(upload).capture(&keep));
    let message = script([Step::Pending, data("{}")], Declares::Exactly);
    let message = at_once(ReplayBody::new(message).capture(&keep));
    assert_eq!(budget.kept(), 3 * MIB + 2);
    drop((upload, message));
    assert_eq!(budget.kept(), 0);
}

#[test]
fn a_share_takes_of_the_whole_and_no_more_than_its_own() {
    let all = ReplayBudget::new(8 * MIB);
    let (one, other) = (all.share(4 * MIB), all.share(4 * MIB));
    let upload = || script([Step::Pending, data(vec![0; 2 * MIB])], Declares::Exactly);
    let capture = |budget| at_once(ReplayBody::new(upload()).capture(&within(budget, NO_LIMIT)));
    let held = [capture(&one), capture(&one), capture(&other)];
    assert_eq!(
        (one.kept(), other.kept(), all.kept()),
        (2 * MIB, 2 * MIB, 4 * MIB)
    );
    drop(held);
    assert_eq!((one.kept(), other.kept(), all.kept()), (0, 0, 0));
}

#[test]
fn no_body_is_larger_than_what_there_can_be_room_for() {
    let all = ReplayBudget::new(8 * MIB);
    for (budget, limit) in [
        (&all, 6 * MIB),
        (&all.share(4 * MIB), 3 * MIB),
        (&all.share(80 * MIB), 6 * MIB),
    ] {
        assert_eq!(within(budget, NO_LIMIT).limit(), limit);
    }
    assert_eq!(within(&ReplayBudget::new(0), NO_LIMIT).limit(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_collected_body_keeps_what_it_is_and_no_more() {
    let budget = ReplayBudget::new(16 * MIB);
    let keep = within(&budget, 2 * MIB);
    for bytes in [0, 16 * KIB, 64 * KIB, 512 * KIB] {
        let (sender, body) = pieces(bytes);
        let mut collected = collecting(body, &keep);
        assert!(collected.as_mut().poll(&mut noop()).is_pending());
        let set_aside = if bytes <= 64 * KIB { 64 * KIB } else { 2 * MIB };
        assert_eq!(budget.kept(), set_aside);
        drop(sender);
        let sendable = at_once(collected.await.unwrap());
        assert_eq!(budget.kept(), bytes);
        let (body, again) = (sendable.body, sendable.again);
        drop(again);
        assert_eq!(budget.kept(), bytes, "it is being sent");
        drop(body);
        assert_eq!(budget.kept(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_past_the_limit_counts_until_it_is_sent() {
    let budget = ReplayBudget::new(16 * MIB);
    let (_sender, body) = pieces(512 * KIB);
    let sendable = at_once(collecting(body, &within(&budget, 256 * KIB)).await.unwrap());
    assert_eq!(sendable.length, Length::PastLimit);
    assert_eq!(budget.kept(), 256 * KIB);
    drop(sendable);
    assert_eq!(budget.kept(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_given_up_while_it_is_collected_gives_its_room_back() {
    let budget = ReplayBudget::new(16 * MIB);
    let (_sender, body) = pieces(512 * KIB);
    let mut collected = collecting(body, &within(&budget, 2 * MIB));
    assert!(collected.as_mut().poll(&mut noop()).is_pending());
    assert!(budget.kept() > 0);
    drop(collected);
    assert_eq!(budget.kept(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_waits_ten_seconds_for_room_and_fails_then() {
    let budget = ReplayBudget::new(4 * MIB);
    let keep = within(&budget, 3 * MIB);
    let (_held_sender, body) = pieces(512 * KIB);
    let mut held = collecting(body, &keep);
    assert!(held.as_mut().poll(&mut noop()).is_pending());

    let asked = Instant::now();
    let (_sender, body) = pieces(512 * KIB);
    let error = collecting(body, &keep).await.expect_err("there is no room");
    assert!(error.downcast_ref::<NoRoom>().is_some());
    assert_eq!(asked.elapsed(), Duration::from_secs(10));
    assert_eq!(budget.kept(), 3 * MIB, "its own came back");

    let (sender, body) = pieces(512 * KIB);
    drop(sender);
    let waiting = tokio::spawn(collecting(body, &keep));
    tokio::time::sleep(Duration::from_secs(9)).await;
    drop(held);
    assert_eq!(
        at_once(waiting.await.unwrap().unwrap()).length,
        Length::Collected(512 * KIB as u64)
    );
}

#[tokio::test(start_paused = true)]
async fn uploads_that_grow_at_the_same_pace_do_not_stop_each_other() {
    // Twenty of 1 MiB each, with room for three: frame by frame each would get a part, and none
    // all.
    let budget = ReplayBudget::new(4 * MIB);
    let keep = within(&budget, MIB);
    let begun = Instant::now();
    let calls = (0..20).map(|_| {
        let (mut sender, body) = Piped::new(1);
        tokio::spawn(async move {
            for _ in 0..64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let piece = Bytes::from(vec![0; 16 * KIB]);
                if sender.send_data(piece).await.is_err() {
                    return;
                }
            }
        });
        let captured: Captured<ReplayBody<Piped>> = ReplayBody::new(body).capture(&keep);
        let collecting = captured.into_result().err().expect("it is collected");
        tokio::spawn(async move {
            let sendable = at_once(collecting.await.expect("there is room in time"));
            assert_eq!(sendable.length, Length::Collected(MIB as u64));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(budget.kept(), 0);
}

#[test]
fn a_second_sending_that_waits_for_the_first_keeps_its_room() {
    let budget = ReplayBudget::new(4 * MIB);
    let steps = [Step::Pending, data([0; 100]), Step::Pending, data([0; 100])];
    let body = script(steps, Declares::Exactly);
    let mut sendable = at_once(ReplayBody::new(body).capture(&within(&budget, NO_LIMIT)));
    next(&mut sendable.body);
    assert!(matches!(next(&mut sendable.body), Some(Step::Data(_))));
    drop(sendable.body);
    assert_eq!(budget.kept(), 200);
    let mut again = kept(sendable.again).unwrap();
    assert_eq!(bytes_in(&read(&mut again)), 200);
    drop(again);
    assert_eq!(budget.kept(), 0);
}
