use std::convert::Infallible;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

const FRAME: usize = 16 * 1024;
const PERIOD: usize = 251;
const JPEG: [u8; 4] = [0xff, 0xd8, 0xff, 0xe0];

/// The body of a reply: bytes in memory, or a medium of any size made while it is sent.
pub(super) enum ReplyBody {
    Bytes(Bytes),
    Medium { sent: u64, size: u64 },
}

impl ReplyBody {
    fn left(&self) -> u64 {
        match self {
            ReplyBody::Bytes(bytes) => bytes.len() as u64,
            ReplyBody::Medium { sent, size } => size - sent,
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let bytes = match self.get_mut() {
            ReplyBody::Bytes(bytes) => std::mem::take(bytes),
            ReplyBody::Medium { sent, size } => {
                let frame = medium_frame(*sent, *size - *sent);
                *sent += frame.len() as u64;
                frame
            }
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

/// The bytes of a medium from `at` on: a slice of one pattern, so that a gigabyte costs nothing.
fn medium_frame(at: u64, left: u64) -> Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| (0..FRAME + PERIOD).map(|i| (i % PERIOD) as u8).collect());

    let len = usize::try_from(left).unwrap_or(FRAME).min(FRAME);
    let start = (at % PERIOD as u64) as usize;
    let frame = pattern.slice(start..start + len);
    if at > 0 {
        return frame;
    }
    let mut first = BytesMut::from(&frame[..]);
    let magic = len.min(JPEG.len());
    first[..magic].copy_from_slice(&JPEG[..magic]);
    first.freeze()
}
