use std::time::Duration;

use tower::{Layer, ServiceExt};
use tower_wechat::mock::{Failure, MockWechat};
use tower_wechat::{AuthOutcome, ClientCredential, StableToken, TokenError, TokenSource};

use super::adapters::{HttpClient, ReqwestAuthLayer, client_builder};
use super::reqwest::{Client, Request, Response};
use super::*;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Which of the adapters a call goes through.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    HttpClient,
    Auth,
    #[allow(dead_code, reason = "not there for 0.12")]
    Middleware,
}

impl Kind {
    async fn send(
        self,
        client: Client,
        layer: WechatAuthLayer,
        request: Request,
    ) -> Result<Response, BoxError> {
        match self {
            Kind::HttpClient => {
                let service = layer.layer(HttpClient::new(client));
                let request: http::Request<super::reqwest::Body> = request.try_into()?;
                let reply = service.oneshot(request).await;
                // What the layer hands out is reqwest's own error.
                let reply = reply.map_err(tower_wechat::Error::into_source)?;
                Ok(reply.map(super::reqwest::Body::wrap).into())
            }
            Kind::Auth => {
                let service = ReqwestAuthLayer::new(layer).layer(client);
                Ok(service.execute(request).await?)
            }
            Kind::Middleware => through_middleware(client, layer, request).await,
        }
    }

    /// A GET of `path` at `origin` with a client of the crate's.
    async fn get(self, origin: &str, path: &str) -> Result<Response, BoxError> {
        let client = client_builder().build().unwrap();
        self.get_by(client, origin, path).await
    }

    async fn get_by(self, client: Client, origin: &str, path: &str) -> Result<Response, BoxError> {
        record();
        let request = client.get(format!("{origin}{path}")).build().unwrap();
        self.send(client, layer(origin), request).await
    }
}

/// What reqwest says of itself.
fn reqwests_own(error: &BoxError) -> &super::reqwest::Error {
    let error: &(dyn StdError + 'static) = &**error;
    let mut next = Some(error);
    loop {
        let error = next.expect("an error of reqwest's is among them");
        if let Some(error) = error.downcast_ref() {
            return error;
        }
        next = error.source();
    }
}

#[tokio::test]
async fn a_refused_connection() {
    for kind in KINDS {
        let error = kind.get(&nobody(), "/cgi-bin/a").await.unwrap_err();
        assert_silent(&told(&*error));
        assert!(reqwests_own(&error).is_connect(), "{kind:?}");
        assert!(reqwests_own(&error).url().is_none(), "{kind:?}");
    }
    assert_silent(&record().text());
}

#[tokio::test]
async fn a_timeout() {
    let server = bad_server("http://127.0.0.1:9").await;
    for kind in KINDS {
        let client = client_builder()
            .timeout(Duration::from_millis(50))
            .build()
            .unwrap();
        let error = kind.get_by(client, &server, "/slow").await.unwrap_err();
        assert_silent(&told(&*error));
        assert!(reqwests_own(&error).is_timeout(), "{kind:?}");
    }
    assert_silent(&record().text());
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_referer_along() {
    let (other, mut heard) = other_host().await;
    let server = bad_server(&other).await;
    for kind in KINDS {
        let reply = kind.get(&server, "/away").await.unwrap();
        let (uri, headers) = heard.recv().await.unwrap();
        assert_eq!(uri, "/landed");
        assert_eq!(headers.get(header::REFERER), None, "{kind:?}");
        assert_silent(&format!("{headers:?} {reply:?}"));
        assert_eq!(reply.url().as_str(), format!("{other}/landed"));
    }
}

#[tokio::test]
async fn a_redirect_that_carries_the_query_on_is_not_seen_in_the_replys_url() {
    let (other, _heard) = other_host().await;
    let server = bad_server(&other).await;
    for kind in KINDS {
        let reply = kind.get(&server, "/away-with-the-query?a=1").await.unwrap();
        assert_eq!(reply.url().as_str(), format!("{other}/landed?a=1&more=1"));
        assert_silent(&format!("{reply:?}"));
    }
}

#[tokio::test]
async fn a_redirect_to_a_bad_scheme_is_told_without_the_place() {
    let server = bad_server("http://127.0.0.1:9").await;
    for kind in KINDS {
        let error = kind.get(&server, "/to-a-bad-scheme").await.unwrap_err();
        assert_silent(&told(&*error));
        assert!(told(&*error).contains("scheme"), "{kind:?}: {error}");
    }
}

#[tokio::test]
async fn a_redirect_that_a_policy_of_the_users_refuses_and_names() {
    let server = bad_server("http://127.0.0.1:9").await;
    for kind in KINDS {
        let client =
            client_builder().redirect(super::reqwest::redirect::Policy::custom(|attempt| {
                let place = format!("not to {}", attempt.url());
                attempt.error(place)
            }));
        let client = client.build().unwrap();
        let error = kind
            .get_by(client, &server, "/away-with-the-query")
            .await
            .unwrap_err();
        assert_silent(&told(&*error));
        assert!(told(&*error).contains("redirect"), "{kind:?}: {error}");
    }
}

#[tokio::test]
async fn a_redirect_without_an_end() {
    let server = bad_server("http://127.0.0.1:9").await;
    for kind in KINDS {
        let error = kind.get(&server, "/for-ever").await.unwrap_err();
        assert_silent(&told(&*error));
        // Nothing in it tells the token, so it is reqwest's own.
        assert!(reqwests_own(&error).is_redirect(), "{kind:?}");
    }
}

#[tokio::test]
async fn a_reply_of_another_status_and_what_is_made_of_it() {
    let server = bad_server("http://127.0.0.1:9").await;
    for kind in KINDS {
        let reply = kind.get(&server, "/500").await.unwrap();
        assert_silent(&format!("{reply:?} {reply:#?}"));
        let error = reply.error_for_status().unwrap_err();
        assert_silent(&told(&error));
        assert_eq!(error.url().unwrap().as_str(), format!("{server}/500"));
    }
}

#[tokio::test]
async fn a_reply_that_cannot_be_decoded() {
    let server = bad_server("http://127.0.0.1:9").await;
    for kind in KINDS {
        let reply = kind.get(&server, "/text").await.unwrap();
        let error = reply.json::<Vec<u8>>().await.unwrap_err();
        assert!(error.is_decode());
        assert_silent(&told(&error));
    }
}

#[tokio::test]
async fn a_body_that_breaks_off() {
    let server = bad_server("http://127.0.0.1:9").await;
    for kind in KINDS {
        let reply = kind.get(&server, "/cut").await.unwrap();
        assert_silent(&told(&reply.bytes().await.unwrap_err()));
    }
}

#[tokio::test]
async fn a_url_that_is_none_for_http() {
    for kind in KINDS {
        let client = client_builder().build().unwrap();
        let url = "ftp://127.0.0.1/cgi-bin/a?access_token=S3CRETs3cretS3CRETs3cret";
        let request = client.get(url).build().unwrap();
        let error = kind.send(client, layer("http://127.0.0.1"), request).await;
        assert_silent(&told(&*error.unwrap_err()));
    }
}

#[tokio::test]
async fn what_a_caller_sends_out_of_scope_comes_back_without_its_secrets_as_well() {
    let (other, mut heard) = other_host().await;
    for kind in KINDS {
        let path = format!("/sns/userinfo?access_token={SECRET}&openid=o&appsecret={SECRET}");
        let reply = kind.get(&other, &path).await.unwrap();
        let (uri, _) = heard.recv().await.unwrap();
        assert_eq!(uri, path.as_str(), "it is sent as it is");
        assert_eq!(
            reply.url().as_str(),
            format!("{other}/sns/userinfo?openid=o")
        );
    }
}

#[tokio::test]
async fn token_requests_by_a_reqwest_client() {
    record();
    let failures = [
        Failure::Token(40125),
        Failure::TokenStatus(502),
        Failure::TokenBody("<html>".into()),
        Failure::TokenDisconnect,
    ];
    for failure in failures {
        for stable in [false, true] {
            let wechat = MockWechat::builder().account("wx1", SECRET).start().await;
            wechat.fail_next(failure.clone());
            assert_token_error_is_silent(&wechat.url(), stable).await;
        }
    }
    for stable in [false, true] {
        assert_token_error_is_silent(&nobody(), stable).await;
    }
    assert_silent(&record().text());
}

async fn assert_token_error_is_silent(base_url: &str, stable: bool) {
    let client = client_builder().build().unwrap();
    let error = match stable {
        false => {
            let source = ClientCredential::new(client, "wx1", SECRET).base_url(base_url);
            assert_silent(&format!("{source:?}"));
            source.issue(None).await.unwrap_err()
        }
        true => {
            let source = StableToken::new(client, "wx1", SECRET).base_url(base_url);
            source.issue(None).await.unwrap_err()
        }
    };
    assert_silent(&told(&error));
    if let TokenError::Transport(error) = error {
        // Also not when somebody takes the client's own error out to look at it.
        assert_silent(&told(error.get_ref()));
    }
}

#[tokio::test]
async fn the_futures_and_services_themselves() {
    let server = bad_server("http://127.0.0.1:9").await;
    let client = client_builder().build().unwrap();
    let service = ReqwestAuthLayer::new(layer(&server)).layer(client.clone());
    let reply = service.execute(client.get(format!("{server}/text")).build().unwrap());
    assert_silent(&format!("{service:?} {reply:?}"));
    let reply = reply.await.unwrap();
    assert!(!reply.extensions().get::<AuthOutcome>().unwrap().answered());
    assert_silent(&format!("{service:?} {reply:?}"));

    let mut service = HttpClient::new(client);
    let request = http::Request::get(format!("{server}/text?access_token={SECRET}"));
    let request = request.body(super::reqwest::Body::default()).unwrap();
    let reply = tower::Service::call(&mut service, request);
    assert_silent(&format!("{service:?} {reply:?}"));
    assert_silent(&format!("{:?}", reply.await.unwrap()));
}
