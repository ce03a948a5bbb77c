use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::TRANSFER_ENCODING;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::body::ReplyBody;
use super::failure::NoReply;
use super::intake::{self, Keep, Received};
use super::own_reply::MockReply;
use super::record::{RecordedRequest, RequestId};
use super::reply::Reply;
use super::state::{Inner, State};
use super::{api, token};

/// The running server; dropping it stops it.
pub(super) struct Server {
    addr: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(state: State) -> Server {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (addr, listener) = match bound {
            Ok(bound) => bound,
            Err(error) => panic!("MockWechat cannot bind a port on 127.0.0.1: {error}"),
        };
        let state = Arc::new(state);
        Server {
            addr,
            accepting: tokio::spawn(accept(listener, state.clone())),
            state,
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The task owns the listener and the connections' tasks, which end with it.
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    let mut ordinal = 0;
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                ordinal += 1;
                connections.spawn(converse(stream, ordinal, state.clone()));
            }
            // Out of file descriptors, as a rule: that passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn converse(stream: TcpStream, connection: u64, state: Arc<State>) {
    // Without this, small replies may wait 40 ms for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(state.clone(), connection, request));
    // hyper gets no timer: under a paused clock its header timeout would fire at once. What it
    // returns tells that the client broke off, or that a reply was withheld on purpose.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    state: Arc<State>,
    connection: u64,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, NoReply> {
    let (head, body) = request.into_parts();
    let id = state.lock().log.arrived(&head, connection);
    let call = Call {
        state: &state,
        id,
        connection,
        head: &head,
    };
    let reply = if call.is_refused_for_chunks() {
        call.refuse_chunks(body).await?
    } else if token::is_token_path(head.uri.path()) {
        token::answer(&call, body).await?
    } else {
        api::answer(&call, body).await?
    };
    state.lock().log.finished(id, reply.errcode());
    Ok(reply.into_response())
}

/// A request under way.
pub(super) struct Call<'a> {
    pub(super) state: &'a State,
    pub(super) id: RequestId,
    pub(super) head: &'a Parts,
    connection: u64,
}

impl Call<'_> {
    pub(super) fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Notes whose request it is.
    pub(super) fn belongs_to(&self, inner: &mut Inner, account: usize) {
        let appid = self.state.accounts[account].appid.clone();
        inner.log.of_account(self.id, appid);
    }

    /// The reply of the user's own to this request. Nothing is locked while the user's conditions
    /// are asked.
    pub(super) fn own_reply(&self, received: &Received, has_token: bool) -> Option<MockReply> {
        let replies: Vec<MockReply> = {
            let inner = self.state.lock();
            inner.replies.at(self.path()).cloned().collect()
        };
        if replies.is_empty() {
            return None;
        }
        let request = RecordedRequest::of(self.head, self.connection);
        let request = request.with_body(received.len, &received.sha256);
        let mut replies = replies.into_iter();
        let reply = replies.find(|reply| reply.answers(&request, received.bytes()))?;
        reply.is_given(has_token).then_some(reply)
    }

    /// WeChat wants to know a body's length beforehand.
    fn is_refused_for_chunks(&self) -> bool {
        let chunked = self.head.headers.contains_key(TRANSFER_ENCODING);
        chunked && !self.state.lock().settings.accept_chunked
    }

    async fn refuse_chunks(&self, body: Incoming) -> Result<Reply, NoReply> {
        if self.state.lock().settings.answer_early {
            intake::discard(body);
        } else {
            intake::read(self, body, Keep::default()).await?;
        }
        Ok(Reply::empty(StatusCode::PRECONDITION_FAILED))
    }
}
