//! The layer among other middlewares of reqwest-middleware's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::Uri;
use http::Extensions;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error, Middleware, Next, Result};
use reqwest_retry::policies::ExponentialBackoff;
use reqwest_retry::{RetryError, RetryTransientMiddleware, Retryable, default_on_request_failure};
use reqwest_tracing::{SpanBackendWithUrl, TracingMiddleware};
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tower_wechat::mock::Failure;
use tower_wechat::{
    AccessToken, ClientCredential, SkipAuth, TokenError, TokenManager, TokenSource, source_fn,
};

use super::super::*;
use super::adapter::Setup;
use super::adapters::client_builder;
use super::calls::{assert_not_sent, without_a_token};
use super::reqwest::{Request, Response};

/// The stack that the documentation shows, with `between` before the layer.
fn retrying(setup: &Setup, between: impl Middleware) -> ClientWithMiddleware {
    let policy = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(1), Duration::from_millis(5))
        .build_with_max_retries(3);
    ClientBuilder::new(setup.client.clone())
        .with(TracingMiddleware::default())
        .with(RetryTransientMiddleware::new_with_policy(policy))
        .with(between)
        .with(setup.layer.clone())
        .build()
}

/// Counts the calls, and before the second lets somebody else get another token.
#[derive(Clone)]
struct Meanwhile {
    calls: Arc<AtomicUsize>,
    tokens: TokenManager,
}

impl Meanwhile {
    fn new(setup: &Setup) -> Self {
        Meanwhile {
            calls: Arc::default(),
            tokens: setup.tokens.clone(),
        }
    }
}

#[async_trait::async_trait]
impl Middleware for Meanwhile {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        if self.calls.fetch_add(1, Ordering::SeqCst) == 1 {
            let old = self.tokens.cached().unwrap();
            self.tokens.refresh(&old).await.unwrap();
        }
        next.run(request, extensions).await
    }
}

#[tokio::test]
async fn a_502_is_retried_with_the_token_of_the_day() {
    let setup = Setup::new().await;
    let old = setup.tokens.token().await.unwrap();
    let meanwhile = Meanwhile::new(&setup);
    let client = retrying(&setup, meanwhile.clone());
    setup.wechat.clear();
    setup.wechat.fail_next(Failure::ApiStatus(502));

    let reply = client.execute(setup.message("o1")).await.unwrap();
    // The retry's own: with the old token it would have been rejected first.
    assert_eq!(outcome_in(reply.extensions()).errcode(), None);
    assert_eq!(reply.text().await.unwrap(), OK);
    assert_eq!(meanwhile.calls.load(Ordering::SeqCst), 2);
    let requests = setup.wechat.requests();
    let [first, _token, second] = &requests[..] else {
        panic!("{requests:?}")
    };
    let current = setup.wechat.current_token().unwrap();
    assert_ne!(current, old.secret());
    assert_eq!(
        first.query(),
        Some(&*format!("access_token={}", old.secret()))
    );
    assert_eq!(second.query(), Some(&*format!("access_token={current}")));
}

#[tokio::test]
async fn without_a_first_token_it_fails_with_the_layers_error_and_is_not_retried() {
    for (setup, errcode) in without_a_token().await {
        let meanwhile = Meanwhile::new(&setup);
        let client = retrying(&setup, meanwhile.clone());
        let error = client.execute(setup.message("o1")).await.unwrap_err();

        // reqwest-retry puts it into an error of its own; `WithRetries` would be one that it had
        // retried.
        let Error::Middleware(error) = error else {
            panic!("{error:?}")
        };
        let Ok(RetryError::Error(error)) = error.downcast() else {
            panic!("retried, or an error of another kind")
        };
        let verdict = default_on_request_failure(&error);
        assert!(matches!(verdict, Some(Retryable::Fatal)));
        let Error::Middleware(error) = error else {
            panic!("{error:?}")
        };
        let error: tower_wechat::Error = error.downcast().unwrap();
        assert!(error.is_token());
        assert_eq!(error.token_error().unwrap().errcode(), errcode);

        assert_eq!(meanwhile.calls.load(Ordering::SeqCst), 1);
        let asked = setup.wechat.token_requests().started;
        assert_eq!(asked, usize::from(errcode.is_some()));
        assert_not_sent(&setup);
    }
}

#[tokio::test]
async fn what_is_traced_before_it_has_the_url_without_the_token() {
    let setup = Setup::new().await;
    let recorded = Recorded::default();
    let writer = recorded.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .finish();
    let _recording = tracing::subscriber::set_default(subscriber);
    let client = ClientBuilder::new(setup.client.clone())
        .with(TracingMiddleware::<SpanBackendWithUrl>::new())
        .with(setup.layer.clone())
        .build();
    let url = setup.url("/cgi-bin/user/get?next_openid=o1");
    let reply = client.get(&url).send().await.unwrap();
    reply.bytes().await.unwrap();
    let traced = recorded.text();
    assert!(traced.contains(&url), "{traced}");
    assert!(!traced.contains("access_token="), "{traced}");
    assert!(
        !traced.contains(&setup.wechat.current_token().unwrap()),
        "{traced}"
    );
}

#[tokio::test]
async fn skip_auth_sends_a_request_as_it_is() {
    let setup = Setup::new().await;
    let client = ClientBuilder::new(setup.client.clone())
        .with(setup.layer.clone())
        .build();
    let request = client.get(setup.url("/cgi-bin/user/get?lang=zh_CN"));
    let reply = request.with_extension(SkipAuth).send().await.unwrap();
    let answer: Value = reply.json().await.unwrap();
    assert_eq!(answer["errcode"], 41001, "access_token missing");
    let requests = setup.wechat.requests();
    assert_eq!(requests.len(), 1, "nor was a token asked for: {requests:?}");
    assert_eq!(requests[0].query(), Some("lang=zh_CN"));
}

#[tokio::test]
async fn select_sees_what_a_request_was_given_with_extension() {
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Account(&'static str);

    let query = async |uri: Uri| uri.query().unwrap_or_default().to_owned();
    let origin = serve(Router::new().fallback(query)).await;
    let accounts = HashMap::from(["shop", "news"].map(|name| {
        let token = AccessToken::new(format!("token-of-{name}"), TWO_HOURS);
        let source = source_fn(move |_| {
            let token = token.clone();
            async { Ok(token) }
        });
        (Account(name), TokenManager::new(source))
    }));
    let layer = WechatAuthLayer::select(move |request| {
        accounts.get(request.extensions.get::<Account>()?).cloned()
    });
    let client = ClientBuilder::new(client_builder().build().unwrap())
        .with(layer.api_origin(&origin))
        .build();

    for name in ["shop", "news"] {
        let request = client.get(format!("{origin}/cgi-bin/user/get"));
        let reply = request.with_extension(Account(name)).send().await.unwrap();
        let query = reply.text().await.unwrap();
        assert_eq!(query, format!("access_token=token-of-{name}"));
    }
    let reply = client
        .get(format!("{origin}/cgi-bin/user/get"))
        .send()
        .await;
    assert_eq!(reply.unwrap().text().await.unwrap(), "");
}

/// Put into the extensions by the caller.
#[derive(Clone)]
struct Callers;

/// Put into them by the middleware that is first.
#[derive(Clone)]
struct Firsts;

/// Put into them by the middleware that is last: how often it was passed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sendings(usize);

/// Tells of each call what is in the extensions after it, and gives it up when told to.
struct First {
    give_up: Arc<Notify>,
    tell: mpsc::UnboundedSender<After>,
}

#[derive(Debug, PartialEq)]
struct After {
    has_callers: bool,
    has_firsts: bool,
    sendings: Option<Sendings>,
}

#[async_trait::async_trait]
impl Middleware for First {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        extensions.insert(Firsts);
        let reply = tokio::select! {
            reply = next.run(request, extensions) => reply,
            () = self.give_up.notified() => Err(Error::middleware(std::io::Error::other("given up"))),
        };
        let after = After {
            has_callers: extensions.get::<Callers>().is_some(),
            has_firsts: extensions.get::<Firsts>().is_some(),
            sendings: extensions.get().copied(),
        };
        self.tell.send(after).unwrap();
        reply
    }
}

/// Counts its passages in the extensions, and stops the `stalls_at`th for ever, having said so.
struct Last {
    stalls_at: usize,
    stalled: Arc<Notify>,
}

#[async_trait::async_trait]
impl Middleware for Last {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        assert!(extensions.get::<Callers>().is_some() && extensions.get::<Firsts>().is_some());
        let sendings = extensions.get().map_or(0, |&Sendings(before)| before) + 1;
        extensions.insert(Sendings(sendings));
        if sendings == self.stalls_at {
            self.stalled.notify_one();
            std::future::pending::<()>().await;
        }
        next.run(request, extensions).await
    }
}

/// Makes a call at `url`, stalled at the given sending, and tells how it ended and what came after.
async fn passed(
    setup: &Setup,
    layer: WechatAuthLayer,
    url: String,
    stalls_at: usize,
) -> (Result<Response>, After) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let stalled = Arc::new(Notify::new());
    let give_up = Arc::clone(&stalled);
    let client = ClientBuilder::new(setup.client.clone())
        .with(First { give_up, tell })
        .with(layer)
        .with(Last { stalls_at, stalled })
        .build();
    let reply = in_time(client.get(url).with_extension(Callers).send()).await;
    (reply, told.recv().await.unwrap())
}

/// All is there, and the last middleware was passed so often.
fn all_and(sendings: usize) -> After {
    After {
        has_callers: true,
        has_firsts: true,
        sendings: (sendings > 0).then_some(Sendings(sendings)),
    }
}

const NEVER: usize = usize::MAX;

#[tokio::test]
async fn extensions_go_through_to_those_behind_and_back() {
    let setup = Setup::new().await;
    let url = setup.url("/cgi-bin/user/get");
    let (reply, after) = passed(&setup, setup.layer.clone(), url, NEVER).await;
    assert!(reply.is_ok());
    assert_eq!(after, all_and(1));
}

#[tokio::test]
async fn extensions_go_through_both_sendings_of_a_replayed_call() {
    let setup = Setup::revoked().await;
    let url = setup.url("/cgi-bin/user/get");
    let (reply, after) = passed(&setup, setup.layer.clone(), url, NEVER).await;
    assert!(outcome_in(reply.unwrap().extensions()).replayed());
    assert_eq!(after, all_and(2));
}

#[tokio::test]
async fn extensions_are_back_after_an_error() {
    let setup = Setup::new().await;
    let origin = nobody();
    let url = format!("{origin}/cgi-bin/user/get");
    let layer = setup.layer.clone().api_origin(&origin);
    let (reply, after) = passed(&setup, layer, url, NEVER).await;
    assert!(reply.unwrap_err().is_connect());
    assert_eq!(after, all_and(1));
}

#[tokio::test]
async fn extensions_are_back_when_the_call_is_given_up_at_any_sending() {
    for sending in [1, 2] {
        let setup = Setup::revoked().await;
        let url = setup.url("/cgi-bin/user/get");
        let (reply, after) = passed(&setup, setup.layer.clone(), url, sending).await;
        assert!(reply.unwrap_err().is_middleware());
        assert_eq!(after, all_and(sending));
    }
}

#[tokio::test]
async fn extensions_are_back_when_the_call_is_given_up_while_it_waits_for_a_token() {
    let setup = Setup::new().await;
    let asked = Arc::new(Notify::new());
    let ask = Arc::clone(&asked);
    let tokens = TokenManager::new(source_fn(move |_| {
        ask.notify_one();
        std::future::pending()
    }));
    let layer = WechatAuthLayer::new(tokens).api_origin(setup.wechat.url());
    let (tell, mut told) = mpsc::unbounded_channel();
    let client = ClientBuilder::new(setup.client.clone())
        .with(First {
            give_up: asked,
            tell,
        })
        .with(layer)
        .build();
    let request = client.get(setup.url("/cgi-bin/user/get"));
    let reply = in_time(request.with_extension(Callers).send()).await;
    assert!(reply.unwrap_err().is_middleware());
    assert_eq!(told.recv().await.unwrap(), all_and(0));
}

#[tokio::test]
async fn a_client_with_middleware_feeds_a_source_and_its_errors_tell_no_secret() {
    let setup = Setup::new().await;
    let client = ClientBuilder::new(setup.client.clone())
        .with(TracingMiddleware::default())
        .build();
    let (appid, secret) = (setup.wechat.appid(), setup.wechat.secret());
    let source = ClientCredential::new(client, appid, secret);
    let good = source.clone().base_url(setup.wechat.url());
    let token = good.issue(None).await.unwrap();
    assert_eq!(setup.wechat.current_token().unwrap(), token.secret());

    let error = source.base_url(nobody()).issue(None).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("Connection refused"), "{error}");
    let TokenError::Transport(error) = error else {
        panic!("{error:?}")
    };
    let clients = error.get_ref();
    assert!(!format!("{clients} {clients:?}").contains(secret));
}
