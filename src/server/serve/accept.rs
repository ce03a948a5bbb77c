//! The accept loop: who gets a place, and who has to go for it.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::bounds::Bounds;
use super::connection::Connection;
use super::guarded::Guarded;
use super::standing::Standing;
use crate::warnings::Seldom;

/// How soon somebody may have become dispensable. Only a server that is full looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long to leave the system alone that has no room for a connection: the most, and at first.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Accepting {
    listener: TcpListener,
    router: Router,
    http: http1::Builder,
    bounds: Arc<Bounds>,
    epoch: Instant,
    connections: HashMap<u64, Entry>,
    by_address: HashMap<IpAddr, usize>,
    next: u64,
    tasks: JoinSet<u64>,
    /// It has come, and there was no place.
    waiting: Option<(TcpStream, SocketAddr)>,
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
    full: Seldom,
    failing: Seldom,
}

struct Entry {
    standing: Arc<Standing>,
    address: IpAddr,
}

/// Whether there is a place.
enum Place {
    Free,
    Later,
    Never,
}

impl Accepting {
    pub(super) fn new(listener: TcpListener, router: Router, bounds: Bounds) -> Self {
        let mut http = http1::Builder::new();
        http.keep_alive(bounds.keep_alive)
            .header_read_timeout(None)
            .max_header_size(bounds.head_bytes)
            .max_buf_size(bounds.head_bytes);
        if let Some(fields) = bounds.head_fields {
            http.max_headers(fields);
        }
        Accepting {
            listener,
            // Its handlers get their state once, and not for each request.
            router: router.with_state(()),
            http,
            bounds: Arc::new(bounds),
            epoch: Instant::now(),
            connections: HashMap::new(),
            by_address: HashMap::new(),
            next: 0,
            tasks: JoinSet::new(),
            waiting: None,
            pause: None,
            next_pause: FIRST_PAUSE,
            full: Seldom::default(),
            failing: Seldom::default(),
        }
    }

    /// Serves until `stop` is done; then no more are taken on, and those under way end.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        std::future::poll_fn(|cx| {
            // First of all, for a server that is very busy stops as well.
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.poll(cx)
        })
        .await;
        let Accepting {
            listener,
            connections,
            mut tasks,
            bounds,
            ..
        } = self;
        drop(listener);
        for entry in connections.values() {
            entry.standing.stop();
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(bounds.stop_timeout, all).await.is_err() {
            tracing::warn!(
                connections = tasks.len(),
                "stopping takes too long: what is still under way is cut"
            );
        }
        // Those that are left end with the set.
        tasks.shutdown().await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(cx) {
                // Nobody aborts them, and they do not panic.
                if let Ok(number) = ended {
                    self.forget(number);
                }
                if self.waiting.is_some() {
                    self.pause = None;
                }
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let (stream, peer) = match self.waiting.take() {
                Some(waiting) => waiting,
                None => match ready!(self.listener.poll_accept(cx)) {
                    Ok(accepted) => {
                        self.next_pause = FIRST_PAUSE;
                        accepted
                    }
                    Err(error) => {
                        self.failed(&error);
                        continue;
                    }
                },
            };
            match self.place(peer) {
                Place::Free => self.take_on(stream, peer),
                Place::Later => {
                    self.waiting = Some((stream, peer));
                    self.pause = Some(Box::pin(sleep(LOOK_AGAIN)));
                }
                Place::Never => tracing::debug!(%peer, "too many connections from one address"),
            }
        }
    }

    fn take_on(&mut self, stream: TcpStream, peer: SocketAddr) {
        let standing = Arc::new(Standing::new(self.epoch));
        let connection = Connection::new(
            stream,
            peer,
            self.router.clone(),
            &self.http,
            Arc::clone(&self.bounds),
            Arc::clone(&standing),
        );
        let (number, address) = (self.next, network(peer));
        self.next += 1;
        self.tasks.spawn(Guarded::new(connection, number));
        self.connections.insert(number, Entry { standing, address });
        if self.bounds.connections_by_address.is_some() {
            *self.by_address.entry(address).or_default() += 1;
        }
    }

    fn forget(&mut self, number: u64) {
        let Some(entry) = self.connections.remove(&number) else {
            return;
        };
        if let Some(count) = self.by_address.get_mut(&entry.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&entry.address);
            }
        }
    }

    fn place(&self, peer: SocketAddr) -> Place {
        let address = network(peer);
        if let Some(most) = self.bounds.connections_by_address {
            let count = self.by_address.get(&address).copied().unwrap_or(0);
            if count >= most {
                return match self.make_way(|entry| entry.address == address) {
                    true => Place::Later,
                    false => Place::Never,
                };
            }
        }
        let count = self.connections.len();
        if count < self.bounds.connections {
            return Place::Free;
        }
        if self.full.is_due() {
            tracing::warn!(
                connections = count,
                "the server has as many connections as it takes: those that are idle or wait for their peers make way"
            );
        }
        self.make_way(|_| true);
        Place::Later
    }

    /// Whether one of those that count is on its way out; asks one to go unless another one has been asked.
    fn make_way(&self, counts: impl Fn(&Entry) -> bool) -> bool {
        let mut first = None;
        for entry in self.connections.values().filter(|entry| counts(entry)) {
            if entry.standing.is_to_leave() {
                return true;
            }
            if let Some(since) = entry.standing.dispensable(self.bounds.patience) {
                if first.is_none_or(|(earliest, _)| since < earliest) {
                    first = Some((since, entry));
                }
            }
        }
        if let Some((_, entry)) = first {
            entry.standing.make_way();
        }
        first.is_some()
    }

    fn failed(&mut self, error: &io::Error) {
        // The connection's end and not the listener's.
        if matches!(
            error.kind(),
            ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::Interrupted
        ) {
            return;
        }
        if self.failing.is_due() {
            tracing::warn!(
                error = %error,
                connections = self.connections.len(),
                "no connection can be accepted: allow this process more open files"
            );
        }
        self.make_way(|_| true);
        self.pause = Some(Box::pin(sleep(self.next_pause)));
        self.next_pause = LONGEST_PAUSE.min(self.next_pause * 2);
    }
}

/// What a client has for itself: an address, or with IPv6 a network of 64 bits.
fn network(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) => {
            let bits = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(bits))
        }
        address => address,
    }
}
