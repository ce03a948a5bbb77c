//! `TokenManager` by its public API: each test is a property, named after the rule that it proves
//! (M1 to M8 of the design). The clock is paused: no test waits, and none looks at a wall clock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use http::StatusCode;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, timeout};
use tower_wechat::{AccessToken, RateLimit, TokenError, TokenManager, TokenSource, source_fn};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};

const DAY: u64 = 24 * 60 * 60;

/// The codes that no retry cures.
const REFUSALS: [i64; 11] = [
    40001, 40002, 40013, 40125, 40164, 40243, 41002, 41004, 45009, 50004, 89503,
];

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a [`Script`] does when it is asked.
#[derive(Clone)]
enum Answer {
    /// A token that it has not given before.
    Fresh,
    Token(&'static str),
    Fail(TokenError),
    PanicAtOnce,
    PanicLater,
    Hang,
}

/// One question to the source.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    at: Instant,
    rejected: Option<String>,
}

/// A source that does as it is told, and remembers what it was asked.
struct Script {
    life: Duration,
    delay: Duration,
    next: Mutex<VecDeque<Answer>>,
    /// When nothing is next.
    usual: Mutex<Answer>,
    asked: Mutex<Vec<Asked>>,
    finished: AtomicUsize,
    given: AtomicUsize,
}

impl Script {
    fn new(life: Duration, delay: Duration) -> Arc<Script> {
        listen();
        Arc::new(Script {
            life,
            delay,
            next: Mutex::default(),
            usual: Mutex::new(Answer::Fresh),
            asked: Mutex::default(),
            finished: AtomicUsize::new(0),
            given: AtomicUsize::new(0),
        })
    }

    /// Tokens of 7200 s, each after 300 ms.
    fn usual() -> Arc<Script> {
        Script::new(secs(7200), millis(300))
    }

    fn will(self: Arc<Self>, answers: impl IntoIterator<Item = Answer>) -> Arc<Script> {
        self.next.lock().unwrap().extend(answers);
        self
    }

    fn always(&self, answer: Answer) {
        *self.usual.lock().unwrap() = answer;
    }

    fn started(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn finished(&self) -> usize {
        self.finished.load(Ordering::SeqCst)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The rejected tokens that it was told of, one for each question.
    fn told(&self) -> Vec<Option<String>> {
        self.asked()
            .into_iter()
            .map(|asked| asked.rejected)
            .collect()
    }

    fn manager(self: &Arc<Self>) -> TokenManager {
        TokenManager::new(self.clone())
    }
}

impl TokenSource for Script {
    fn issue(
        &self,
        rejected: Option<&AccessToken>,
    ) -> impl Future<Output = Result<AccessToken, TokenError>> + Send {
        self.asked.lock().unwrap().push(Asked {
            at: Instant::now(),
            rejected: rejected.map(|token| token.secret().to_owned()),
        });
        let next = self.next.lock().unwrap().pop_front();
        let answer = next.unwrap_or_else(|| self.usual.lock().unwrap().clone());
        assert!(!matches!(answer, Answer::PanicAtOnce), "as the script says");
        async move {
            sleep(self.delay).await;
            let secret = match answer {
                Answer::Fresh => {
                    let number = self.given.fetch_add(1, Ordering::SeqCst) + 1;
                    format!("token-{number}")
                }
                Answer::Token(secret) => secret.to_owned(),
                Answer::Hang => std::future::pending().await,
                Answer::PanicAtOnce | Answer::PanicLater => panic!("as the script says"),
                Answer::Fail(error) => {
                    self.finished.fetch_add(1, Ordering::SeqCst);
                    return Err(error);
                }
            };
            self.finished.fetch_add(1, Ordering::SeqCst);
            Ok(AccessToken::new(secret, self.life))
        }
    }
}

fn refused(errcode: i64) -> Answer {
    Answer::Fail(TokenError::api(errcode, "no"))
}

fn broken() -> Answer {
    Answer::Fail(TokenError::transport("connection reset"))
}

/// A failure that is neither a refusal nor worth a retry.
fn odd() -> Answer {
    Answer::Fail(TokenError::other("odd"))
}

fn token_n(n: usize) -> String {
    format!("token-{n}")
}

/// Gets a token at the first poll.
fn at_once(tokens: &TokenManager) -> AccessToken {
    let token = tokens.token().now_or_never();
    token.expect("a cached token is there").unwrap()
}

/// A current_thread runtime with a paused clock, for tests with several.
fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

thread_local! {
    /// Told of all that is logged on this thread.
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
}

type Listener = Box<dyn FnMut(Level, String)>;

/// One subscriber for all tests, there before anything is logged: subscribers that come and go on
/// other threads can leave a callsite of `tracing`'s switched off.
fn listen() {
    struct Tell;

    impl<S: Subscriber> Layer<S> for Tell {
        fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
            struct Text(String);
            impl Visit for Text {
                fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                    self.0 += &format!("{field}={value:?} ");
                }
            }
            // Taken, so that what a listener itself has logged does not come to it.
            let Some(mut listener) = LISTENER.take() else {
                return;
            };
            let mut text = Text(String::new());
            event.record(&mut text);
            listener(*event.metadata().level(), text.0);
            LISTENER.set(Some(listener));
        }
    }

    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Tell);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// Everything that is logged on this thread from now on.
struct Logs {
    events: Arc<Mutex<Vec<(Level, String)>>>,
}

impl Logs {
    fn capture() -> Logs {
        let events: Arc<Mutex<Vec<_>>> = Arc::default();
        let log = events.clone();
        LISTENER.set(Some(Box::new(move |level, text| {
            log.lock().unwrap().push((level, text));
        })));
        Logs { events }
    }

    fn warnings(&self, about: &str) -> usize {
        self.count(Level::WARN, about)
    }

    fn infos(&self, about: &str) -> usize {
        self.count(Level::INFO, about)
    }

    fn count(&self, at: Level, about: &str) -> usize {
        let events = self.events.lock().unwrap();
        let about = |(level, text): &&(Level, String)| *level == at && text.contains(about);
        events.iter().filter(about).count()
    }
}

const OVER_BUDGET: &str = "budget is used up";
const RIVAL: &str = "soon after it was issued";

// M1: a valid cached token is read without an await, an allocation or a contended lock.

#[tokio::test(start_paused = true)]
async fn m1_a_cached_token_is_read_in_one_poll() {
    let tokens = Script::usual().manager();
    let first = tokens.token().await.unwrap();
    let mut again = pin!(tokens.token());
    let Poll::Ready(again) = again.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("a cached token is waited for");
    };
    assert_eq!(again.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn m1_a_cached_token_is_read_in_one_poll_while_its_renewal_is_in_the_air() {
    let source = Script::usual().will([Answer::Fresh, Answer::Hang]);
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    sleep(secs(7000)).await;
    for _ in 0..100 {
        assert_eq!(at_once(&tokens), first);
        tokio::task::yield_now().await;
    }
    assert_eq!(source.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn m1_cached_asks_for_nothing() {
    let source = Script::usual();
    let tokens = source.manager();
    assert!(tokens.cached().is_none());
    sleep(secs(60)).await;
    assert_eq!(source.started(), 0);

    let first = tokens.token().await.unwrap();
    sleep(secs(7000)).await;
    assert_eq!(tokens.cached(), Some(first));
    sleep(secs(60)).await;
    assert_eq!(source.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn m1_clones_are_one_manager() {
    let source = Script::usual();
    let tokens = source.manager();
    let first = tokens.clone().token().await.unwrap();
    assert_eq!(at_once(&tokens), first);
    assert_eq!(source.started(), 1);
}

#[test]
fn m1_a_cached_token_is_read_where_no_runtime_is() {
    let tokens = Script::usual().manager();
    let runtime = runtime();
    let first = runtime.block_on(tokens.token()).unwrap();
    drop(runtime);
    assert_eq!(at_once(&tokens), first);
    assert_eq!(tokens.cached(), Some(first));
}

// M2: single flight, in a task of its own with its own timeout.

#[tokio::test(start_paused = true)]
async fn m2_a_thousand_callers_are_one_issue() {
    let source = Script::usual();
    let tokens = source.manager();
    let all = join_all((0..1000).map(|_| tokens.token())).await;
    assert!(
        all.iter()
            .all(|token| token.as_ref().unwrap().secret() == "token-1")
    );
    assert_eq!((source.started(), source.finished()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn m2_a_thousand_callers_on_many_threads_are_one_issue() {
    let source = Script::new(secs(7200), millis(20));
    let tokens = source.manager();
    let ask = |_| {
        tokio::spawn({
            let tokens = tokens.clone();
            async move { tokens.token().await }
        })
    };
    let all = join_all((0..1000).map(ask)).await;
    assert!(
        all.into_iter()
            .all(|token| token.unwrap().unwrap().secret() == "token-1")
    );
    assert_eq!(source.started(), 1);

    // And a thousand who report the same rejection.
    let rejected = tokens.token().await.unwrap();
    let report = |_| {
        let (tokens, rejected) = (tokens.clone(), rejected.clone());
        tokio::spawn(async move { tokens.refresh(&rejected).await })
    };
    let all = join_all((0..1000).map(report)).await;
    assert!(
        all.into_iter()
            .all(|token| token.unwrap().unwrap().secret() == "token-2")
    );
    assert_eq!(source.started(), 2);
}

// Trap 4: the refresh dies with its caller (futures-rs#2706).
#[tokio::test(start_paused = true)]
async fn m2_trap_4_callers_with_less_patience_than_the_source_start_one_issue_and_it_finishes() {
    let source = Script::usual();
    let tokens = source.manager();
    // One after the other, 100 ms each, against 300 ms.
    for _ in 0..3 {
        assert!(timeout(millis(99), tokens.token()).await.is_err());
    }
    assert_eq!((source.started(), source.finished()), (1, 0));
    sleep(millis(10)).await;
    assert_eq!((source.started(), source.finished()), (1, 1));
    assert_eq!(at_once(&tokens).secret(), "token-1");
}

// Trap 4, all at once.
#[tokio::test(start_paused = true)]
async fn m2_trap_4_twenty_impatient_callers_start_one_issue_and_the_next_is_served_from_the_cache()
{
    let source = Script::usual();
    let tokens = source.manager();
    let all = join_all((0..20).map(|_| timeout(millis(100), tokens.token()))).await;
    assert!(all.iter().all(Result::is_err));
    sleep(millis(300)).await;
    assert_eq!((source.started(), source.finished()), (1, 1));
    assert_eq!(at_once(&tokens).secret(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn m2_a_refresh_lands_when_all_who_wanted_it_are_gone() {
    let source = Script::usual();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    assert!(timeout(millis(1), tokens.refresh(&first)).await.is_err());
    sleep(millis(300)).await;
    assert_eq!(at_once(&tokens).secret(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn m2_the_flight_lands_when_the_last_manager_is_dropped() {
    let source = Script::usual();
    let tokens = source.manager();
    assert!(timeout(millis(1), tokens.token()).await.is_err());
    drop(tokens);
    sleep(millis(300)).await;
    assert_eq!(source.finished(), 1);
}

async fn panics_are_shared_and_overcome(answer: Answer) {
    let source = Script::usual().will([answer]);
    let tokens = source.manager();
    let all = join_all((0..10).map(|_| tokens.token())).await;
    assert!(
        all.iter()
            .all(|token| matches!(token, Err(TokenError::Panicked)))
    );
    assert_eq!(source.started(), 1);
    assert_eq!(tokens.token().await.unwrap().secret(), "token-1");
}

// Trap 5: a flight stranded by a panic.
#[tokio::test(start_paused = true)]
async fn m2_trap_5_a_panic_in_issue_is_an_error_for_all_who_wait_and_the_next_call_starts_anew() {
    panics_are_shared_and_overcome(Answer::PanicAtOnce).await;
}

// Trap 5.
#[tokio::test(start_paused = true)]
async fn m2_trap_5_a_panic_in_its_future_is_an_error_for_all_who_wait_and_the_next_call_starts_anew()
 {
    panics_are_shared_and_overcome(Answer::PanicLater).await;
}

// Trap 5: a flight stranded by a hang.
#[tokio::test(start_paused = true)]
async fn m2_trap_5_a_source_that_never_returns_is_a_timeout_and_the_next_call_starts_anew() {
    let source = Script::usual().will([Answer::Hang]);
    let tokens = TokenManager::builder(source.clone())
        .issue_timeout(secs(5))
        .build();
    let start = Instant::now();
    let all = join_all((0..10).map(|_| tokens.token())).await;
    for token in all {
        let Err(TokenError::Timeout { after, .. }) = token else {
            panic!("{token:?}");
        };
        assert_eq!(after, secs(5));
    }
    assert!(start.elapsed() <= millis(5010), "{:?}", start.elapsed());
    assert_eq!(source.started(), 1);
    assert_eq!(tokens.token().await.unwrap().secret(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn m2_the_timeout_is_ten_seconds_where_not_set() {
    let tokens = Script::usual().will([Answer::Hang]).manager();
    let start = Instant::now();
    tokens.token().await.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 10);
}

// Trap 5: a flight stranded by a dead runtime.
#[test]
fn m2_trap_5_a_flight_whose_runtime_was_dropped_is_started_anew() {
    let source = Script::usual();
    let tokens = source.manager();
    let a = runtime();
    assert!(
        a.block_on(async { timeout(millis(1), tokens.token()).await })
            .is_err()
    );
    drop(a);
    assert_eq!(
        runtime().block_on(tokens.token()).unwrap().secret(),
        "token-1"
    );
    assert_eq!((source.started(), source.finished()), (2, 1));
}

// Trap 5: its runtime is dropped while somebody else waits.
#[test]
fn m2_trap_5_who_waits_for_a_flight_of_a_runtime_that_is_dropped_starts_it_anew() {
    let source = Script::usual();
    let tokens = source.manager();
    let a = runtime();
    assert!(
        a.block_on(async { timeout(millis(1), tokens.token()).await })
            .is_err()
    );
    let token = runtime().block_on(async {
        let mut token = pin!(tokens.token());
        // It waits for the flight of A.
        assert!(
            poll_fn(|cx| Poll::Ready(token.as_mut().poll(cx)))
                .await
                .is_pending()
        );
        a.shutdown_background();
        token.await
    });
    assert_eq!(token.unwrap().secret(), "token-1");
    assert_eq!(source.started(), 2);
}

// Trap 5: a runtime that exists and that nobody drives keeps no timeout of its flight's.
#[test]
fn m2_trap_5_a_flight_whose_runtime_is_no_longer_driven_is_given_up() {
    let source = Script::usual();
    let tokens = source.manager();
    let a = runtime();
    assert!(
        a.block_on(async { timeout(millis(1), tokens.token()).await })
            .is_err()
    );
    let (token, waited) = runtime().block_on(async {
        let start = Instant::now();
        (tokens.token().await, start.elapsed())
    });
    assert_eq!(token.unwrap().secret(), "token-1");
    assert!(waited < secs(15), "{waited:?}");
    // Driven again, the lost one may not overwrite what came after.
    a.block_on(async { sleep(secs(1)).await });
    assert_eq!(source.finished(), 2);
    assert_eq!(at_once(&tokens).secret(), "token-1");
}

// Trap 5: such a runtime drops the flight's task as it is spawned.
#[test]
fn m2_trap_5_a_runtime_that_is_shut_down_is_an_error_and_no_deadlock() {
    let source = Script::usual();
    let tokens = source.manager();
    let a = runtime();
    let handle = a.handle().clone();
    drop(a);
    let entered = handle.enter();
    let token = tokens.token().now_or_never().expect("an answer at once");
    assert!(matches!(token, Err(TokenError::NoRuntime)));
    drop(entered);
    assert_eq!(
        runtime().block_on(tokens.token()).unwrap().secret(),
        "token-1"
    );
}

#[test]
fn m2_no_runtime_at_all_is_an_error_and_no_panic() {
    let source = Script::usual();
    let tokens = source.manager();
    let token = tokens.token().now_or_never().expect("an answer at once");
    assert!(matches!(token, Err(TokenError::NoRuntime)));
    let other = AccessToken::new("other", secs(1));
    let token = tokens
        .refresh(&other)
        .now_or_never()
        .expect("an answer at once");
    assert!(matches!(token, Err(TokenError::NoRuntime)));
    assert_eq!(source.started(), 0);
}

// Trap 17: a dropped refresher leaves everybody waiting (wechat-minapp 3.4.3).
#[tokio::test(start_paused = true)]
async fn m2_trap_17_the_caller_who_set_it_off_goes_away_and_the_others_get_the_token() {
    let source = Script::usual();
    let tokens = source.manager();
    let mut first = Box::pin(tokens.token());
    assert!(first.as_mut().now_or_never().is_none());
    let others = join_all((0..10).map(|_| tokens.token()));
    let go_away = async {
        sleep(millis(100)).await;
        drop(first);
    };
    let (others, ()) = tokio::join!(others, go_away);
    assert!(
        others
            .iter()
            .all(|token| token.as_ref().unwrap().secret() == "token-1")
    );
    assert_eq!(source.started(), 1);
}

// M3: compare, then refresh.

#[tokio::test(start_paused = true)]
async fn m3_a_refresh_replaces_the_rejected_token_and_tells_the_source_of_it() {
    let source = Script::usual();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    assert_eq!(tokens.refresh(&first).await.unwrap().secret(), "token-2");
    assert_eq!(at_once(&tokens).secret(), "token-2");
    assert_eq!(source.told(), [None, Some(token_n(1))]);
}

#[tokio::test(start_paused = true)]
async fn m3_many_rejections_of_one_token_are_one_issue() {
    let source = Script::usual();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    let all = join_all((0..1000).map(|_| tokens.refresh(&first))).await;
    assert!(
        all.iter()
            .all(|token| token.as_ref().unwrap().secret() == "token-2")
    );
    assert_eq!(source.started(), 2);
}

// Trap 6: a late rejection of the old token wipes the new one (azure-sdk-for-cpp#6151).
#[tokio::test(start_paused = true)]
async fn m3_trap_6_a_late_rejection_of_an_old_token_gives_the_newer_one() {
    let source = Script::usual();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    let second = tokens.refresh(&first).await.unwrap();
    for _ in 0..100 {
        let late = tokens.refresh(&first).now_or_never().expect("no waiting");
        assert_eq!(late.unwrap(), second);
    }
    assert_eq!(tokens.cached(), Some(second));
    assert_eq!(source.started(), 2);
}

// Trap 6 (smithy-rs#4766).
#[tokio::test(start_paused = true)]
async fn m3_trap_6_a_late_rejection_of_a_token_that_a_renewal_replaced_gives_the_newer_one() {
    let source = Script::usual();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    sleep(secs(7000)).await;
    at_once(&tokens);
    sleep(secs(1)).await;
    let late = tokens.refresh(&first).now_or_never().expect("no waiting");
    assert_eq!(late.unwrap().secret(), "token-2");
    assert_eq!(source.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn m3_a_late_rejection_does_not_wait_for_a_refresh_of_the_newer_token() {
    let source = Script::usual();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    let second = tokens.refresh(&first).await.unwrap();
    let mut refresh = pin!(tokens.refresh(&second));
    assert!(refresh.as_mut().now_or_never().is_none());
    let late = tokens.refresh(&first).now_or_never().expect("no waiting");
    assert_eq!(late.unwrap(), second);
}

// Trap 7: "refresh" returns the token that was rejected (node-webot/wechat-api#81).
#[tokio::test(start_paused = true)]
async fn m3_trap_7_a_flight_that_knew_of_no_rejection_and_brings_the_rejected_token_is_followed_by_one_that_knows()
 {
    let same = Answer::Token("same");
    let source = Script::usual().will([same.clone(), same, Answer::Fresh]);
    let tokens = source.manager();
    let rejected = tokens.token().await.unwrap();
    sleep(secs(7000)).await;
    // The renewal takes off, and then the token is rejected.
    at_once(&tokens);
    let all = join_all((0..10).map(|_| tokens.refresh(&rejected))).await;
    assert!(
        all.iter()
            .all(|token| token.as_ref().unwrap().secret() == "token-1")
    );
    assert_eq!(source.told(), [None, None, Some("same".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn m3_a_flight_that_knew_of_no_rejection_and_brings_another_token_will_do() {
    let source = Script::usual();
    let tokens = source.manager();
    let rejected = tokens.token().await.unwrap();
    sleep(secs(7000)).await;
    at_once(&tokens);
    assert_eq!(tokens.refresh(&rejected).await.unwrap().secret(), "token-2");
    assert_eq!(source.told(), [None, None]);
}

// Trap 7 (WxJava in stable mode): the layer compares, and hands the rejection on.
#[tokio::test(start_paused = true)]
async fn m3_trap_7_a_source_that_was_told_and_has_no_other_token_gives_the_rejected_one() {
    let same = Answer::Token("same");
    let source = Script::usual().will([same.clone(), same]);
    let tokens = source.manager();
    let rejected = tokens.token().await.unwrap();
    assert_eq!(tokens.refresh(&rejected).await.unwrap(), rejected);
    assert_eq!(source.told(), [None, Some("same".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn m3_the_rejection_of_a_token_from_elsewhere_fetches_the_first_one() {
    let source = Script::usual();
    let tokens = source.manager();
    let elsewhere = AccessToken::new("elsewhere", secs(7200));
    assert_eq!(
        tokens.refresh(&elsewhere).await.unwrap().secret(),
        "token-1"
    );
    assert_eq!(source.told(), [Some("elsewhere".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn m3_tokens_are_compared_by_their_secret() {
    let source = Script::usual();
    let tokens = source.manager();
    tokens.token().await.unwrap();
    let same = AccessToken::new("token-1", secs(1));
    assert_eq!(tokens.refresh(&same).await.unwrap().secret(), "token-2");
}

// M4: one background renewal ahead of expiry.

/// When a token of this life is renewed, as many times as there are managers.
async fn margins(life: Duration, refresh_before: Option<Duration>) -> Vec<Duration> {
    let mut margins = Vec::new();
    for _ in 0..64 {
        let source = Script::new(life, Duration::ZERO);
        let mut builder = TokenManager::builder(source.clone());
        if let Some(before) = refresh_before {
            builder = builder.refresh_before(before);
        }
        let tokens = builder.build();
        let guard = tokens.keep_fresh();
        while source.started() < 2 {
            sleep(life / 200).await;
        }
        drop(guard);
        let asked = source.asked();
        let used = asked[1].at - asked[0].at;
        margins.push(life - used);
    }
    margins
}

fn within(margins: &[Duration], least: Duration, most: Duration) -> bool {
    // Timers are a few milliseconds late.
    let least = least.saturating_sub(millis(20));
    margins.iter().all(|margin| (least..=most).contains(margin))
}

#[tokio::test(start_paused = true)]
async fn m4_a_token_of_wechats_is_renewed_216_to_270_s_before_its_expiry() {
    let margins = margins(secs(7200), None).await;
    assert!(within(&margins, secs(216), secs(270)), "{margins:?}");
}

#[tokio::test(start_paused = true)]
async fn m4_the_margin_is_scaled_to_a_short_life() {
    for life in [10, 60, 600, 2400] {
        let margins = margins(secs(life), None).await;
        let most = secs(life) / 10;
        assert!(within(&margins, most * 8 / 10, most), "{life}: {margins:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn m4_refresh_before_is_honoured() {
    let margins = margins(secs(7200), Some(secs(1000))).await;
    assert!(within(&margins, secs(800), secs(1000)), "{margins:?}");
}

#[tokio::test(start_paused = true)]
async fn m4_refresh_before_is_at_most_half_a_life() {
    let margins = margins(secs(100), Some(Duration::MAX)).await;
    assert!(within(&margins, secs(40), secs(50)), "{margins:?}");
}

#[tokio::test(start_paused = true)]
async fn m4_machines_that_fetched_together_do_not_renew_together() {
    let mut margins = margins(secs(7200), None).await;
    margins.sort();
    margins.dedup();
    assert!(margins.len() > 32, "{margins:?}");
    assert!(
        margins[margins.len() - 1] - margins[0] > secs(20),
        "{margins:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn m4_a_renewal_is_one_and_everybody_goes_on_with_the_old_token() {
    let source = Script::new(secs(7200), secs(5));
    let tokens = source.manager();
    let old = tokens.token().await.unwrap();
    sleep(secs(7000)).await;
    for _ in 0..1000 {
        assert_eq!(at_once(&tokens), old);
    }
    sleep(secs(4)).await;
    assert_eq!(at_once(&tokens), old);
    sleep(secs(2)).await;
    assert_eq!(at_once(&tokens).secret(), "token-2");
    assert_eq!(source.told(), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn m4_nothing_is_renewed_before_its_time() {
    let source = Script::usual();
    let tokens = source.manager();
    tokens.token().await.unwrap();
    sleep(secs(7200 - 271)).await;
    at_once(&tokens);
    sleep(secs(1)).await;
    assert_eq!(source.started(), 1);
}

/// A source that could give the current token again, out of a store of shared ones, and says what
/// it was asked.
struct Sharing(Arc<Mutex<Vec<String>>>);

impl TokenSource for Sharing {
    async fn issue(&self, rejected: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
        let instead = rejected.map_or("any", AccessToken::secret);
        self.0.lock().unwrap().push(format!("instead of {instead}"));
        Ok(AccessToken::new("issued", secs(7200)))
    }

    async fn renew(&self, current: &AccessToken) -> Result<AccessToken, TokenError> {
        self.0
            .lock()
            .unwrap()
            .push(format!("after {}", current.secret()));
        Ok(AccessToken::new("renewed", secs(7200)))
    }
}

#[tokio::test(start_paused = true)]
async fn m4_a_source_is_told_of_a_renewal_and_which_token_is_to_be_followed() {
    let asked = Arc::default();
    // Wrapped, as sources may be.
    let tokens = TokenManager::new(Arc::new(Sharing(Arc::clone(&asked))));
    let first = tokens.token().await.unwrap();
    sleep(secs(7000)).await;
    assert_eq!(at_once(&tokens), first);
    while at_once(&tokens) == first {
        sleep(millis(1)).await;
    }
    let renewed = at_once(&tokens);
    tokens.refresh(&renewed).await.unwrap();
    let asked = asked.lock().unwrap();
    assert_eq!(
        *asked,
        ["instead of any", "after issued", "instead of renewed"]
    );
}

#[tokio::test(start_paused = true)]
async fn m4_there_is_never_an_empty_moment() {
    let source = Script::new(secs(100), secs(2));
    let tokens = source.manager();
    tokens.token().await.unwrap();
    for _ in 0..5000 {
        at_once(&tokens);
        assert!(tokens.cached().is_some());
        sleep(millis(100)).await;
    }
    assert_eq!(source.started(), 1 + 5);
}

#[tokio::test(start_paused = true)]
async fn m4_there_is_never_an_empty_moment_in_a_refresh() {
    let source = Script::usual();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    let mut refresh = pin!(tokens.refresh(&first));
    while refresh.as_mut().now_or_never().is_none() {
        assert!(tokens.cached().is_some());
        sleep(millis(10)).await;
    }
    assert_eq!(tokens.cached().unwrap().secret(), "token-2");
}

// M5: failures.

/// A manager whose token is about to be renewed.
async fn due_for_renewal(source: &Arc<Script>) -> (TokenManager, AccessToken) {
    let tokens = source.manager();
    let old = tokens.token().await.unwrap();
    sleep(secs(7200 - 216)).await;
    (tokens, old)
}

// Trap 9: a failed early refresh displaces a live token (google-cloud-rust#5809).
#[tokio::test(start_paused = true)]
async fn m5_trap_9_a_failed_renewal_keeps_the_old_token_until_it_really_expires() {
    for failure in [
        refused(40164),
        refused(-1),
        broken(),
        odd(),
        Answer::PanicLater,
        Answer::Hang,
    ] {
        let source = Script::usual();
        let (tokens, old) = due_for_renewal(&source).await;
        source.always(failure);
        for _ in 0..215 {
            assert_eq!(at_once(&tokens), old);
            sleep(secs(1)).await;
        }
        assert!(source.started() > 1);
        sleep(secs(2)).await;
        assert!(tokens.cached().is_none());
        tokens.token().await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn m5_a_failing_renewal_backs_off() {
    let source = Script::usual();
    let (tokens, old) = due_for_renewal(&source).await;
    source.always(odd());
    for _ in 0..2150 {
        assert_eq!(at_once(&tokens), old);
        sleep(millis(100)).await;
    }
    let asked = source.asked();
    let renewals = asked.len() - 1;
    assert!((5..=15).contains(&renewals), "{renewals}");
    let pauses: Vec<_> = asked[1..]
        .windows(2)
        .map(|pair| pair[1].at - pair[0].at)
        .collect();
    assert!(pauses[0] >= secs(1), "{pauses:?}");
    assert!(pauses[pauses.len() - 1] >= secs(30), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn m5_a_refused_renewal_rests_for_30_s() {
    let source = Script::usual();
    let (tokens, old) = due_for_renewal(&source).await;
    source.always(refused(45009));
    for _ in 0..2150 {
        assert_eq!(at_once(&tokens), old);
        sleep(millis(100)).await;
    }
    let renewals = source.started() - 1;
    assert!((3..=8).contains(&renewals), "{renewals}");
}

#[tokio::test(start_paused = true)]
async fn m5_a_renewal_that_failed_recovers_by_itself() {
    let source = Script::usual();
    let (tokens, old) = due_for_renewal(&source).await;
    source.always(odd());
    for _ in 0..60 {
        assert_eq!(at_once(&tokens), old);
        sleep(secs(1)).await;
    }
    source.always(Answer::Fresh);
    for _ in 0..70 {
        at_once(&tokens);
        sleep(secs(1)).await;
    }
    assert_eq!(at_once(&tokens).secret(), "token-2");
}

// Trap 9: one "permanent" error ends refreshing for good (google-cloud-rust#4541, #5864).
#[tokio::test(start_paused = true)]
async fn m5_trap_9_no_error_ends_refreshing_for_good() {
    let mut failures: Vec<Answer> = REFUSALS.into_iter().map(refused).collect();
    failures.extend([
        odd(),
        broken(),
        Answer::PanicAtOnce,
        Answer::PanicLater,
        Answer::Hang,
    ]);
    for status in [StatusCode::NOT_FOUND, StatusCode::BAD_GATEWAY] {
        failures.push(Answer::Fail(TokenError::Status(status)));
    }
    for failure in failures {
        let source = Script::usual();
        source.always(failure);
        let tokens = source.manager();
        for _ in 0..3 {
            tokens.token().await.unwrap_err();
            sleep(secs(601)).await;
        }
        source.always(Answer::Fresh);
        assert_eq!(tokens.token().await.unwrap().secret(), "token-1");
    }
}

#[tokio::test(start_paused = true)]
async fn m5_a_refusal_is_remembered_for_30_s() {
    for errcode in REFUSALS {
        let source = Script::usual().will([refused(errcode)]);
        let tokens = source.manager();
        for _ in 0..1000 {
            assert_eq!(tokens.token().await.unwrap_err().errcode(), Some(errcode));
        }
        sleep(millis(29_900)).await;
        assert_eq!(tokens.token().await.unwrap_err().errcode(), Some(errcode));
        assert_eq!(source.started(), 1, "{errcode}");
        sleep(millis(200)).await;
        assert_eq!(tokens.token().await.unwrap().secret(), "token-1");
    }
}

#[tokio::test(start_paused = true)]
async fn m5_too_many_requests_this_minute_are_remembered_for_a_minute() {
    let source = Script::usual();
    source.always(refused(45011));
    let tokens = source.manager();
    let start = Instant::now();
    while start.elapsed() < secs(600) {
        tokens.token().await.unwrap_err();
        sleep(secs(1)).await;
    }
    let asked = source.started();
    assert!((9..=11).contains(&asked), "{asked} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn m5_a_refusal_that_stays_the_same_is_remembered_for_longer_and_for_ten_minutes_at_most() {
    let source = Script::new(secs(7200), Duration::ZERO);
    source.always(refused(40164));
    let tokens = source.manager();
    let start = Instant::now();
    while start.elapsed() < secs(DAY) {
        tokens.token().await.unwrap_err();
        sleep(secs(1)).await;
    }
    let asked = source.asked();
    let pauses = asked
        .windows(2)
        .map(|pair| (pair[1].at - pair[0].at).as_secs());
    let pauses: Vec<_> = pauses.collect();
    // Asked once a second.
    assert_eq!(pauses[..5], [30, 60, 120, 240, 480], "{pauses:?}");
    assert!(pauses[5..].iter().all(|pause| *pause == 600), "{pauses:?}");
    // Mended at last: the next question is well.
    source.always(Answer::Fresh);
    sleep(secs(600)).await;
    tokens.token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn m5_another_refusal_is_remembered_for_30_s_again() {
    let codes = [40164, 40164, 40164, 89503, 40164];
    let source = Script::new(secs(7200), Duration::ZERO).will(codes.map(refused));
    let tokens = source.manager();
    while source.started() < 6 {
        let _ = tokens.token().await;
        sleep(secs(1)).await;
    }
    let asked = source.asked();
    let pauses = asked
        .windows(2)
        .map(|pair| (pair[1].at - pair[0].at).as_secs());
    assert_eq!(pauses.collect::<Vec<_>>(), [30, 60, 120, 30, 30]);
}

// `stable_token` refuses to force past its quota, and gives tokens without force all the same.
#[tokio::test(start_paused = true)]
async fn m5_a_refusal_of_a_forced_request_holds_back_forced_requests_only() {
    let source = Script::new(secs(600), Duration::ZERO).will([Answer::Fresh, refused(45009)]);
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    sleep(secs(530)).await;
    assert_eq!(
        tokens.refresh(&first).await.unwrap_err().errcode(),
        Some(45009)
    );
    sleep(secs(25)).await;
    // Renewed ahead of its end, within the 30 s.
    at_once(&tokens);
    sleep(millis(1)).await;
    let second = at_once(&tokens);
    assert_eq!(second.secret(), "token-2");
    // A forced one is still held back.
    assert_eq!(
        tokens.refresh(&second).await.unwrap_err().errcode(),
        Some(45009)
    );
    assert_eq!(source.started(), 3);
}

#[tokio::test(start_paused = true)]
async fn m5_recovery_after_a_failure_that_was_warned_of_is_logged_at_info_once() {
    let logs = Logs::capture();
    let source = Script::usual().will([refused(40164)]);
    let tokens = source.manager();
    tokens.token().await.unwrap_err();
    assert_eq!(logs.infos("access_token again"), 0);
    sleep(secs(31)).await;
    let first = tokens.token().await.unwrap();
    assert_eq!(logs.infos("access_token again"), 1);
    tokens.refresh(&first).await.unwrap();
    assert_eq!(logs.infos("access_token again"), 1);
}

#[tokio::test(start_paused = true)]
async fn m5_the_memory_of_a_refusal_holds_back_a_refresh() {
    for errcode in REFUSALS {
        let source = Script::usual().will([Answer::Fresh, refused(errcode)]);
        let tokens = source.manager();
        let first = tokens.token().await.unwrap();
        for _ in 0..1000 {
            let error = tokens.refresh(&first).await.unwrap_err();
            assert_eq!(error.errcode(), Some(errcode));
        }
        assert_eq!(source.started(), 2, "{errcode}");
        assert_eq!(at_once(&tokens), first);
        sleep(secs(31)).await;
        assert_eq!(tokens.refresh(&first).await.unwrap().secret(), "token-2");
    }
}

#[tokio::test(start_paused = true)]
async fn m5_a_refused_renewal_holds_back_a_refresh() {
    let source = Script::usual();
    let (tokens, old) = due_for_renewal(&source).await;
    source.always(refused(40243));
    at_once(&tokens);
    sleep(secs(1)).await;
    let error = tokens.refresh(&old).now_or_never().expect("no waiting");
    assert_eq!(error.unwrap_err().errcode(), Some(40243));
    assert_eq!(source.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn m5_a_success_forgets_a_refusal() {
    let source = Script::usual().will([refused(45009)]);
    let tokens = source.manager();
    tokens.token().await.unwrap_err();
    sleep(secs(31)).await;
    let first = tokens.token().await.unwrap();
    assert_eq!(tokens.refresh(&first).await.unwrap().secret(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn m5_what_a_retry_may_cure_is_retried_within_the_same_flight() {
    let passing = [
        TokenError::api(-1, "system error"),
        TokenError::Status(StatusCode::BAD_GATEWAY),
        TokenError::Status(StatusCode::SERVICE_UNAVAILABLE),
        TokenError::transport("connection reset"),
    ];
    for error in passing {
        let fail = Answer::Fail(error);
        let source = Script::usual().will([fail.clone(), fail]);
        let tokens = source.manager();
        let all = join_all((0..10).map(|_| tokens.token())).await;
        assert!(
            all.iter()
                .all(|token| token.as_ref().unwrap().secret() == "token-1")
        );
        assert_eq!(source.started(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn m5_a_retry_is_told_of_the_rejected_token_too() {
    let source = Script::usual().will([Answer::Fresh, broken()]);
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    tokens.refresh(&first).await.unwrap();
    assert_eq!(source.told(), [None, Some(token_n(1)), Some(token_n(1))]);
}

#[tokio::test(start_paused = true)]
async fn m5_retries_come_to_an_end_within_issue_timeout_and_the_next_call_starts_anew() {
    let source = Script::usual();
    source.always(broken());
    let tokens = TokenManager::builder(source.clone())
        .issue_timeout(secs(1))
        .build();
    let start = Instant::now();
    let error = tokens.token().await.unwrap_err();
    assert!(matches!(error, TokenError::Transport(_)), "{error:?}");
    assert!(start.elapsed() <= millis(1010));
    let attempts = source.started();
    assert!((2..=4).contains(&attempts), "{attempts}");

    source.always(Answer::Fresh);
    assert_eq!(tokens.token().await.unwrap().secret(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn m5_an_outage_is_a_handful_of_attempts_for_each_flight() {
    let source = Script::new(secs(7200), Duration::ZERO);
    source.always(refused(-1));
    let tokens = source.manager();
    let error = tokens.token().await.unwrap_err();
    assert_eq!(error.errcode(), Some(-1));
    assert_eq!(source.started(), 4);
}

#[tokio::test(start_paused = true)]
async fn m5_an_hours_outage_with_callers_all_the_time_spares_the_days_quota() {
    let source = Script::new(secs(7200), Duration::ZERO);
    source.always(refused(-1));
    let tokens = source.manager();
    let start = Instant::now();
    while start.elapsed() < secs(3600) {
        tokens.token().await.unwrap_err();
        sleep(millis(10)).await;
    }
    let attempts = source.started();
    assert!(attempts < 2000, "{attempts}");

    source.always(Answer::Fresh);
    sleep(secs(10)).await;
    assert_eq!(tokens.token().await.unwrap().secret(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn m5_a_retry_that_hangs_ends_with_the_flight() {
    let source = Script::usual().will([broken(), Answer::Hang]);
    let tokens = source.manager();
    let start = Instant::now();
    tokens.token().await.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn m5_what_a_retry_cannot_cure_is_not_retried() {
    for error in [
        TokenError::Status(StatusCode::NOT_FOUND),
        TokenError::other("odd"),
        TokenError::api(40013, "invalid appid"),
    ] {
        let source = Script::usual().will([Answer::Fail(error)]);
        source.manager().token().await.unwrap_err();
        assert_eq!(source.started(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn m5_one_failure_is_shared_by_all_who_waited() {
    for failure in [
        refused(40013),
        odd(),
        Answer::Fail(TokenError::Status(StatusCode::FORBIDDEN)),
    ] {
        let source = Script::usual().will([failure]);
        let tokens = source.manager();
        let all = join_all((0..1000).map(|_| tokens.token())).await;
        let texts: Vec<_> = all
            .into_iter()
            .map(|token| token.unwrap_err().to_string())
            .collect();
        assert!(texts.iter().all(|text| *text == texts[0]));
        assert_eq!(source.started(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn m5_a_failed_flight_is_told_in_one_warn() {
    let logs = Logs::capture();
    let tokens = Script::usual().will([refused(40164)]).manager();
    join_all((0..100).map(|_| tokens.token())).await;
    assert_eq!(logs.warnings("no new access_token"), 1);
    assert_eq!(logs.warnings("allow-list"), 1);
}

// M6: the budget of refreshes.

/// Rejects the current token; whether another came.
async fn reject(tokens: &TokenManager) -> bool {
    let current = tokens.token().await.unwrap();
    match tokens.refresh(&current).await {
        Ok(_) => true,
        Err(TokenError::OverBudget) => false,
        Err(error) => panic!("{error}"),
    }
}

// Trap 8: endless refresh burns the day's quota (WxJava#1381, #1481; wechatpy#629).
#[tokio::test(start_paused = true)]
async fn m6_trap_8_refreshes_are_a_burst_of_five_and_then_one_a_minute() {
    let source = Script::new(secs(7200), Duration::ZERO);
    let tokens = source.manager();
    tokens.token().await.unwrap();
    let start = Instant::now();
    while start.elapsed() < secs(3600) {
        reject(&tokens).await;
        sleep(millis(500)).await;
    }
    let refreshes = source.started() - 1;
    assert!((63..=65).contains(&refreshes), "{refreshes}");
}

// Trap 8: a day of it stays under WeChat's 2000.
#[tokio::test(start_paused = true)]
async fn m6_trap_8_a_day_of_rejections_stays_under_wechats_quota() {
    let source = Script::new(secs(7200), Duration::ZERO);
    let tokens = source.manager();
    let start = Instant::now();
    while start.elapsed() < secs(DAY) {
        reject(&tokens).await;
        sleep(secs(10)).await;
    }
    assert!(source.started() < 1500, "{}", source.started());
}

// Trap 18: a body that contains `&access_token=` makes WeChat reject a valid token (WxJava#1087).
#[tokio::test(start_paused = true)]
async fn m6_trap_18_tokens_that_are_always_rejected_cost_a_burst_and_the_warn_may_say_why() {
    let logs = Logs::capture();
    let source = Script::new(secs(7200), Duration::ZERO);
    let tokens = source.manager();
    for _ in 0..1000 {
        reject(&tokens).await;
    }
    assert_eq!(source.started(), 1 + 5);
    assert_eq!(logs.warnings("in their body"), 1);
}

#[tokio::test(start_paused = true)]
async fn m6_a_source_that_gives_the_rejected_token_again_is_asked_after_growing_pauses() {
    let source = Script::new(secs(7200), Duration::ZERO);
    source.always(Answer::Token("good"));
    let tokens = source.manager();
    tokens.token().await.unwrap();
    let start = Instant::now();
    while start.elapsed() < secs(300) {
        assert!(reject(&tokens).await, "it costs no budget");
        sleep(millis(100)).await;
    }
    let asked = source.asked();
    let pauses = asked[1..]
        .windows(2)
        .map(|pair| (pair[1].at - pair[0].at).as_secs());
    let pauses: Vec<_> = pauses.collect();
    assert_eq!(pauses[..5], [1, 2, 4, 8, 16], "{pauses:?}");
    assert!(pauses[5..].iter().all(|pause| *pause == 30), "{pauses:?}");
    // The budget is as it was.
    source.always(Answer::Fresh);
    sleep(secs(30)).await;
    for _ in 0..5 {
        let current = tokens.token().await.unwrap();
        assert_ne!(tokens.refresh(&current).await.unwrap(), current);
    }
}

// A company's own service publishes the new token a second late.
#[tokio::test(start_paused = true)]
async fn m6_a_store_that_lags_behind_is_asked_again_after_a_second_and_nobody_is_shut_out() {
    let died_at = Instant::now() + secs(60);
    let tokens = TokenManager::new(source_fn(move |_| async move {
        let name = match Instant::now() < died_at + secs(1) {
            true => "old",
            false => "new",
        };
        Ok(AccessToken::new(name, secs(7200)))
    }));
    let old = tokens.token().await.unwrap();
    sleep(secs(60)).await;
    for _ in 0..5 {
        assert_eq!(tokens.refresh(&old).await.unwrap(), old);
        sleep(millis(50)).await;
    }
    sleep(millis(800)).await;
    assert_eq!(tokens.refresh(&old).await.unwrap().secret(), "new");
}

#[tokio::test(start_paused = true)]
async fn m6_a_refresh_that_fails_costs_the_budget_nothing() {
    let source = Script::new(secs(DAY), Duration::ZERO);
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    source.always(broken());
    for _ in 0..50 {
        tokens.refresh(&first).await.unwrap_err();
        sleep(secs(11)).await;
    }
    source.always(Answer::Fresh);
    for _ in 0..5 {
        let current = tokens.token().await.unwrap();
        tokens.refresh(&current).await.unwrap();
    }
}

/// A source that says what its platform allows.
struct Allows(RateLimit);

impl TokenSource for Allows {
    async fn issue(&self, _rejected: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
        static GIVEN: AtomicUsize = AtomicUsize::new(0);
        let number = GIVEN.fetch_add(1, Ordering::SeqCst);
        Ok(AccessToken::new(format!("token-{number}"), secs(7200)))
    }

    fn refresh_limit(&self) -> Option<RateLimit> {
        Some(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn m6_the_budget_is_what_the_source_says_unless_it_is_set() {
    let tokens = TokenManager::new(Allows(RateLimit::new(2, secs(3600))));
    assert!(reject(&tokens).await && reject(&tokens).await && !reject(&tokens).await);
    sleep(secs(3600)).await;
    assert!(reject(&tokens).await && !reject(&tokens).await);

    let source = Allows(RateLimit::new(2, secs(3600)));
    let tokens = TokenManager::builder(source)
        .refresh_budget(3, secs(1))
        .build();
    for _ in 0..3 {
        assert!(reject(&tokens).await);
    }
    assert!(!reject(&tokens).await);
}

#[tokio::test(start_paused = true)]
async fn m6_past_the_budget_one_warn_is_given_and_not_one_for_each_call() {
    let logs = Logs::capture();
    let source = Script::new(secs(7200), Duration::ZERO);
    let tokens = source.manager();
    for _ in 0..5 {
        assert!(reject(&tokens).await);
    }
    assert_eq!(logs.warnings(OVER_BUDGET), 0);
    for _ in 0..1000 {
        assert!(!reject(&tokens).await);
    }
    assert_eq!(logs.warnings(OVER_BUDGET), 1);
}

/// A source whose renewals fail, slowly, and which gives tokens otherwise: `1`, `2` and so on.
struct NoRenewals(AtomicUsize);

impl TokenSource for NoRenewals {
    async fn issue(&self, _rejected: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
        let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(AccessToken::new(number.to_string(), secs(7200)))
    }

    async fn renew(&self, _current: &AccessToken) -> Result<AccessToken, TokenError> {
        sleep(secs(1)).await;
        Err(TokenError::other("the store is away"))
    }
}

#[tokio::test(start_paused = true)]
async fn m5_renewals_that_failed_hold_nobody_back_who_has_no_token() {
    // Whenever the last of them was.
    for _ in 0..20 {
        let tokens = TokenManager::new(NoRenewals(AtomicUsize::new(0)));
        let fresh = tokens.keep_fresh();
        let first = tokens.token().await.unwrap();
        sleep(first.expires_in() - millis(1)).await;
        drop(fresh);
        sleep(millis(2)).await;
        assert_eq!(tokens.token().await.unwrap().secret(), "2");
    }
}

#[tokio::test(start_paused = true)]
async fn m5_a_refresh_that_comes_during_a_renewal_that_fails_asks_for_itself() {
    let tokens = TokenManager::new(NoRenewals(AtomicUsize::new(0)));
    let first = tokens.token().await.unwrap();
    sleep(secs(7100)).await;
    assert_eq!(at_once(&tokens), first, "and a renewal is set off");
    assert_eq!(tokens.refresh(&first).await.unwrap().secret(), "2");
}

#[tokio::test(start_paused = true)]
async fn m6_past_a_budget_of_the_sources_a_token_that_is_over_is_replaced_all_the_same() {
    let source = source_fn(|rejected: Option<AccessToken>| async move {
        match rejected.filter(|rejected| !rejected.expires_in().is_zero()) {
            Some(_) => Err(TokenError::OverBudget),
            None => Ok(AccessToken::new("first", secs(60))),
        }
    });
    let tokens = TokenManager::builder(source)
        .refresh_budget(1000, millis(1))
        .build();
    let first = tokens.token().await.unwrap();
    while !first.expires_in().is_zero() {
        tokens.refresh(&first).await.unwrap_err();
        sleep(millis(50)).await;
    }
    tokens.token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn m6_past_a_budget_of_the_sources_it_is_asked_once_a_second() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let source = source_fn(move |rejected: Option<AccessToken>| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            match rejected {
                Some(_) => Err(TokenError::OverBudget),
                None => Ok(AccessToken::new("only", secs(7200))),
            }
        }
    });
    let tokens = TokenManager::builder(source)
        // That budget of the manager's is not the one that is used up.
        .refresh_budget(1, secs(3600))
        .build();
    let only = tokens.token().await.unwrap();
    for _ in 0..1000 {
        tokens.refresh(&only).await.unwrap_err();
        sleep(millis(10)).await;
    }
    let asked = asked.load(Ordering::SeqCst);
    assert!((10..=12).contains(&asked), "{asked} in 10 s");
}

#[tokio::test(start_paused = true)]
async fn m6_past_a_budget_of_the_sources_one_warn_is_given_too() {
    let logs = Logs::capture();
    let source = source_fn(|rejected: Option<AccessToken>| async move {
        match rejected {
            Some(_) => Err(TokenError::OverBudget),
            None => Ok(AccessToken::new("only", secs(7200))),
        }
    });
    let tokens = TokenManager::builder(source)
        .refresh_budget(1000, secs(1))
        .build();
    let only = tokens.token().await.unwrap();
    for _ in 0..100 {
        let error = tokens.refresh(&only).await.unwrap_err();
        assert!(matches!(error, TokenError::OverBudget), "{error}");
        sleep(secs(3)).await;
    }
    assert_eq!(logs.warnings(OVER_BUDGET), 1);
    assert_eq!(at_once(&tokens), only);
}

#[tokio::test(start_paused = true)]
async fn m6_over_budget_leaves_the_current_token_where_it_is() {
    let source = Script::new(secs(7200), Duration::ZERO);
    let tokens = source.manager();
    while reject(&tokens).await {}
    assert_eq!(at_once(&tokens).secret(), token_n(6));
    assert_eq!(source.started(), 6);
}

#[tokio::test(start_paused = true)]
async fn m6_the_budget_can_be_set() {
    let source = Script::new(secs(7200), Duration::ZERO);
    let tokens = TokenManager::builder(source)
        .refresh_budget(2, secs(10))
        .build();
    assert!(reject(&tokens).await && reject(&tokens).await && !reject(&tokens).await);
    sleep(secs(10)).await;
    assert!(reject(&tokens).await && !reject(&tokens).await);
}

#[tokio::test(start_paused = true)]
async fn m6_a_budget_of_none_refreshes_nothing() {
    let source = Script::usual();
    let tokens = TokenManager::builder(source.clone())
        .refresh_budget(0, secs(1))
        .build();
    tokens.token().await.unwrap();
    assert!(!reject(&tokens).await);
    assert_eq!(source.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn m6_another_manager_has_a_budget_of_its_own() {
    let tokens = Script::usual().manager();
    while reject(&tokens).await {}
    let other = Script::usual().manager();
    assert!(reject(&other).await);
    assert!(!reject(&tokens).await);
}

#[tokio::test(start_paused = true)]
async fn m6_renewals_and_first_tokens_cost_nothing_of_the_budget() {
    let source = Script::new(secs(100), Duration::ZERO);
    let tokens = source.manager();
    while reject(&tokens).await {}
    // Renewed ahead of its time all the same, and had anew after it.
    let before = source.started();
    sleep(secs(95)).await;
    at_once(&tokens);
    sleep(secs(1)).await;
    assert_eq!(source.started(), before + 1);
    sleep(secs(200)).await;
    tokens.token().await.unwrap();
    assert_eq!(source.started(), before + 2);
}

#[tokio::test(start_paused = true)]
async fn m6_late_rejections_cost_nothing_of_the_budget() {
    let source = Script::usual();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    for _ in 0..100 {
        tokens.refresh(&first).await.unwrap();
    }
    assert!(reject(&tokens).await);
}

// M7: time is monotonic and tests move it; what a source may not give.

#[tokio::test(start_paused = true)]
async fn m7_a_token_expires_by_moved_time() {
    let source = Script::new(secs(7200), Duration::ZERO);
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    assert_eq!(first.expires_in(), secs(7200));
    tokio::time::advance(secs(7199)).await;
    assert_eq!(tokens.cached(), Some(first.clone()));
    tokio::time::advance(secs(1)).await;
    assert_eq!(first.expires_in(), Duration::ZERO);
    assert!(tokens.cached().is_none());
    assert_eq!(tokens.token().await.unwrap().secret(), "token-2");
}

// wechat-oauth#28: WeChat counts from its reply, which may take its time to come here.
#[tokio::test(start_paused = true)]
async fn m7_a_life_counts_from_when_the_token_was_asked_for() {
    let source = Script::new(secs(7200), secs(4)).will([broken()]);
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    // The last attempt counts, and not those before it that failed.
    assert_eq!(first.expires_in(), secs(7196));
    sleep(secs(7196)).await;
    assert!(tokens.cached().is_none());
}

#[tokio::test(start_paused = true)]
async fn m7_the_end_that_a_source_knows_is_not_put_off() {
    // A source that keeps a token, as a store does.
    let kept = AccessToken::new("kept", secs(100));
    sleep(secs(40)).await;
    let tokens = TokenManager::new(source_fn(move |_| {
        let kept = kept.clone();
        async move { Ok(kept) }
    }));
    assert_eq!(tokens.token().await.unwrap().expires_in(), secs(60));
}

async fn is_invalid(token: AccessToken) {
    listen();
    let tokens = TokenManager::new(source_fn(move |_| {
        let token = token.clone();
        async move { Ok(token) }
    }));
    let error = tokens.token().await.unwrap_err();
    assert!(
        matches!(error, TokenError::InvalidReply { .. }),
        "{error:?}"
    );
    assert!(tokens.cached().is_none());
}

#[tokio::test(start_paused = true)]
async fn m7_an_empty_token_of_a_source_of_ones_own_is_invalid() {
    is_invalid(AccessToken::new("", secs(7200))).await;
}

#[tokio::test(start_paused = true)]
async fn m7_a_token_without_a_life_is_invalid() {
    is_invalid(AccessToken::new("token", Duration::ZERO)).await;
}

#[tokio::test(start_paused = true)]
async fn m7_a_token_that_has_expired_on_its_way_is_invalid() {
    let token = AccessToken::new("token", secs(10));
    sleep(secs(11)).await;
    is_invalid(token).await;
}

#[tokio::test(start_paused = true)]
async fn m7_an_invalid_token_does_not_displace_a_good_one() {
    let source = Script::usual().will([Answer::Fresh, Answer::Token("")]);
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    tokens.refresh(&first).await.unwrap_err();
    assert_eq!(tokens.cached(), Some(first));
}

#[tokio::test(start_paused = true)]
async fn m7_an_endless_life_is_no_panic() {
    let source = Script::new(Duration::MAX, Duration::ZERO);
    let tokens = source.manager();
    tokens.token().await.unwrap();
    sleep(secs(365 * DAY)).await;
    at_once(&tokens);
}

#[tokio::test(start_paused = true)]
async fn m7_endless_settings_are_no_panic() {
    let source = Script::usual();
    let tokens = TokenManager::builder(source)
        .issue_timeout(Duration::MAX)
        .refresh_before(Duration::MAX)
        .refresh_budget(u32::MAX, Duration::MAX)
        .build();
    tokens.token().await.unwrap();
    for _ in 0..10 {
        assert!(reject(&tokens).await);
        sleep(secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn m7_settings_of_zero_are_no_panic() {
    let source = Script::new(secs(100), millis(10));
    let tokens = TokenManager::builder(source)
        .issue_timeout(Duration::ZERO)
        .refresh_before(Duration::ZERO)
        .refresh_budget(1, Duration::ZERO)
        .build();
    let error = tokens.token().await.unwrap_err();
    assert!(matches!(error, TokenError::Timeout { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn m7_a_token_of_many_characters_is_fine() {
    listen();
    let long = "x".repeat(4096);
    let tokens = TokenManager::new(source_fn(move |_| {
        let token = AccessToken::new(long.clone(), secs(7200));
        async move { Ok(token) }
    }));
    assert_eq!(tokens.token().await.unwrap().secret().len(), 4096);
}

// M8: something else refreshes this account.

#[tokio::test(start_paused = true)]
async fn m8_a_token_that_is_rejected_soon_after_it_was_issued_is_told_at_most_once_a_minute() {
    let logs = Logs::capture();
    let source = Script::new(secs(7200), Duration::ZERO);
    let tokens = TokenManager::builder(source)
        .refresh_budget(1000, secs(1))
        .build();
    tokens.token().await.unwrap();
    for _ in 0..59 {
        assert!(reject(&tokens).await);
        sleep(secs(1)).await;
    }
    assert_eq!(logs.warnings(RIVAL), 1);
    sleep(secs(2)).await;
    assert!(reject(&tokens).await);
    assert_eq!(logs.warnings(RIVAL), 2);
}

#[tokio::test(start_paused = true)]
async fn m8_a_token_that_is_rejected_late_in_its_life_is_not_told() {
    let logs = Logs::capture();
    let tokens = Script::usual().manager();
    tokens.token().await.unwrap();
    sleep(secs(3600)).await;
    assert!(reject(&tokens).await);
    assert_eq!(logs.warnings(RIVAL), 0);
}

#[tokio::test(start_paused = true)]
async fn m8_many_rejections_of_one_token_are_told_once() {
    let logs = Logs::capture();
    let tokens = Script::usual().manager();
    let first = tokens.token().await.unwrap();
    join_all((0..100).map(|_| tokens.refresh(&first))).await;
    assert_eq!(logs.warnings(RIVAL), 1);
}

#[tokio::test(start_paused = true)]
async fn m8_a_subscriber_that_asks_for_a_token_itself_is_no_deadlock() {
    let source = Script::usual().will([broken(), refused(40164)]);
    let tokens = source.manager();
    let (same, other) = (tokens.clone(), AccessToken::new("other", secs(1)));
    LISTENER.set(Some(Box::new(move |_, _| {
        let _ = same.token().now_or_never();
        let _ = same.refresh(&other).now_or_never();
    })));
    tokens.token().await.unwrap_err();
    sleep(secs(31)).await;
    while reject(&tokens).await {}
}

// keep_fresh: renewed by a timer.

#[tokio::test(start_paused = true)]
async fn keep_fresh_fetches_the_first_token_at_once() {
    let source = Script::usual();
    let tokens = source.manager();
    let _fresh = tokens.keep_fresh();
    sleep(millis(310)).await;
    assert_eq!(tokens.cached().unwrap().secret(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_renews_for_days_with_nobody_asking() {
    let source = Script::usual();
    let tokens = source.manager();
    let _fresh = tokens.keep_fresh();
    sleep(secs(1)).await;
    for _ in 0..7 * DAY / 30 {
        assert!(tokens.cached().is_some());
        sleep(secs(30)).await;
    }
    // 604800 s in steps of 6930 to 6984 s.
    let issued = source.started();
    assert!((87..=89).contains(&issued), "{issued}");
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_survives_an_outage_and_recovers() {
    let source = Script::usual();
    let tokens = source.manager();
    let _fresh = tokens.keep_fresh();
    sleep(secs(1)).await;
    source.always(odd());
    sleep(secs(7200 + 1800)).await;
    assert!(tokens.cached().is_none());
    // 2040 s or so of outage, at most a minute apart and at least 30 s after the first few.
    let failed = source.started() - 1;
    assert!((30..=80).contains(&failed), "{failed}");
    source.always(Answer::Fresh);
    sleep(secs(62)).await;
    assert_eq!(tokens.cached().unwrap().secret(), "token-2");
    // And its time is that of the new token again.
    let issued = source.started();
    sleep(secs(6860)).await;
    assert_eq!(source.started(), issued);
    sleep(secs(130)).await;
    assert_eq!(source.started(), issued + 1);
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_tries_the_first_token_again() {
    let source = Script::usual().will([odd(), odd(), odd()]);
    let tokens = source.manager();
    let _fresh = tokens.keep_fresh();
    sleep(secs(20)).await;
    assert_eq!(tokens.cached().unwrap().secret(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_is_no_busy_loop_when_the_source_fails_or_refuses() {
    for (failure, least, most) in [
        (refused(40164), 9, 12),
        (refused(45009), 9, 12),
        (refused(45011), 59, 61),
        (odd(), 60, 130),
        (Answer::PanicAtOnce, 60, 130),
        (Answer::Token(""), 60, 130),
        // Each has four attempts.
        (broken(), 60, 4 * 130),
    ] {
        let source = Script::new(secs(7200), Duration::ZERO);
        source.always(failure);
        let tokens = source.manager();
        let _fresh = tokens.keep_fresh();
        sleep(secs(3600)).await;
        let asked = source.started();
        assert!(
            (least..=most).contains(&asked),
            "{asked} of {least} to {most}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_is_no_busy_loop_when_a_life_is_next_to_nothing() {
    let source = Script::new(Duration::from_nanos(1), Duration::ZERO);
    let tokens = source.manager();
    let _fresh = tokens.keep_fresh();
    sleep(secs(60)).await;
    assert!(source.started() <= 61, "{}", source.started());
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_stops_when_its_guard_is_dropped() {
    let source = Script::usual();
    let tokens = source.manager();
    let fresh = tokens.keep_fresh();
    sleep(secs(10_000)).await;
    drop(fresh);
    assert_eq!(source.started(), 2);
    sleep(secs(DAY)).await;
    assert_eq!(source.started(), 2);
    assert!(tokens.cached().is_none());
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_dropped_in_the_middle_of_a_renewal_cancels_nothing() {
    let source = Script::usual();
    let tokens = source.manager();
    let fresh = tokens.keep_fresh();
    sleep(millis(100)).await;
    drop(fresh);
    sleep(millis(300)).await;
    assert_eq!(tokens.cached().unwrap().secret(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_is_timed_anew_by_a_refresh_in_between() {
    let source = Script::usual();
    let tokens = source.manager();
    let _fresh = tokens.keep_fresh();
    sleep(secs(5000)).await;
    assert!(reject(&tokens).await);
    // The first one's time passes, and nothing is renewed.
    sleep(secs(6900)).await;
    assert_eq!(source.started(), 2);
    sleep(secs(100)).await;
    assert_eq!(source.started(), 3);
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_twice_is_one_renewal() {
    let source = Script::usual();
    let tokens = source.manager();
    let _one = tokens.keep_fresh();
    let _two = tokens.clone().keep_fresh();
    sleep(secs(7000 * 5)).await;
    assert_eq!(source.started(), 6);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_managers_prints_a_token() {
    let source = Script::usual();
    let tokens = source.manager();
    let _fresh = tokens.keep_fresh();
    let first = tokens.token().await.unwrap();
    let builder = TokenManager::builder(source);
    for text in [
        format!("{tokens:?}"),
        format!("{first:?}"),
        format!("{builder:?}"),
        format!("{_fresh:?}"),
    ] {
        assert!(!text.contains("token-1"), "{text}");
    }
}

// A path whose calls are rejected whatever the token asks for another all the time, and WeChat
// answers forced requests with -1.
#[tokio::test(start_paused = true)]
async fn m5_forced_requests_that_fail_hold_up_no_renewal_and_nobody_who_needs_a_token() {
    let tokens = TokenManager::new(source_fn(|rejected: Option<AccessToken>| async move {
        sleep(millis(100)).await;
        match rejected {
            Some(_) => Err(TokenError::api(-1, "system error")),
            None => Ok(AccessToken::new("token", secs(7200))),
        }
    }));
    let _fresh = tokens.keep_fresh();
    let start = Instant::now();
    while start.elapsed() < secs(DAY) {
        let token = tokens.token().await;
        let token = token.unwrap_or_else(|error| panic!("{:?}: {error}", start.elapsed()));
        assert!(tokens.refresh(&token).await.is_err());
        sleep(secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn m5_a_refusal_of_a_forced_request_is_none_for_those_whose_token_expired_meanwhile() {
    let tokens = TokenManager::new(source_fn(|rejected: Option<AccessToken>| async move {
        match rejected {
            Some(_) => {
                sleep(secs(5)).await;
                Err(TokenError::api(45009, "reach max api daily quota limit"))
            }
            None => Ok(AccessToken::new("token", secs(60))),
        }
    }));
    let token = tokens.token().await.unwrap();
    sleep(secs(57)).await;
    let refused = {
        let tokens = tokens.clone();
        tokio::spawn(async move { tokens.refresh(&token).await })
    };
    sleep(secs(1)).await;
    assert!(tokens.cached().is_some());
    // The forced request is in the air still.
    while tokens.cached().is_some() {
        sleep(millis(10)).await;
    }
    sleep(millis(10)).await;
    assert_eq!(tokens.token().await.unwrap().secret(), "token");
    assert!(refused.await.unwrap().is_err());
}
