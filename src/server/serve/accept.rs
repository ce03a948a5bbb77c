//! The accept loop.

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
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
use super::crowd::{Crowd, Place};
use super::guarded::Guarded;
use super::standing::Standing;
use crate::warnings::Seldom;

/// How soon somebody may have become dispensable. Only a server that is full looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long to leave a system alone that has no room for a connection: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Accepting {
    listener: TcpListener,
    router: Router,
    http: http1::Builder,
    bounds: Arc<Bounds>,
    epoch: Instant,
    crowd: Crowd,
    tasks: JoinSet<u64>,
    /// It has come, and there was no place.
    waiting: Option<(TcpStream, SocketAddr)>,
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
    failing: Seldom,
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
        let bounds = Arc::new(bounds);
        Accepting {
            listener,
            // Its handlers get their state once, and not for each request.
            router: router.with_state(()),
            http,
            crowd: Crowd::new(Arc::clone(&bounds)),
            bounds,
            epoch: Instant::now(),
            tasks: JoinSet::new(),
            waiting: None,
            pause: None,
            next_pause: FIRST_PAUSE,
            failing: Seldom::default(),
        }
    }

    /// Serves until `stop` is done; then no more are taken on, and those under way end.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        poll_fn(|cx| {
            // First of all, for a server that is very busy stops as well.
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.poll(cx)
        })
        .await;
        let Accepting {
            listener,
            crowd,
            mut tasks,
            bounds,
            ..
        } = self;
        drop(listener);
        crowd.stop();
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(bounds.stop_timeout, all).await.is_err() {
            tracing::warn!(
                connections = tasks.len(),
                "stopping takes too long: what is still under way is cut"
            );
        }
        tasks.shutdown().await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(cx) {
                // Nobody aborts them, and they do not panic.
                if let Ok(number) = ended {
                    self.crowd.forget(number);
                }
                // There is room for another one now.
                self.pause = None;
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
            match self.crowd.place(peer) {
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
        let number = self.crowd.enter(standing, peer);
        self.tasks.spawn(Guarded::new(connection, number));
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
                connections = self.crowd.len(),
                "no connection can be accepted: allow this process more open files"
            );
        }
        self.crowd.shrink();
        self.pause = Some(Box::pin(sleep(self.next_pause)));
        self.next_pause = LONGEST_PAUSE.min(self.next_pause * 2);
    }
}
