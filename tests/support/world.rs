//! WeChat as a service in the process, for tests that simulate days: no sockets, so time can be
//! paused.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::Service;

use super::{OK, REJECTED, token_in};

const LIFE: Duration = Duration::from_secs(7200);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a WeChat of a simulated day does. A call whose body begins with `access_token=` is rejected
/// whatever its token (WxJava#1087).
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    made: usize,
    current: Option<Token>,
    /// The one before, which lives on if nobody forced the new one.
    former: Option<Token>,
    forced: VecDeque<Instant>,
    /// How often more than 20 times in 24 hours were wanted.
    refused: usize,
    classic: VecDeque<Instant>,
}

#[derive(Clone)]
struct Token {
    name: String,
    ends: Instant,
    void: bool,
}

impl World {
    /// Voids the token behind everybody's back.
    pub fn revoke(&self) {
        let mut state = self.0.lock().unwrap();
        state.former = None;
        if let Some(current) = &mut state.current {
            current.void = true;
        }
    }

    /// How many forced refreshes there were in the last 24 hours.
    pub fn forced(&self) -> usize {
        self.0.lock().unwrap().forced.len()
    }

    /// How many were refused, as there had been 20.
    pub fn refused(&self) -> usize {
        self.0.lock().unwrap().refused
    }

    /// How many classic tokens were given in the last 24 hours.
    pub fn classic(&self) -> usize {
        self.0.lock().unwrap().classic.len()
    }

    /// The token in use, as WeChat knows it.
    pub fn current(&self) -> Option<String> {
        let state = self.0.lock().unwrap();
        state.current.as_ref().map(|token| token.name.clone())
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        sleep(Duration::from_millis(50)).await;
        let (head, body) = request.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return Response::new(Body::from(OK)),
        };
        let answer = self.act(head, &body);
        sleep(Duration::from_millis(50)).await;
        Response::new(Body::from(answer))
    }

    fn act(&self, head: Parts, body: &[u8]) -> String {
        let mut state = self.0.lock().unwrap();
        match head.uri.path() {
            "/cgi-bin/stable_token" => {
                let fields: Value = serde_json::from_slice(body).unwrap();
                state.stable(fields["force_refresh"] == true)
            }
            "/cgi-bin/token" => state.classic(),
            _ if body.starts_with(b"access_token=") => REJECTED.to_owned(),
            _ => {
                let token = token_in(&Request::from_parts(head, ()));
                state.call(&token.unwrap_or_default())
            }
        }
    }
}

impl State {
    fn make(&mut self) -> &Token {
        self.made += 1;
        self.current.insert(Token {
            name: format!("real-token-number-{}", self.made),
            ends: Instant::now() + LIFE,
            void: false,
        })
    }

    fn stable(&mut self, force: bool) -> String {
        let now = Instant::now();
        while self.forced.front().is_some_and(|at| now >= *at + DAY) {
            self.forced.pop_front();
        }
        let just_now = |at: &Instant| now < *at + Duration::from_secs(30);
        let ends_soon = |token: &Token| now + Duration::from_secs(300) >= token.ends;
        if force && !self.forced.back().is_some_and(just_now) {
            if self.forced.len() >= 20 {
                self.refused += 1;
                return json!({"errcode": 45009, "errmsg": "reach max api daily quota limit"})
                    .to_string();
            }
            self.forced.push_back(now);
            // "The former access_token is void at once" (the page "Get stable access token").
            self.former = None;
            return given(self.make());
        }
        match self.current.take() {
            Some(token) if !ends_soon(&token) => given(self.current.insert(token)),
            former => {
                self.former = former;
                given(self.make())
            }
        }
    }

    fn classic(&mut self) -> String {
        let now = Instant::now();
        while self.classic.front().is_some_and(|at| now >= *at + DAY) {
            self.classic.pop_front();
        }
        if self.classic.len() >= 2000 {
            self.refused += 1;
            return json!({"errcode": 45009, "errmsg": "reach max api daily quota limit"})
                .to_string();
        }
        self.classic.push_back(now);
        self.former = self.current.take();
        given(self.make())
    }

    fn call(&self, token: &str) -> String {
        let now = Instant::now();
        let mut known = self.current.iter().chain(&self.former);
        match known.find(|known| known.name == token) {
            Some(known) if !known.void && now < known.ends => OK.to_owned(),
            _ => REJECTED.to_owned(),
        }
    }
}

fn given(token: &Token) -> String {
    let left = token.ends.saturating_duration_since(Instant::now());
    json!({"access_token": token.name, "expires_in": left.as_secs()}).to_string()
}

impl Service<Request<Body>> for World {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let world = self.clone();
        Box::pin(async move { Ok(world.answer(request).await) })
    }
}
