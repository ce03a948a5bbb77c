//! One connection, from its first byte to its end.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

use super::bounds::Bounds;
use super::call::Calls;
use super::drain::Drain;
use super::lingering::Lingering;
use super::standing::Standing;
use super::wire::Wire;

type Http = http1::Connection<TokioIo<Wire>, Calls>;

/// A task of its own: nothing may stand between it and its waker, which is noted once.
///
/// hyper's own timer does not tell a new connection from one that is kept, and none of hyper's runs
/// while a reply cannot be written.
pub(super) struct Connection {
    http: Option<Http>,
    lingering: Option<Lingering>,
    /// Of a request whose reply did not wait for it.
    late: Option<Drain>,
    /// At the latest deadline it was set to, and not for each request anew.
    timer: Pin<Box<Sleep>>,
    is_armed: bool,
    has_waker: bool,
    is_stopping: bool,
    bounds: Arc<Bounds>,
    standing: Arc<Standing>,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        router: Router,
        http: &http1::Builder,
        bounds: Arc<Bounds>,
        standing: Arc<Standing>,
    ) -> Self {
        // Of no use to a connection that has ended already, which is found out soon enough.
        let _ = stream.set_nodelay(true);
        let opened = standing.at(standing.now());
        let calls = Calls {
            router,
            peer,
            end: bounds.age.map(|age| opened + age),
            bounds: Arc::clone(&bounds),
            standing: Arc::clone(&standing),
        };
        let wire = Wire::new(stream, Arc::clone(&standing));
        Connection {
            http: Some(http.serve_connection(TokioIo::new(wire), calls)),
            lingering: None,
            late: None,
            timer: Box::pin(sleep_until(opened + bounds.head_timeout)),
            is_armed: false,
            has_waker: false,
            is_stopping: false,
            bounds,
            standing,
        }
    }

    /// Whether HTTP goes on.
    fn poll_http(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(http) = &mut self.http else {
            return Poll::Ready(());
        };
        let mut was_idle = false;
        let mut polled = Pin::new(&mut *http).poll(cx);
        if polled.is_pending() && self.standing.is_to_stop() && !self.is_stopping {
            self.is_stopping = true;
            was_idle = self.standing.is_idle();
            // Only now, as what has come already is to be answered.
            Pin::new(&mut *http).graceful_shutdown();
            polled = Pin::new(&mut *http).poll(cx);
        }
        if let Poll::Ready(end) = polled {
            self.finish(end, was_idle);
            return Poll::Ready(());
        }
        self.late = self.late.take().or_else(|| {
            let rest = self.standing.left_body.take_late()?;
            let standing = Arc::clone(&self.standing);
            Some(Drain::new(rest, &self.bounds, standing))
        });
        if let Some(late) = &mut self.late {
            if late.poll(cx).is_ready() {
                self.late = None;
            }
        }
        Poll::Pending
    }

    /// Decides on how a connection ends with which HTTP is done.
    fn finish(&mut self, end: hyper::Result<()>, was_idle: bool) {
        self.late = None;
        let Some(http) = self.http.take() else { return };
        let wire = http.into_parts().io.into_inner();
        let lingers = match end {
            Ok(()) => !was_idle && self.standing.calls() > 0,
            // hyper has answered with 400, 414 or 431.
            Err(error) if error.is_parse() => true,
            Err(error) if error.is_user() || error.is_body_write_aborted() => {
                // It would pass for whole.
                if self.standing.reply_ends_by_close() {
                    reset(&wire.stream);
                    return;
                }
                true
            }
            Err(_) => false,
        };
        if lingers && !wire.ended {
            let standing = Arc::clone(&self.standing);
            self.lingering = Some(Lingering::new(wire, &self.bounds, standing));
        }
    }

    /// Whether its peer's time is up, or others have its place.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(deadline) = self.standing.deadline(&self.bounds) {
            if self.poll_timer(cx, deadline).is_ready() {
                let turn = self.standing.turn().0;
                tracing::debug!(?turn, "a connection is closed: its peer's time is up");
                return Poll::Ready(());
            }
        }
        match self.makes_way() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn makes_way(&self) -> bool {
        if !self.standing.is_to_leave() {
            return false;
        }
        let leaves = self.standing.dispensable(self.bounds.patience);
        match leaves {
            Some((turn, _)) => {
                tracing::debug!(?turn, "a connection is closed: others have its place");
                true
            }
            None => {
                self.standing.stays();
                false
            }
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, deadline: u64) -> Poll<()> {
        let mut time = deadline;
        if let Some(lingering) = &self.lingering {
            time = time.min(lingering.end());
        }
        let at = self.standing.at(time);
        loop {
            if self.standing.now() >= time {
                return Poll::Ready(());
            }
            let timer = self.timer.as_mut();
            if timer.is_elapsed() || timer.deadline() > at {
                timer.reset(at);
                self.is_armed = false;
            }
            if self.is_armed {
                return Poll::Pending;
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                self.is_armed = true;
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(http) = self.http.take() {
            // What the peer does not take would stay in the system's memory, and what has come of a
            // reply may pass for whole.
            if self.standing.is_cut_short() {
                reset(&http.into_parts().io.into_inner().stream);
            }
        }
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.has_waker {
            this.has_waker = true;
            this.standing.wake_by(cx.waker());
        }
        if this.poll_http(cx).is_ready() {
            let Some(lingering) = &mut this.lingering else {
                return Poll::Ready(());
            };
            if lingering.poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        this.poll_end(cx)
    }
}

/// The peer learns that what it got is not all.
fn reset(stream: &TcpStream) {
    // If it cannot be, the connection ends all the same.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
