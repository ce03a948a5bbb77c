use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::source::{ErasedSource, Issuing};
use super::{AccessToken, TokenError, Why};

pub(super) type Outcome = Result<AccessToken, TokenError>;

/// One token request that many callers wait for.
#[derive(Clone)]
pub(super) struct Flight {
    pub(super) why: Why,
    pub(super) forced: bool,
    /// When to take it for lost. Its task keeps a shorter limit of its own, but a runtime that
    /// nobody drives any more keeps none.
    pub(super) overdue: Instant,
    pub(super) landing: watch::Receiver<Option<Outcome>>,
}

impl Flight {
    /// How it ended; `None` when its task, or the runtime of its task, went away before.
    pub(super) async fn landed(mut self) -> Option<Outcome> {
        let landing = self.landing.wait_for(Option::is_some);
        match timeout_at(self.overdue, landing).await {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

fn ask<'a>(source: &'a dyn ErasedSource, why: &'a Why) -> Issuing<'a> {
    match why {
        Why::Missing => source.issue(None),
        Why::Rejected(rejected) => source.issue(Some(rejected)),
        Why::Expiring(current) => source.renew(current),
    }
}

/// Asks the source until it gives a token, says no, or `timeout` is over.
pub(super) async fn issue(source: &dyn ErasedSource, why: &Why, timeout: Duration) -> Outcome {
    /// Enough to get over a restart at the other end; each attempt counts against WeChat's quota.
    const ATTEMPTS: u32 = 4;

    let deadline = Instant::now() + timeout;
    let mut rng = fastrand::Rng::new();
    let mut failed = None;
    let mut attempt = 1;
    loop {
        let asked_at = Instant::now();
        let attempted = catch_panic(|| ask(source, why));
        let error = match timeout_at(deadline, attempted).await {
            Err(_) => return Err(failed.unwrap_or(TokenError::Timeout { after: timeout })),
            Ok(Ok(token)) => return checked(token.counted_from(asked_at)),
            Ok(Err(error)) => error,
        };
        let pause = backoff(
            Duration::from_millis(200),
            attempt,
            Duration::from_secs(2),
            &mut rng,
        );
        let in_time = Instant::now() + pause < deadline;
        if !error.is_transient() || attempt == ATTEMPTS || !in_time {
            return Err(error);
        }
        tracing::debug!(%error, attempt, "the token request failed and is sent again");
        failed = Some(error);
        sleep(pause).await;
        attempt += 1;
    }
}

/// `first` doubled with every failure up to `longest`, and less up to a half of it by chance, so
/// that machines which failed together do not ask together.
pub(super) fn backoff(
    first: Duration,
    failures: u32,
    longest: Duration,
    rng: &mut fastrand::Rng,
) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(longest).mul_f64(1.0 - rng.f64() / 2.0)
}

/// What no source may give, whoever wrote it.
fn checked(token: AccessToken) -> Outcome {
    if token.secret().is_empty() {
        return Err(TokenError::invalid("the token is empty"));
    }
    if !token.lives_at(Instant::now()) {
        return Err(TokenError::invalid("the token has expired already"));
    }
    Ok(token)
}

async fn catch_panic<F>(start: impl FnOnce() -> F) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let Ok(source) = catch_unwind(AssertUnwindSafe(start)) else {
        return Err(TokenError::Panicked);
    };
    let mut source = pin!(source);
    std::future::poll_fn(move |cx| {
        // Nothing of the source is looked at after a panic: it is dropped, and the next flight
        // makes a new future.
        catch_unwind(AssertUnwindSafe(|| source.as_mut().poll(cx)))
            .unwrap_or(Poll::Ready(Err(TokenError::Panicked)))
    })
    .await
}
