use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::time::{sleep, timeout};

use super::connection::Server;
use super::trouble::text;

/// What tells a process that waits for another one's token when to look.
pub(super) enum Announcements {
    Heard(Pin<Box<dyn Stream<Item = redis::Msg> + Send>>),
    /// Where there is no subscription to be had one has to look.
    Unheard,
}

impl Announcements {
    pub(super) async fn listen(server: &Server, channel: &str) -> Self {
        let Some(client) = server.client() else {
            return Announcements::Unheard;
        };
        let subscribe = async {
            let mut subscription = client.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(subscription.into_on_message())
        };
        match timeout(server.patience(), subscribe).await {
            Ok(Ok(messages)) => Announcements::Heard(Box::pin(messages)),
            Ok(Err(error)) => {
                tracing::debug!(
                    error = text(&error),
                    "no subscription in Redis: looking instead"
                );
                Announcements::Unheard
            }
            Err(_) => Announcements::Unheard,
        }
    }

    /// Waits until it is worth looking: at an announcement, or when the lease, with `left` to it,
    /// is over; and from time to time, as not everybody announces.
    pub(super) async fn next(&mut self, left: Duration) {
        // Those who look do not all look at once.
        let apart = 1.0 + fastrand::f64();
        let look_after = match self {
            Announcements::Heard(_) => Duration::from_millis(250),
            Announcements::Unheard => Duration::from_millis(50),
        };
        let look_after = look_after
            .mul_f64(apart)
            .min(left + Duration::from_millis(10).mul_f64(apart));
        match self {
            Announcements::Heard(messages) => {
                match timeout(look_after, messages.next()).await {
                    // Not all look at the same moment, and nobody as often as somebody else may
                    // announce.
                    Ok(Some(_)) => sleep(Duration::from_millis(10).mul_f64(apart)).await,
                    Ok(None) => *self = Announcements::Unheard,
                    Err(_) => {}
                }
            }
            Announcements::Unheard => sleep(look_after).await,
        }
    }
}
