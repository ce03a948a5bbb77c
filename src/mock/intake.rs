//! Reading the body of a request.

use std::fmt::Write;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::multipart::{File, Form};
use super::server::Call;

/// More than any JSON that WeChat takes.
const LONGEST_KEPT: usize = 1024 * 1024;

/// What is needed of the body.
#[derive(Clone, Copy, Default)]
pub(super) struct Keep {
    /// Its bytes, if there are not too many.
    pub(super) bytes: bool,
    /// Whether it is a form with the file of this name.
    pub(super) file: Option<&'static str>,
}

/// A body that was read to its end.
pub(super) struct Received {
    pub(super) len: u64,
    pub(super) sha256: String,
    /// What the form has, if the body is one.
    pub(super) file: Option<File>,
    kept: Vec<u8>,
    over_limit: bool,
}

impl Received {
    /// The body as JSON; else the errcode.
    pub(super) fn json(&self) -> Result<Value, i64> {
        if self.over_limit {
            return Err(45002);
        }
        if self.kept.is_empty() {
            return Err(44002);
        }
        serde_json::from_slice(&self.kept).map_err(|_| 47001)
    }

    /// The bytes that were kept: none of a body that is too long.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.kept
    }

    fn keep(&mut self, data: &Bytes) {
        if self.over_limit || self.kept.len() + data.len() > LONGEST_KEPT {
            self.over_limit = true;
            self.kept = Vec::new();
        } else {
            self.kept.extend_from_slice(data);
        }
    }
}

/// Reads all of the body into the log. Fails when the client breaks off.
pub(super) async fn read(
    call: &Call<'_>,
    mut body: Incoming,
    keep: Keep,
) -> Result<Received, hyper::Error> {
    let mut digest = Sha256::new();
    let mut received = Received {
        len: 0,
        sha256: String::new(),
        file: None,
        kept: Vec::new(),
        over_limit: false,
    };
    let mut form = keep
        .file
        .and_then(|name| Form::of(&call.head.headers, name));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        digest.update(&data);
        received.len += data.len() as u64;
        call.state.lock().log.body_grew(call.id, data.len() as u64);
        if keep.bytes {
            received.keep(&data);
        }
        if let Some(form) = &mut form {
            form.feed(&data);
        }
    }
    for byte in digest.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(received.sha256, "{byte:02x}");
    }
    received.file = form.map(|form| form.file());
    let sha256 = received.sha256.clone();
    call.state.lock().log.body_ended(call.id, sha256);
    Ok(received)
}

/// Reads what is left of a body that nobody wants, so that the client can write it to its end.
///
/// It ends with the connection, if not before.
pub(super) fn discard(mut body: Incoming) {
    tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
}
