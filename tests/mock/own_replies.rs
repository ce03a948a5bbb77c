//! Replies of one's own to a path.

use tower_wechat::mock::MockReply;

use super::*;

#[tokio::test]
async fn a_path_answers_as_told_to_whoever_has_a_good_token() {
    let (wechat, caller, token) = started_with_token().await;
    let rooms = json!({"errcode": 0, "errmsg": "ok", "room_info": []});
    let reply = MockReply::json(rooms.clone()).header("x-a", "1");
    wechat.reply_to("/wxa/business/getliveinfo", reply);
    let at = |token: &str| format!("/wxa/business/getliveinfo?access_token={token}");
    let reply = caller.post(&at(&token), "{}").await;
    assert_eq!(
        (reply.json(), &reply.headers["x-a"]),
        (rooms, &"1".parse().unwrap())
    );
    assert_eq!(reply.content_type, "application/json; encoding=utf-8");
    assert_eq!(caller.post(&at("x"), "{}").await.errcode(), 40001);
    assert_eq!(
        caller
            .post("/wxa/business/getliveinfo", "{}")
            .await
            .errcode(),
        41001
    );
    assert_eq!(wechat.requests()[1].errcode(), Some(0));
}

#[tokio::test]
async fn status_headers_and_bytes_are_the_users() {
    let (wechat, caller, token) = started_with_token().await;
    let reply = MockReply::new(&b"\x1f\x8b"[..])
        .status(206)
        .header("content-type", "image/png");
    wechat.reply_to("/cgi-bin/media/get", reply);
    let path = format!("/cgi-bin/media/get?access_token={token}");
    let reply = caller.get(&path).await;
    assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(
        (&*reply.content_type, &*reply.body),
        ("image/png", &b"\x1f\x8b"[..])
    );
    assert_eq!(wechat.requests()[1].errcode(), None);

    wechat.reply_to("/cgi-bin/media/get", MockReply::error(45009));
    let reply = caller.get(&path).await;
    assert_eq!(
        (reply.errcode(), reply.errmsg().contains("daily quota")),
        (45009, true)
    );
}

#[tokio::test]
async fn the_latest_reply_whose_condition_holds_counts() {
    let (wechat, caller, token) = started_with_token().await;
    let path = format!("/cgi-bin/tags/create?access_token={token}");
    wechat.reply_to("/cgi-bin/tags/create", MockReply::error(1));
    wechat.reply_to(
        "/cgi-bin/tags/create",
        MockReply::error(2).when(|request, body| {
            assert_eq!(request.body_len(), body.len() as u64);
            request.method() == Method::POST && body == b"two"
        }),
    );
    assert_eq!(caller.post(&path, "two").await.errcode(), 2);
    assert_eq!(caller.post(&path, "one").await.errcode(), 1);
    assert_eq!(caller.send(Method::PUT, &path, "two").await.errcode(), 1);
    wechat.reply_to("/cgi-bin/tags/create", MockReply::ok());
    assert_eq!(caller.post(&path, "two").await.errcode(), 0);
}

#[tokio::test]
async fn a_condition_that_does_not_hold_leaves_wechats_own_behaviour() {
    let (wechat, caller, token) = started_with_token().await;
    wechat.reply_to("/cgi-bin/user/get", MockReply::error(1).when(|_, _| false));
    assert_eq!(caller.call(&token).await, 0);
    let path = format!("/cgi-bin/user/get?access_token={token}");
    assert_eq!(caller.post(&path, "{}").await.errcode(), 43001);
}

#[tokio::test]
async fn a_condition_may_ask_the_mock() {
    let (wechat, caller, token) = started_with_token().await;
    let counting = wechat.addr();
    let asked = wechat.clone();
    let twice = move |_: &_, _: &[u8]| asked.requests().len() > 2 && asked.addr() == counting;
    wechat.reply_to("/cgi-bin/user/get", MockReply::error(7).when(twice));
    assert_eq!(caller.call(&token).await, 0);
    assert_eq!(caller.call(&token).await, 7);
}

#[tokio::test]
async fn a_reply_may_need_no_token() {
    let (wechat, caller) = started().await;
    wechat.answer_early(true);
    let path = "/cgi-bin/component/api_component_token";
    let token = json!({"component_access_token": "c", "expires_in": 7200});
    wechat.reply_to(path, MockReply::json(token.clone()).without_token());
    assert_eq!(caller.post(path, "{}").await.json(), token);
    // Elsewhere no token is asked for in any case.
    wechat.reply_to("/sns/jscode2session", MockReply::ok().without_token());
    wechat.reply_to("/favicon.ico", MockReply::new("icon"));
    assert_eq!(caller.get("/sns/jscode2session").await.errcode(), 0);
    assert_eq!(caller.get("/favicon.ico").await.body, "icon");
}

#[tokio::test]
async fn a_token_request_can_be_answered_so_and_failures_come_first() {
    let (wechat, caller) = started().await;
    wechat.reply_to("/cgi-bin/token", MockReply::error(40243));
    wechat.fail_next(Failure::Token(-1));
    assert_eq!(caller.ask_token().await.errcode(), -1);
    assert_eq!(caller.ask_token().await.errcode(), 40243);
    assert_eq!(caller.ask_stable(false).await.errcode(), 0);
    assert_eq!(wechat.token_requests().issued, 1);
}

#[tokio::test]
async fn a_star_stands_for_all_that_begin_so() {
    let (wechat, caller, token) = started_with_token().await;
    wechat.reply_to("/wxa/*", MockReply::ok());
    for path in ["/wxa/x", "/wxa/business/y", "/wxa/"] {
        let path = format!("{path}?access_token={token}");
        assert_eq!(caller.get(&path).await.errcode(), 0, "{path}");
    }
    let path = format!("/wxaapi/x?access_token={token}");
    assert_eq!(caller.get(&path).await.errcode(), 40066);
}

#[tokio::test]
async fn a_body_too_long_to_keep_is_read_and_handed_to_conditions_empty() {
    let (wechat, caller, token) = started_with_token().await;
    let reply = MockReply::error(3).when(|r, body| body.is_empty() && r.body_len() > MIB);
    wechat.reply_to("/cgi-bin/x", reply);
    let path = format!("/cgi-bin/x?access_token={token}");
    assert_eq!(
        caller
            .post(&path, vec![b' '; MIB as usize + 1])
            .await
            .errcode(),
        3
    );
}

#[test]
fn debug_of_a_reply_tells_no_body() {
    let reply = MockReply::new("a token").status(99).without_token();
    assert_eq!(
        format!("{reply:?}"),
        "MockReply { status: 500, bytes: 7, .. }"
    );
}

#[test]
#[should_panic = "no header"]
fn a_header_that_is_none_is_a_mistake_in_the_test() {
    let _ = MockReply::ok().header("a b", "c");
}
