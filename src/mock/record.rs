use std::fmt;

use http::request::Parts;
use http::{HeaderMap, Method, Uri};

use super::query;
use super::token;

/// One request that reached the server, and how it was answered.
///
/// A copy of the record as it was when [`MockWechat::requests`](super::MockWechat::requests) was
/// called.
#[derive(Clone)]
pub struct RecordedRequest {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    access_token: Option<String>,
    account: Option<String>,
    connection: u64,
    body_len: u64,
    body_sha256: Option<String>,
    errcode: Option<i64>,
}

impl RecordedRequest {
    pub(super) fn of(head: &Parts, connection: u64) -> RecordedRequest {
        RecordedRequest {
            method: head.method.clone(),
            uri: head.uri.clone(),
            headers: head.headers.clone(),
            access_token: query::parameter(head.uri.query(), "access_token"),
            account: None,
            connection,
            body_len: 0,
            body_sha256: None,
            errcode: None,
        }
    }

    pub(super) fn with_body(mut self, len: u64, sha256: &str) -> RecordedRequest {
        self.body_len = len;
        self.body_sha256 = Some(sha256.to_owned());
        self
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path, as it was sent.
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The query, as it was sent and without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// The `access_token` of the query, decoded; the first one if there are more.
    pub fn access_token(&self) -> Option<&str> {
        self.access_token.as_deref()
    }

    /// The account, by its AppID: of an API call the one whose token it carried, dead or alive, of
    /// a token request the one that it named.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// Whether this asked for a token: `cgi-bin/token`, `stable_token` or WeCom's `gettoken`.
    pub fn is_token_request(&self) -> bool {
        token::is_token_path(self.path())
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// SHA-256 of the body in lowercase hex; `None` when the body was not read to its end.
    pub fn body_sha256(&self) -> Option<&str> {
        self.body_sha256.as_deref()
    }

    /// How many bytes of the body were read.
    pub fn body_len(&self) -> u64 {
        self.body_len
    }

    /// The errcode of the reply: 0 when all was well, also where WeChat sends none.
    ///
    /// `None` for replies that are no JSON object, and when there was no reply.
    pub fn errcode(&self) -> Option<i64> {
        self.errcode
    }

    /// Which TCP connection it came over: 1 for the first that the server accepted, and so on.
    pub fn connection(&self) -> u64 {
        self.connection
    }
}

impl fmt::Debug for RecordedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedRequest")
            .field("method", &self.method)
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

/// Counts of token requests, of all three kinds together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequests {
    /// How many arrived.
    pub started: usize,
    /// How many were answered, well or not; one whose client went away is not among them.
    pub finished: usize,
    /// How many made a new token.
    pub issued: usize,
}

/// Names a request in the [`Log`], also after the log was cleared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RequestId(u64);

struct Entry {
    id: RequestId,
    request: RecordedRequest,
    finished: bool,
    issued: bool,
}

/// Everything that arrived. The counts are taken from it, so that they and it never disagree.
#[derive(Default)]
pub(super) struct Log {
    next: u64,
    entries: Vec<Entry>,
}

impl Log {
    pub(super) fn arrived(&mut self, head: &Parts, connection: u64) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        self.entries.push(Entry {
            id,
            request: RecordedRequest::of(head, connection),
            finished: false,
            issued: false,
        });
        id
    }

    pub(super) fn of_account(&mut self, id: RequestId, appid: String) {
        if let Some(entry) = self.entry(id) {
            entry.request.account = Some(appid);
        }
    }

    pub(super) fn body_grew(&mut self, id: RequestId, by: u64) {
        if let Some(entry) = self.entry(id) {
            entry.request.body_len += by;
        }
    }

    pub(super) fn body_ended(&mut self, id: RequestId, sha256: String) {
        if let Some(entry) = self.entry(id) {
            entry.request.body_sha256 = Some(sha256);
        }
    }

    pub(super) fn issued(&mut self, id: RequestId) {
        if let Some(entry) = self.entry(id) {
            entry.issued = true;
        }
    }

    pub(super) fn finished(&mut self, id: RequestId, errcode: Option<i64>) {
        if let Some(entry) = self.entry(id) {
            entry.finished = true;
            entry.request.errcode = errcode;
        }
    }

    pub(super) fn requests(&self) -> Vec<RecordedRequest> {
        self.entries
            .iter()
            .map(|entry| entry.request.clone())
            .collect()
    }

    /// Those of one account, or all.
    pub(super) fn token_requests(&self, appid: Option<&str>) -> TokenRequests {
        let mut counts = TokenRequests::default();
        for entry in &self.entries {
            let counted = appid.is_none() || entry.request.account() == appid;
            if counted && entry.request.is_token_request() {
                counts.started += 1;
                counts.finished += usize::from(entry.finished);
                counts.issued += usize::from(entry.issued);
            }
        }
        counts
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    fn entry(&mut self, id: RequestId) -> Option<&mut Entry> {
        let at = self.entries.binary_search_by_key(&id, |entry| entry.id);
        at.ok().map(|at| &mut self.entries[at])
    }
}
