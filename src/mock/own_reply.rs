use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::record::RecordedRequest;
use super::reply::{self, Reply};
use super::wording::error_text;

type Condition = Arc<dyn Fn(&RecordedRequest, &[u8]) -> bool + Send + Sync>;

/// A reply of your own to a path; see [`MockWechat::reply_to`](super::MockWechat::reply_to).
///
/// ```
/// # use tower_wechat::mock::{MockReply, MockWechat};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let wechat = MockWechat::start().await;
/// let room = MockReply::json(serde_json::json!({"errcode": 0, "errmsg": "ok", "roomId": 33}));
/// wechat.reply_to("/wxaapi/broadcast/room/create", room);
///
/// let full = MockReply::error(300036).when(|_, body| body.starts_with(br#"{"name":"full""#));
/// wechat.reply_to("/wxaapi/broadcast/room/create", full);
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct MockReply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    condition: Option<Condition>,
    needs_token: bool,
}

impl MockReply {
    /// These bytes, with status 200, called JSON as WeChat calls it.
    pub fn new(body: impl Into<Bytes>) -> MockReply {
        let mut headers = HeaderMap::new();
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static(reply::JSON),
        );
        MockReply {
            status: StatusCode::OK,
            headers,
            body: body.into(),
            condition: None,
            needs_token: true,
        }
    }

    /// This JSON.
    pub fn json(value: Value) -> MockReply {
        MockReply::new(value.to_string())
    }

    /// `{"errcode":0,"errmsg":"ok"}`.
    pub fn ok() -> MockReply {
        MockReply::new(reply::OK)
    }

    /// An error, in WeChat's words where the mock knows them.
    pub fn error(errcode: i64) -> MockReply {
        MockReply::new(error_text(errcode))
    }

    /// With this HTTP status. A number that is no status counts as 500.
    pub fn status(mut self, status: u16) -> MockReply {
        self.status = reply::status(status);
        self
    }

    /// With this header, in place of any of that name.
    ///
    /// # Panics
    ///
    /// When it is no header.
    #[track_caller]
    pub fn header(mut self, name: &str, value: &str) -> MockReply {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
        else {
            panic!("{name:?} with this value is no header");
        };
        self.headers.insert(name, value);
        self
    }

    /// Only if this holds of the request and its body; a body of more than 1 MiB is handed in
    /// empty.
    pub fn when(
        mut self,
        condition: impl Fn(&RecordedRequest, &[u8]) -> bool + Send + Sync + 'static,
    ) -> MockReply {
        self.condition = Some(Arc::new(condition));
        self
    }

    /// Whatever token the request carries, or with none.
    pub fn without_token(mut self) -> MockReply {
        self.needs_token = false;
        self
    }

    /// Whether it is a reply to this request.
    pub(super) fn answers(&self, request: &RecordedRequest, body: &[u8]) -> bool {
        let condition = self.condition.as_ref();
        condition.is_none_or(|condition| condition(request, body))
    }

    /// Whether it is given to a request whose token is good, or not.
    pub(super) fn is_given(&self, has_token: bool) -> bool {
        has_token || !self.needs_token
    }

    pub(super) fn into_reply(self) -> Reply {
        Reply::own(self.status, self.headers, self.body)
    }
}

/// The body may hold a token.
impl fmt::Debug for MockReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockReply")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// All replies of users' own, each at its path.
#[derive(Default)]
pub(super) struct OwnReplies(Vec<(String, MockReply)>);

impl OwnReplies {
    pub(super) fn push(&mut self, path: String, reply: MockReply) {
        self.0.push((path, reply));
    }

    /// The replies to a path, the latest first.
    pub(super) fn at(&self, path: &str) -> impl Iterator<Item = &MockReply> {
        let replies = self.0.iter().rev();
        let of_path = move |at: &str| match at.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => at == path,
        };
        replies.filter_map(move |(at, reply)| of_path(at).then_some(reply))
    }

    /// Whether a request to this path may be answered although its token is bad.
    pub(super) fn may_need_no_token(&self, path: &str) -> bool {
        self.at(path).any(|reply| !reply.needs_token)
    }

    /// Whether a reply to this path may be chosen by its request's body.
    pub(super) fn look_at_body(&self, path: &str) -> bool {
        self.at(path).any(|reply| reply.condition.is_some())
    }
}
