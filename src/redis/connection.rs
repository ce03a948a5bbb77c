//! The way to Redis: one connection, opened when it is needed, closed when it is not, and opened
//! again when it has failed.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError,
    RedisFuture, ScriptInvocation, Value,
};
use tokio::time::{Instant, sleep, timeout_at};

use super::trouble::{advice, may_pass, text};

/// A Redis, and how long it may take.
pub(super) struct Server {
    way: Way,
    /// With which announcements can be listened to.
    client: Option<Client>,
    timeout: Duration,
}

enum Way {
    Made(Made),
    /// By the program, which alone can make another.
    Given(Arc<dyn Given>),
}

/// A connection that can be made again: after a failover the same name leads to another server.
///
/// Not the `ConnectionManager` of redis', which keeps a connection that answers no more (after a
/// partition that may last until TCP gives up, a quarter of an hour later), and one to a master
/// that has become a replica (redisson#3897).
struct Made {
    make: Box<Make>,
    connection: Mutex<Option<Arc<dyn Given>>>,
}

type Making = Pin<Box<dyn Future<Output = Result<Arc<dyn Given>, RedisError>> + Send>>;
type Make = dyn Fn() -> Making + Send + Sync;

impl Made {
    fn by(make: impl Fn() -> Making + Send + Sync + 'static) -> Way {
        Way::Made(Made {
            make: Box::new(make),
            connection: Mutex::default(),
        })
    }

    async fn get(&self) -> Result<Arc<dyn Given>, RedisError> {
        let made = self.lock().clone();
        if let Some(connection) = made {
            return Ok(connection);
        }
        let connection = (self.make)().await?;
        *self.lock() = Some(Arc::clone(&connection));
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<dyn Given>>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    // Whoever waits has a limit of its own.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// Connects; where Redis lets nobody in, with its own words, which redis drops: it may just have no
/// room for one more client.
async fn connect_or_say_why(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    let error = match connect(client).await {
        Err(error) if error.kind() == ErrorKind::AuthenticationFailed => error,
        connected_or_not => return connected_or_not,
    };
    let info = client.get_connection_info();
    let told = info.redis_settings();
    let Some(password) = told.password() else {
        return Err(error);
    };
    let bare = redis::RedisConnectionInfo::default().set_skip_set_lib_name();
    let asked = async {
        let client = Client::open(info.clone().set_redis_settings(bare))?;
        let mut connection = connect(&client).await?;
        let mut command = redis::cmd("AUTH");
        command.arg(told.username()).arg(password);
        command.exec_async(&mut connection).await
    };
    match asked.await {
        Err(why) if why.code().is_some() => Err(why),
        _ => Err(error),
    }
}

impl Server {
    pub(super) fn new(client: Client) -> Self {
        let mut server = Server::by(Made::by({
            let client = client.clone();
            move || {
                let client = client.clone();
                Box::pin(async move {
                    let connection = connect_or_say_why(&client).await?;
                    Ok(Arc::new(connection) as Arc<dyn Given>)
                })
            }
        }));
        server.client = Some(client);
        server
    }

    pub(super) fn with_connection<C>(connection: C) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        Server::by(Way::Given(Arc::new(connection)))
    }

    pub(super) fn with_connections<F, R, C>(connect: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<C, RedisError>> + Send + 'static,
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        Server::by(Made::by(move || {
            let connecting = connect();
            Box::pin(async move { Ok(Arc::new(connecting.await?) as Arc<dyn Given>) })
        }))
    }

    fn by(way: Way) -> Self {
        Server {
            way,
            client: None,
            timeout: Duration::from_secs(2),
        }
    }

    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        // Longer ones would overflow an instant, and no manager waits that long.
        self.timeout = timeout.min(Duration::from_secs(24 * 60 * 60));
    }

    /// Where announcements can be listened to.
    pub(super) fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// How long one attempt may take: half of it all, so that a dead connection leaves time for a
    /// new one.
    pub(super) fn patience(&self) -> Duration {
        self.timeout / 2
    }

    /// Runs a script, which must do no harm when it runs twice: a reply can be lost.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisError> {
        self.run_after(script, Duration::ZERO).await
    }

    /// Runs a script when Redis has been silent for so long already, which counts.
    pub(super) async fn run_after<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
        silent: Duration,
    ) -> Result<T, RedisError> {
        let deadline = Instant::now() + self.timeout.saturating_sub(silent);
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
            // The next one may lead to another server, as after a failover.
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
            Way::Made(made) => Ok(made.get().await?.connection()),
        }
    }

    /// Closes the connection when this is dropped, however it comes to that.
    ///
    /// Between two questions lie hours: a connection kept for so long may be dead without anybody
    /// knowing, and with many accounts there would be many.
    pub(super) fn closing(&self) -> Closing<'_> {
        Closing(self)
    }

    fn close(&self) {
        if let Way::Made(made) = &self.way {
            *made.lock() = None;
        }
    }

    /// What went wrong, and what a person can do about it, as it can go to a log.
    pub(super) fn told(&self, error: &RedisError) -> String {
        let can_connect = matches!(self.way, Way::Made(_));
        match advice(error, can_connect) {
            Some(advice) => format!("{}; {advice}", text(error)),
            None => text(error),
        }
    }
}

pub(super) struct Closing<'a>(&'a Server);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A connection of whatever kind.
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
