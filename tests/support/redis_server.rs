//! A redis-server of a test's own.

use std::io::{Write, stderr};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, cmd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// A [`RedisServer`], or the end of the test where none can be started.
macro_rules! redis {
    () => {
        match $crate::support::redis_server::RedisServer::start().await {
            Some(redis) => redis,
            None => return,
        }
    };
}

pub struct RedisServer {
    process: Option<Child>,
    port: u16,
    folder: PathBuf,
    arguments: &'static [&'static str],
}

impl RedisServer {
    /// On a spare port; `None`, said on stderr, where there is none to be started.
    pub async fn start() -> Option<RedisServer> {
        RedisServer::started(&[]).await
    }

    /// One that has its data again after a restart.
    pub async fn that_keeps_data() -> Option<RedisServer> {
        RedisServer::started(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    /// The one node of a cluster.
    pub async fn as_cluster() -> Option<RedisServer> {
        let node = RedisServer::started(&["--cluster-enabled", "yes"]).await?;
        let _: () = node.raw(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
        while !node
            .raw::<String>(&["CLUSTER", "INFO"])
            .await
            .contains("cluster_state:ok")
        {
            sleep(Duration::from_millis(25)).await;
        }
        Some(node)
    }

    async fn started(arguments: &'static [&'static str]) -> Option<RedisServer> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);

        let known = Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .await;
        if known.is_err() {
            // Past the test harness, which shows what is printed only where a test fails.
            let _ = writeln!(
                stderr(),
                "LEFT OUT: a test that needs redis-server, which is not there; tests/run installs it"
            );
            return None;
        }
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = format!("tower-wechat-redis-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let mut server = RedisServer {
            process: None,
            port: 0,
            folder,
            arguments,
        };
        // Somebody else may take the port before Redis does.
        for _ in 0..10 {
            let spare = TcpListener::bind("127.0.0.1:0").unwrap();
            server.port = spare.local_addr().unwrap().port();
            drop(spare);
            server.launch();
            if server.answers().await {
                return Some(server);
            }
            server.kill().await;
        }
        panic!("redis-server does not start");
    }

    fn launch(&mut self) {
        let mut command = Command::new("redis-server");
        command
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &self.port.to_string(),
                "--save",
                "",
            ])
            .arg("--dir")
            .arg(&self.folder)
            .args(self.arguments)
            .stdout(Stdio::null())
            .kill_on_drop(true);
        self.process = Some(command.spawn().unwrap());
    }

    async fn answers(&mut self) -> bool {
        for _ in 0..200 {
            if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(mut connection) = self.client().get_multiplexed_async_connection().await {
                if cmd("PING").exec_async(&mut connection).await.is_ok() {
                    return true;
                }
            }
            sleep(Duration::from_millis(25)).await;
        }
        false
    }

    /// With SIGKILL.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    pub async fn restart(&mut self) {
        self.kill().await;
        self.launch();
        assert!(self.answers().await, "redis-server starts again");
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self) -> String {
        format!("redis://{}/", self.address())
    }

    pub fn client(&self) -> Client {
        Client::open(self.url()).unwrap()
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        self.client()
            .get_multiplexed_async_connection()
            .await
            .unwrap()
    }

    /// A command as one would type it.
    pub async fn raw<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connection().await;
        let mut raw = cmd(command[0]);
        raw.arg(&command[1..]);
        raw.query_async(&mut connection).await.unwrap()
    }

    /// How many commands it has seen since it started; asking is one.
    pub async fn commands(&self) -> u64 {
        let stats: String = self.raw(&["INFO", "stats"]).await;
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_commands_processed:"));
        line.unwrap().trim().parse().unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A way to a server that can be cut: nothing is refused then, and nothing comes through.
pub struct Wire {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Wire {
    pub async fn to(server: SocketAddr) -> Wire {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Wire {
            address: listener.local_addr().unwrap(),
            cut: Arc::default(),
        };
        let cut = Arc::clone(&wire.cut);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let cut = Arc::clone(&cut);
                tokio::spawn(async move {
                    // What came up while it was cut stays as dead as what was there before.
                    if cut.load(Ordering::SeqCst) {
                        return std::future::pending::<()>().await;
                    }
                    let Ok(far) = tokio::net::TcpStream::connect(server).await else {
                        return;
                    };
                    let (near, far) = (near.into_split(), far.into_split());
                    tokio::join!(pass(near.0, far.1, &cut), pass(far.0, near.1, &cut));
                });
            }
        });
        wire
    }

    pub fn client(&self) -> Client {
        Client::open(format!("redis://{}/", self.address)).unwrap()
    }

    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    cut: &AtomicBool,
) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if cut.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
