//! `ReqwestAuthLayer` over services that must be made ready, and callers that make it ready or do
//! not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::future::join_all;
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_wechat::{ClientCredential, TokenManager};

use super::super::*;
use super::adapter::Setup;
use super::adapters::{ReqwestAuth, ReqwestAuthLayer};
use super::reqwest::{Client, Error, Request, Response};

/// A client that must be made ready for each call, counts it, and panics where that was forgotten.
struct Strict {
    client: Client,
    is_ready: bool,
    made_ready: Arc<AtomicUsize>,
}

/// As in tower's own services, a clone of one that is ready is not.
impl Clone for Strict {
    fn clone(&self) -> Self {
        Strict {
            client: self.client.clone(),
            is_ready: false,
            made_ready: Arc::clone(&self.made_ready),
        }
    }
}

impl Service<Request> for Strict {
    type Response = Response;
    type Error = Error;
    type Future = <Client as Service<Request>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !self.is_ready {
            self.is_ready = true;
            self.made_ready.fetch_add(1, Ordering::SeqCst);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        assert!(self.is_ready, "called before it was ready");
        self.is_ready = false;
        self.client.call(request)
    }
}

/// The layer over a strict client, with a token, and how often that was made ready.
async fn strict() -> (Setup, ReqwestAuth<Strict>, Arc<AtomicUsize>) {
    let setup = Setup::new().await;
    setup.tokens.token().await.unwrap();
    let made_ready = Arc::new(AtomicUsize::new(0));
    let strict = Strict {
        client: setup.client.clone(),
        is_ready: false,
        made_ready: Arc::clone(&made_ready),
    };
    let service = ReqwestAuthLayer::new(setup.layer.clone()).layer(strict);
    (setup, service, made_ready)
}

async fn assert_ok(reply: impl Future<Output = Result<Response, Error>>) {
    let reply = in_time(reply).await.unwrap();
    assert_eq!(reply.text().await.unwrap(), OK);
}

#[tokio::test]
async fn a_call_that_was_made_ready_uses_that_and_no_more() {
    let (setup, mut service, made_ready) = strict().await;
    for calls in 1..=3 {
        let ready = ServiceExt::<Request>::ready(&mut service).await.unwrap();
        assert_ok(ready.call(setup.message("o1"))).await;
        assert_eq!(made_ready.load(Ordering::SeqCst), calls);
    }
}

#[tokio::test]
async fn a_call_that_was_not_made_ready_makes_it_ready_by_itself() {
    let (setup, mut service, made_ready) = strict().await;
    assert_ok(service.call(setup.message("o1"))).await;
    assert_eq!(made_ready.load(Ordering::SeqCst), 1);
    assert_ok(service.execute(setup.message("o2"))).await;
    assert_eq!(made_ready.load(Ordering::SeqCst), 2);
    // What was made ready is good for one call, and not for the next.
    ServiceExt::<Request>::ready(&mut service).await.unwrap();
    assert_ok(service.call(setup.message("o3"))).await;
    assert_ok(service.call(setup.message("o4"))).await;
    assert_eq!(made_ready.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_clone_of_a_service_that_was_made_ready_is_not() {
    let (setup, mut service, made_ready) = strict().await;
    ServiceExt::<Request>::ready(&mut service).await.unwrap();
    assert_ok(service.clone().call(setup.message("o1"))).await;
    assert_eq!(made_ready.load(Ordering::SeqCst), 2);
    assert_ok(service.call(setup.message("o2"))).await;
    assert_eq!(made_ready.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_replay_waits_for_ready_again() {
    // trap 1: tower-resilience#362
    let (setup, mut service, made_ready) = strict().await;
    setup.revoke().await;
    assert_ok(service.call(setup.message("o1"))).await;
    assert_eq!(made_ready.load(Ordering::SeqCst), 2);

    setup.revoke().await;
    let ready = ServiceExt::<Request>::ready(&mut service).await.unwrap();
    assert_ok(ready.call(setup.message("o2"))).await;
    assert_eq!(made_ready.load(Ordering::SeqCst), 4);
}

/// Calls at once at a revoked token, by somebody who does not ask whether `inner` is ready.
async fn assert_survives<S>(setup: &Setup, inner: S)
where
    S: Service<Request, Response = Response, Error = Error, Future: Send> + Clone + Send + 'static,
{
    setup.revoke().await;
    let mut service = ReqwestAuthLayer::new(setup.layer.clone()).layer(inner);
    let calls = (0..10).map(|number| {
        let reply = service.call(setup.message(&format!("o{number}")));
        tokio::spawn(assert_ok(reply))
    });
    for done in join_all(calls).await {
        done.unwrap();
    }
    assert_eq!(setup.wechat.token_requests().started, 1);
    assert_eq!(setup.wechat.messages().len(), 10);
}

#[tokio::test]
async fn callers_that_do_not_ask_survive_a_concurrency_limit() {
    // It panics when it is called and was not made ready, and one place is the fewest for a replay.
    let setup = Setup::new().await;
    let limited = ConcurrencyLimit::new(setup.client.clone(), 1);
    assert_survives(&setup, limited).await;
}

#[tokio::test]
async fn callers_that_do_not_ask_survive_a_buffer() {
    // trap 1: tower#547. Its error is a `BoxError`, and an SDK's wants to be reqwest's.
    let setup = Setup::new().await;
    let buffered = Buffer::new(setup.client.clone(), 1);
    let own = |error: BoxError| *error.downcast::<Error>().expect("the client's error");
    assert_survives(&setup, ServiceExt::<Request>::map_err(buffered, own)).await;
}

#[tokio::test]
async fn readiness_is_given_back_while_a_token_is_waited_for() {
    // trap 2: the token request goes through the same limited service, and there is one place.
    let setup = Setup::new().await;
    let limited = ConcurrencyLimit::new(setup.client.clone(), 1);
    let (appid, secret) = (setup.wechat.appid(), setup.wechat.secret());
    let source = ClientCredential::new(limited.clone(), appid, secret);
    let tokens = TokenManager::new(source.base_url(setup.wechat.url()));
    let layer = WechatAuthLayer::new(tokens).api_origin(setup.wechat.url());
    let mut service = ReqwestAuthLayer::new(layer).layer(limited);
    for _ in 0..2 {
        // For the first token, and then for another.
        let ready = in_time(ServiceExt::<Request>::ready(&mut service)).await;
        assert_ok(ready.unwrap().call(setup.message("o1"))).await;
        setup.wechat.revoke();
    }
    assert_eq!(setup.wechat.token_requests().started, 2);
}
