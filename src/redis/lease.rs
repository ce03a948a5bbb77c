use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use redis::RedisError;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::connection::Server;
use super::layout::Layout;
use super::scripts::{self, Price};
use super::trouble::text;

/// What nobody else writes into a lease.
///
/// In the form of a lock of the Java library jedis-lock, which WxJava has taken over: it breaks a
/// lock whose value is not a UUID and a time to come, in milliseconds since 1970. When the lease
/// really is over is up to its key.
fn new_owner() -> String {
    /// As long as one of jedis-lock's.
    const LONG: Duration = Duration::from_secs(60);

    let digits = format!("{:032x}", fastrand::u128(..));
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    let uuid = parts.map(|(from, to)| &digits[from..to]).join("-");
    let until = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default() + LONG;
    format!("{uuid}:{}", until.as_millis())
}

/// The right to ask for a new token, until it is over or given back.
///
/// Dropped without that, as when `issue_timeout` is over, it is given back in the background, so
/// that nobody has to wait it out.
pub(super) struct Lease {
    server: Arc<Server>,
    layout: Arc<Layout>,
    owner: String,
    lasts: Duration,
    held: bool,
}

impl Lease {
    pub(super) fn new(server: &Arc<Server>, layout: &Arc<Layout>, lasts: Duration) -> Self {
        Lease {
            server: Arc::clone(server),
            layout: Arc::clone(layout),
            owner: new_owner(),
            lasts,
            held: false,
        }
    }

    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// Does `work`, and prolongs the lease meanwhile.
    pub(super) async fn kept_during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut keeping = pin!(self.keep());
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            match keeping.as_mut().poll(cx) {
                Poll::Ready(never) => match never {},
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    async fn keep(&self) -> std::convert::Infallible {
        loop {
            sleep(self.lasts / 3).await;
            let prolong = scripts::prolong(&self.layout, &self.owner, self.lasts);
            match self.server.run(&prolong).await {
                Ok(1) => {}
                // What is made of it is decided when the token is there.
                Ok(_) => tracing::debug!("the lease in Redis is lost"),
                Err(error) => {
                    tracing::debug!(error = text(&error), "the lease in Redis was not prolonged")
                }
            }
        }
    }

    /// Whether there may be something to give back: from when it is asked for until it is known to
    /// be somebody else's, or over.
    pub(super) fn hold(&mut self, hold: bool) {
        self.held = hold;
    }

    /// Gives it back, and `refund` to the budget.
    ///
    /// # Errors
    ///
    /// Redis's. The lease ends by itself then.
    pub(super) async fn give_back(mut self, refund: Option<Price>) -> Result<(), RedisError> {
        let given = give_back(&self.server, &self.layout, &self.owner, refund).await;
        self.held = false;
        given
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (server, layout) = (Arc::clone(&self.server), Arc::clone(&self.layout));
            let owner = std::mem::take(&mut self.owner);
            runtime.spawn(async move {
                let _closing = server.closing();
                let _ = give_back(&server, &layout, &owner, None).await;
            });
        }
    }
}

async fn give_back(
    server: &Server,
    layout: &Layout,
    owner: &str,
    refund: Option<Price>,
) -> Result<(), RedisError> {
    let release = scripts::release(layout, owner, refund);
    match server.run::<i64>(&release).await {
        Ok(_) => {
            server.announce(layout.channel_name()).await;
            Ok(())
        }
        Err(error) => {
            tracing::debug!(
                error = text(&error),
                "the lease in Redis was not given back"
            );
            Err(error)
        }
    }
}
