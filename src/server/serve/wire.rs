//! The socket of a connection, watched: what comes, and whether the peer takes what it gets.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::bounds::PACE;
use super::standing::Standing;

pub(super) struct Wire {
    pub(super) stream: TcpStream,
    standing: Arc<Standing>,
    /// How much the peer has taken since it is waited for.
    taken: usize,
    /// The peer sends nothing any more.
    pub(super) ended: bool,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, standing: Arc<Standing>) -> Self {
        Wire {
            stream,
            standing,
            taken: 0,
            ended: false,
        }
    }

    /// A peer that takes a byte now and then is as slow as one that takes none.
    fn note(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending if !self.standing.waits_for_room() => {
                self.taken = 0;
                self.standing.wait_for_room();
            }
            Poll::Ready(Ok(bytes)) if self.standing.waits_for_room() => {
                self.taken += bytes;
                if self.taken >= PACE {
                    self.taken = 0;
                    self.standing.wait_for_room();
                }
            }
            _ => {}
        }
        written
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let room = buf.remaining();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        match buf.filled().len() - before {
            0 if room > 0 => self.ended = true,
            0 => {}
            _ => self.standing.came(),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper asks for it when it has nothing more to write.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.standing.flushed();
        Poll::Ready(Ok(()))
    }

    /// How the connection ends is up to [`Lingering`](super::lingering::Lingering).
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
