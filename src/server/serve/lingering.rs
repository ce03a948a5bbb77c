//! The end of a connection: its last reply must not be overtaken by a reset.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::bounds::Bounds;
use super::standing::{Standing, millis};
use super::wire::Wire;

/// A socket that is closed with something unread, or gets something after that, answers with a
/// reset, and the peer's system throws away what its program has not read yet. So: no more is
/// written, and what comes is read until the peer closes as well.
pub(super) struct Lingering {
    stream: TcpStream,
    is_shut: bool,
    end: u64,
    scratch: Box<[u8]>,
    standing: Arc<Standing>,
}

impl Lingering {
    pub(super) fn new(wire: Wire, bounds: &Bounds, standing: Arc<Standing>) -> Self {
        standing.lingers();
        Lingering {
            stream: wire.stream,
            is_shut: false,
            end: standing.now().saturating_add(millis(bounds.linger_timeout)),
            scratch: vec![0; 16 * 1024].into(),
            standing,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.is_shut = true;
        }
        let mut came = false;
        loop {
            let mut buf = ReadBuf::new(&mut self.scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf)? {
                Poll::Ready(()) if buf.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(()) => came = true,
                Poll::Pending => break,
            }
        }
        if came {
            if self.standing.now() >= self.end {
                return Poll::Ready(Ok(()));
            }
            self.standing.lingers();
        }
        Poll::Pending
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }
}
