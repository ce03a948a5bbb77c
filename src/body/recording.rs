//! A copy of what went by.

use std::collections::VecDeque;
use std::mem;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

/// Frames that went by.
#[derive(Default)]
pub(super) struct Recording {
    data: Vec<Bytes>,
    small: BytesMut,
    trailers: Option<HeaderMap>,
    bytes: usize,
}

impl Recording {
    pub(super) fn keep(&mut self, frame: &Frame<Bytes>) {
        /// From here on small frames are put together: a body in frames of one byte would
        /// otherwise take thirty times its size.
        const FRAMES: usize = 32;
        const SMALL: usize = 512;
        const JOINED: usize = 16 * 1024;

        if let Some(data) = frame.data_ref() {
            self.bytes = self.bytes.saturating_add(data.len());
            if self.data.len() >= FRAMES && data.len() < SMALL {
                self.small.extend_from_slice(data);
                if self.small.len() >= JOINED {
                    self.flush();
                }
            } else if !data.is_empty() {
                self.flush();
                self.data.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    /// How many bytes of data it is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.data.push(mem::take(&mut self.small).freeze());
        }
    }

    /// All of it, as frames of the same memory.
    pub(super) fn frames(&mut self) -> VecDeque<Frame<Bytes>> {
        self.flush();
        let data = self.data.iter().cloned().map(Frame::data);
        data.chain(self.trailers.clone().map(Frame::trailers))
            .collect()
    }
}
