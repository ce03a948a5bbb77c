//! Reading the body of a request.

use std::fmt::Write;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::record::RequestId;
use super::state::State;

/// More than any JSON that WeChat takes.
const JSON_LIMIT: usize = 1024 * 1024;

/// What an endpoint needs of the body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    Json,
}

/// A body that was read to its end.
pub(super) struct Received {
    pub(super) len: u64,
    pub(super) sha256: String,
    kept: Vec<u8>,
    over_limit: bool,
}

impl Received {
    /// The body as JSON; else the errcode.
    pub(super) fn json(&self) -> Result<Value, i64> {
        if self.over_limit {
            return Err(45002);
        }
        serde_json::from_slice(&self.kept).map_err(|_| 47001)
    }
}

/// Reads all of the body into the log. Fails when the client breaks off.
pub(super) async fn read(
    state: &State,
    id: RequestId,
    mut body: Incoming,
    keep: Keep,
) -> Result<Received, hyper::Error> {
    let mut digest = Sha256::new();
    let mut received = Received {
        len: 0,
        sha256: String::new(),
        kept: Vec::new(),
        over_limit: false,
    };
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        digest.update(&data);
        received.len += data.len() as u64;
        state.lock().log.body_grew(id, data.len() as u64);
        if keep == Keep::Json {
            received.keep(&data);
        }
    }
    for byte in digest.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(received.sha256, "{byte:02x}");
    }
    state.lock().log.body_ended(id, received.sha256.clone());
    Ok(received)
}

/// Reads what is left of a body that nobody wants, so that the client can write it to its end.
///
/// It ends with the connection, if not before.
pub(super) fn discard(mut body: Incoming) {
    tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
}

impl Received {
    fn keep(&mut self, data: &Bytes) {
        if self.over_limit || self.kept.len() + data.len() > JSON_LIMIT {
            self.over_limit = true;
            self.kept = Vec::new();
        } else {
            self.kept.extend_from_slice(data);
        }
    }
}
