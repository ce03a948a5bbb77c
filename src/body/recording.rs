//! A copy of what went by.

use std::collections::VecDeque;
use std::mem;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

/// What is copied comes into blocks that grow up to here.
const LARGEST_BLOCK: usize = 256 * 1024;
const SMALLEST_BLOCK: usize = 4 * 1024;

/// A frame from here on is somebody's memory and no network buffer: it is kept as it is.
const LARGE_FRAME: usize = 1024 * 1024;

/// Frames that went by.
#[derive(Default)]
pub(super) struct Recording {
    data: Vec<Bytes>,
    /// The last of `data`, while there is room in it.
    block: BytesMut,
    trailers: Option<HeaderMap>,
    bytes: usize,
}

impl Recording {
    /// Keeps a frame of a body that is all there, as far as is known: without a copy.
    pub(super) fn keep(&mut self, frame: &Frame<Bytes>) {
        /// From here on small frames are put together: a body in frames of one byte would
        /// otherwise take thirty times its size.
        const FRAMES: usize = 32;
        const SMALL: usize = 512;

        match frame.data_ref() {
            Some(data) if self.data.len() >= FRAMES && data.len() < SMALL => self.copy_data(data),
            Some(data) => self.keep_data(data),
            None => self.keep_trailers(frame),
        }
    }

    /// Copies a frame of a body that comes bit by bit. Its memory is a piece of a network buffer,
    /// which is as large as it is, and scattered: kept for long, it leaves the heap full of holes
    /// that are not given back to the system.
    pub(super) fn copy(&mut self, frame: &Frame<Bytes>) {
        match frame.data_ref() {
            Some(data) if data.len() < LARGE_FRAME => self.copy_data(data),
            Some(data) => self.keep_data(data),
            None => self.keep_trailers(frame),
        }
    }

    fn keep_data(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(data.len());
        if !data.is_empty() {
            self.flush();
            self.data.push(data.clone());
        }
    }

    fn copy_data(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.block.len() == self.block.capacity() {
                self.flush();
                // As much again as there is, so that a small body takes a small block.
                let size = self.bytes.max(data.len());
                let size = size.clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
                self.block = BytesMut::with_capacity(size);
            }
            let room = self.block.capacity() - self.block.len();
            let (now, later) = data.split_at(room.min(data.len()));
            self.block.extend_from_slice(now);
            self.bytes = self.bytes.saturating_add(now.len());
            data = later;
        }
    }

    fn keep_trailers(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    /// How many bytes of data it is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn flush(&mut self) {
        let block = mem::take(&mut self.block);
        if block.is_empty() {
            return;
        }
        // What is counted is the data, and so must be what is kept.
        let mostly_empty = block.len() < block.capacity() / 2;
        self.data.push(match mostly_empty {
            true => Bytes::copy_from_slice(&block),
            false => block.freeze(),
        });
    }

    /// All of it, as frames of the same memory.
    pub(super) fn frames(&mut self) -> VecDeque<Frame<Bytes>> {
        self.flush();
        let data = self.data.iter().cloned().map(Frame::data);
        data.chain(self.trailers.clone().map(Frame::trailers))
            .collect()
    }
}
