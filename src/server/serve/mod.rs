//! An accept loop that is bounded in both directions.
//!
//! What each file decides: `crowd` who has a place, `connection` when and how a connection ends,
//! `call` when a reply may go. `standing` is what they tell each other; `wire`, `request_body` and
//! `reply_body` watch; `drain` and `lingering` read what nobody wants.

mod accept;
mod bounds;
mod call;
mod connection;
mod crowd;
mod drain;
mod guarded;
mod lingering;
mod reply_body;
mod request_body;
mod rest;
mod standing;
mod wire;

use std::fmt;
use std::future::{Future, IntoFuture, pending};
use std::pin::Pin;

use axum::Router;
use socket2::SockRef;
use tokio::net::TcpListener;

use self::accept::Accepting;
pub use self::bounds::Bounds;

/// How much of a reply the system takes that it cannot send yet: with more, a slow reader makes no
/// room for longer than [`write_timeout`](Bounds::write_timeout), and one that does not read keeps
/// megabytes.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNSENT: u32 = 128 * 1024;

/// Serves `router` to whoever connects, strangers included, by HTTP/1.
///
/// ```
/// use axum::Router;
/// use tokio::net::TcpListener;
/// use tower_wechat::server::{Bounds, serve};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let router = Router::new(); // A `Gateway` or a `TokenServer`, or an application with one in it.
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let stop = async {
///     // tokio::signal::ctrl_c().await …
/// };
/// serve(listener, router, Bounds::default()).until(stop).await;
/// # Ok(())
/// # }
/// ```
///
/// `axum::serve` has none of the following.
///
/// - Everything is bounded, by [`Bounds`]: connections, heads, idle ones, peers that send too
///   slowly or do not take what they are sent. The bounds hold whatever the peer does, and what a
///   call holds is given back when they cut it.
/// - A server that is full does not refuse: whoever is idle, or has kept the server waiting
///   longest, makes way.
/// - A reply can be read. What is left of a request that was refused is read and thrown away, or
///   the reply says `Connection: close`, and the connection is closed only when the peer has closed
///   it, within bounds. Who asks by `Expect: 100-continue` and is refused is not asked to go on.
/// - Requests have the peer's address as `ConnectInfo<SocketAddr>` in their extensions.
/// - A handler that panics is a reply with status 500.
/// - No HTTP/2, no upgrades, no TLS.
///
/// It ends when the future ends that [`until`](Serve::until) takes, and at once, whatever is under
/// way, when it is dropped.
pub fn serve(listener: TcpListener, router: Router, bounds: Bounds) -> Serve {
    Serve {
        listener,
        router,
        bounds,
        stop: Box::pin(pending()),
    }
}

/// A server, which is there as long as this is awaited; see [`serve`].
#[must_use = "it serves when it is awaited"]
pub struct Serve {
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// How many may wait for the accept loop, as far as the system allows. With std's 128, a few
/// hundred strangers at once make others wait for a second or three, until their system tries
/// again.
const BACKLOG: i32 = 4096;

impl Serve {
    /// Stops when `stop` is done: no connection is accepted any more, those that are idle are
    /// closed, calls under way end and close theirs, and what takes longer than
    /// [`stop_timeout`](Bounds::stop_timeout) is cut.
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.stop = Box::pin(stop);
        self
    }
}

impl IntoFuture for Serve {
    type Output = ();
    type IntoFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        // Where a system does not do this, it goes on as it did.
        let socket = SockRef::from(&self.listener);
        let _ = socket.listen(BACKLOG);
        // Connections have it from their listener.
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let _ = socket.set_tcp_notsent_lowat(UNSENT);
        let accepting = Accepting::new(self.listener, self.router, self.bounds);
        Box::pin(accepting.run(self.stop))
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("listener", &self.listener)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}
