//! The way to Redis: one connection, opened when it is needed, closed when it is not, and opened again when it has failed.

use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError,
    RedisFuture, RetryMethod, ScriptInvocation, Value,
};
use tokio::time::{Instant, sleep, timeout_at};

/// A Redis, and how long it may take.
pub(super) struct Server {
    way: Way,
    timeout: Duration,
}

enum Way {
    Client(Box<Opened>),
    Given(Box<dyn Given>),
}

struct Opened {
    client: Client,
    /// Not the `ConnectionManager` of redis', which keeps a connection that answers no more: after a partition that may
    /// last until TCP gives up, a quarter of an hour later.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Opened {
    async fn get(&self) -> Result<MultiplexedConnection, RedisError> {
        let opened = self.lock().clone();
        if let Some(connection) = opened {
            return Ok(connection);
        }
        // Whoever waits has a limit of its own.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connecting = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let connection = connecting.await?;
        *self.lock() = Some(connection.clone());
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    pub(super) fn new(client: Client) -> Self {
        Server::by(Way::Client(Box::new(Opened {
            client,
            connection: Mutex::default(),
        })))
    }

    pub(super) fn with_connection<C>(connection: C) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        Server::by(Way::Given(Box::new(connection)))
    }

    fn by(way: Way) -> Self {
        Server {
            way,
            timeout: Duration::from_secs(2),
        }
    }

    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        // Longer ones would overflow an instant, and no manager waits that long.
        self.timeout = timeout.min(Duration::from_secs(24 * 60 * 60));
    }

    /// Where announcements can be listened to.
    pub(super) fn client(&self) -> Option<&Client> {
        match &self.way {
            Way::Client(opened) => Some(&opened.client),
            Way::Given(_) => None,
        }
    }

    /// How long one attempt may take: half of it all, so that a dead connection leaves time for a new one.
    pub(super) fn patience(&self) -> Duration {
        self.timeout / 2
    }

    /// Runs a script, which must do no harm when it runs twice: a reply can be lost.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisError> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = Duration::from_millis(20);
        loop {
            let attempt = async {
                let mut connection = self.connection().await?;
                script.invoke_async(&mut connection).await
            };
            let enough = deadline.min(Instant::now() + self.patience());
            let error = match timeout_at(enough, attempt).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) => error,
                Err(_) => RedisError::from(io::Error::from(io::ErrorKind::TimedOut)),
            };
            self.close();
            if !may_pass(&error) {
                return Err(error);
            }
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
            pause = 2 * pause;
        }
    }

    /// Says on `channel` that there is something new. Who misses it looks for itself before long.
    pub(super) async fn announce(&self, channel: &str) {
        let announce = async {
            let mut connection = self.connection().await?;
            redis::cmd("PUBLISH")
                .arg(channel)
                .arg("")
                .exec_async(&mut connection)
                .await
        };
        // Somebody waits for the token that is announced here.
        let enough = self.patience().min(Duration::from_millis(100));
        match timeout_at(Instant::now() + enough, announce).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = text(&error), "no announcement in Redis"),
            Err(_) => tracing::debug!("no announcement in Redis: it does not answer"),
        }
    }

    async fn connection(&self) -> Result<Connection, RedisError> {
        match &self.way {
            Way::Given(given) => Ok(given.connection()),
            Way::Client(opened) => Ok(Connection(Box::new(opened.get().await?))),
        }
    }

    /// Closes the connection when this is dropped, however it comes to that.
    ///
    /// Between two questions lie hours: a connection kept for so long may be dead without anybody knowing, and with many accounts
    /// there would be many.
    pub(super) fn closing(&self) -> Closing<'_> {
        Closing(self)
    }

    fn close(&self) {
        if let Way::Client(opened) = &self.way {
            *opened.lock() = None;
        }
    }
}

pub(super) struct Closing<'a>(&'a Server);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A connection that the program has made.
trait Given: Send + Sync {
    fn connection(&self) -> Connection;
}

impl<C> Given for C
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    fn connection(&self) -> Connection {
        Connection(Box::new(self.clone()))
    }
}

struct Connection(Box<dyn ConnectionLike + Send>);

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

/// Whether another connection, or a moment's patience, may help: with a Redis that starts, or hands over to another.
fn may_pass(error: &RedisError) -> bool {
    if matches!(
        error.kind(),
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig
    ) {
        return false;
    }
    error.is_io_error()
        || error.is_unrecoverable_error()
        || !matches!(error.retry_method(), RetryMethod::NoRetry)
        || matches!(
            error.code(),
            Some("READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN")
        )
        // As Redis 6 tells it of a script.
        || error.detail().is_some_and(|detail| detail.contains("-READONLY"))
}

type Cause = Arc<dyn StdError + Send + Sync>;

/// What went wrong, as it can go to a log.
pub(super) fn text(error: &RedisError) -> String {
    if error.is_io_error() {
        // It keeps its cause in an `Arc`, which hides the cause's type from those who look for it.
        let cause = error
            .source()
            .and_then(|cause| cause.downcast_ref::<Cause>());
        return match cause {
            Some(cause) => format!("Redis is out of reach: {cause}"),
            None => "Redis is out of reach".to_owned(),
        };
    }
    let (Some(code), Some(detail)) = (error.code(), error.detail()) else {
        // An answer of another form is printed by redis with all that was in it.
        return format!("Redis cannot be understood: {}", error.category());
    };
    // What is quoted, and arguments of a command that Redis does not know or may not run, may be tokens.
    let told = detail.split(['\'', '"', '`']).next().unwrap_or_default();
    let told = told.split("with args").next().unwrap_or_default().trim();
    format!("Redis refuses: {code} {told}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_without_arguments_and_answers() {
        for detail in [
            "unknown command 'EVALSHA', with args beginning with: 'S3CRET'",
            "unknown command with args S3CRET",
            "wrong value \"S3CRET\"",
        ] {
            let error = redis::make_extension_error("ERR".to_owned(), Some(detail.to_owned()));
            let text = text(&error);
            assert!(text.starts_with("Redis refuses: ERR "), "{text}");
            assert!(!text.contains("S3CRET"), "{text}");
        }
        let answer = redis::Value::BulkString(b"S3CRET".to_vec());
        let error = redis::from_redis_value::<Vec<(i64, i64)>>(answer).unwrap_err();
        let text = text(&RedisError::from(error));
        assert!(text.starts_with("Redis cannot be understood"), "{text}");
        assert!(!text.contains("S3CRET"), "{text}");
    }

    #[test]
    fn an_io_error_is_told_by_its_cause() {
        let error = RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(text(&error), "Redis is out of reach: connection refused");
    }
}
