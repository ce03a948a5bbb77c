//! A token that dies, one that the caller asks for, and none to be had.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tower_wechat::{ClientCredential, TokenManager};

use super::super::*;
use super::ADAPTERS;
use super::adapter::{self, Setup};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_calls_at_a_revoked_token_make_one_token_request_and_no_error() {
    let _calm = calm().await;
    for (name, wrap) in ADAPTERS {
        let setup = Setup::revoked().await;
        setup.wechat.set_token_delay(Duration::from_millis(200));
        let adapter = setup.wrapped(wrap);

        let calls = (0..200).map(|number| {
            let reply = adapter.send(setup.message(&format!("o{number}")));
            tokio::spawn(async move {
                let reply = reply.await.expect("no error reaches a caller");
                let replayed = outcome_in(reply.extensions()).replayed();
                assert_eq!(reply.text().await.unwrap(), OK);
                replayed
            })
        });
        let replayed = join_all(calls).await;
        assert!(replayed.into_iter().any(Result::unwrap), "{name}");
        let asked = setup.wechat.token_requests();
        assert_eq!((asked.started, asked.finished), (1, 1), "{name}");
        assert_eq!(setup.wechat.messages().len(), 200, "{name}: none twice");
    }
}

#[tokio::test]
async fn a_reply_says_what_the_layer_did() {
    for (name, wrap) in ADAPTERS {
        let setup = Setup::new().await;
        let adapter = setup.wrapped(wrap);
        let reply = adapter.send(setup.get("/cgi-bin/user/get")).await.unwrap();
        let outcome = outcome_in(reply.extensions());
        assert_eq!(outcome.errcode(), None, "{name}");
        assert!(!outcome.replayed() && !outcome.answered(), "{name}");

        setup.revoke().await;
        let reply = adapter.send(setup.get("/cgi-bin/user/get")).await.unwrap();
        let outcome = outcome_in(reply.extensions());
        assert_eq!(outcome.errcode(), Some(40001), "{name}");
        assert!(outcome.rid().is_some(), "{name}");
        assert!(outcome.refreshed() && outcome.replayed(), "{name}");
    }
}

#[tokio::test]
async fn requests_for_a_token_are_answered_with_the_managers() {
    for (name, wrap) in ADAPTERS {
        let mut setup = Setup::new().await;
        setup.layer = setup.layer.answer_token_requests([setup.wechat.appid()]);
        let adapter = setup.wrapped(wrap);

        let stable = json!({
            "grant_type": "client_credential",
            "appid": setup.wechat.appid(),
            "secret": setup.wechat.secret(),
        });
        let stable = setup
            .client
            .post(setup.url("/cgi-bin/stable_token"))
            .json(&stable);
        for request in [token_request(&setup), stable.build().unwrap()] {
            let path = request.url().path().to_owned();
            let reply = adapter.send(request).await.unwrap();
            let outcome = outcome_in(reply.extensions());
            assert!(
                outcome.answered() && outcome.token_error().is_none(),
                "{name}: {path}"
            );
            let answer: Value = reply.json().await.unwrap();
            let token = setup.wechat.current_token().unwrap();
            assert_eq!(answer["access_token"], token, "{name}: {path}");
            let expires_in = answer["expires_in"].as_u64().unwrap();
            assert!((7000..=7200).contains(&expires_in), "{name}: {expires_in}");
        }
        // The manager's own request for the one token, and nothing of the caller's.
        assert_eq!(setup.wechat.requests().len(), 1, "{name}");
        assert_eq!(setup.wechat.token_requests().issued, 1, "{name}");
    }
}

#[tokio::test]
async fn a_reply_that_the_layer_makes_has_the_url_of_the_request_without_its_secret() {
    // The first has no URL to give: its reply is of http's type.
    for (name, wrap) in &ADAPTERS[1..] {
        let mut setup = Setup::new().await;
        setup.layer = setup.layer.answer_token_requests([setup.wechat.appid()]);
        let reply = setup
            .wrapped(wrap)
            .send(token_request(&setup))
            .await
            .unwrap();
        let url = format!(
            "/cgi-bin/token?grant_type=client_credential&appid={}",
            setup.wechat.appid()
        );
        assert_eq!(reply.url().as_str(), setup.url(&url), "{name}");
    }
}

fn token_request(setup: &Setup) -> super::reqwest::Request {
    setup.get(&format!(
        "/cgi-bin/token?grant_type=client_credential&appid={}&secret={}",
        setup.wechat.appid(),
        setup.wechat.secret(),
    ))
}

/// WeChats that give no first token, and the errcode that they say it with, if they say anything.
pub(super) async fn without_a_token() -> Vec<(Setup, Option<i64>)> {
    let denied = Setup::new().await;
    denied.wechat.deny_address(true);

    let mut wrong = Setup::new().await;
    let origin = wrong.wechat.url();
    let source = ClientCredential::new(wrong.client.clone(), wrong.wechat.appid(), "not it");
    let tokens = TokenManager::new(source.base_url(&origin));
    wrong.layer = WechatAuthLayer::new(tokens).api_origin(&origin);

    let mut dead = Setup::new().await;
    let origin = dead.wechat.url();
    let source = ClientCredential::new(dead.client.clone(), "wx1", "hush").base_url(nobody());
    // It is asked again and again for so long.
    let tokens = TokenManager::builder(source).issue_timeout(Duration::from_millis(100));
    dead.layer = WechatAuthLayer::new(tokens.build()).api_origin(&origin);

    vec![(denied, Some(40164)), (wrong, Some(40125)), (dead, None)]
}

/// Nothing but requests for a token came to WeChat.
#[track_caller]
pub(super) fn assert_not_sent(setup: &Setup) {
    let requests = setup.wechat.requests();
    assert!(
        requests.iter().all(|r| r.is_token_request()),
        "{requests:?}"
    );
}

#[tokio::test]
async fn without_a_first_token_http_client_gives_an_error_of_the_layers() {
    for (setup, errcode) in without_a_token().await {
        let adapter = setup.wrapped(&(adapter::http_client as _));
        let error = adapter
            .send(setup.message("o1"))
            .await
            .unwrap_err()
            .no_token();
        assert_eq!(error.token_error().unwrap().errcode(), errcode, "{error}");
        assert_not_sent(&setup);
    }
}

#[tokio::test]
async fn without_a_first_token_reqwest_auth_answers_as_wechat_would() {
    for (setup, errcode) in without_a_token().await {
        let adapter = setup.wrapped(&(adapter::reqwest_auth as _));
        let reply = adapter.send(setup.message("o1")).await.unwrap();
        assert_eq!(reply.status(), 200);
        let outcome = outcome_in(reply.extensions());
        assert!(outcome.answered());
        assert_eq!(outcome.token_error().unwrap().errcode(), errcode);
        assert_eq!(
            reply.url().as_str(),
            setup.url("/cgi-bin/message/custom/send")
        );
        let answer: Value = reply.json().await.unwrap();
        assert_eq!(answer["errcode"], errcode.unwrap_or(-1), "{answer}");
        let errmsg = answer["errmsg"].as_str().unwrap();
        assert!(
            errmsg.starts_with("no access_token for this call: "),
            "{errmsg}"
        );
        assert_not_sent(&setup);
    }
}
