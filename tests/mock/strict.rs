//! What WeChat refuses is refused: what passes here must pass there.

use super::*;

#[tokio::test]
async fn easywechat_2191_a_chunked_body_is_answered_with_412_and_nothing_on_every_path() {
    let (wechat, caller, token) = started_with_token().await;
    for path in [
        "/cgi-bin/media/upload?type=image&",
        "/wxa/getwxacodeunlimit?",
        "/cgi-bin/message/custom/send?",
        "/cgi-bin/stable_token?",
        "/cgi-bin/user/get?",
        "/sns/userinfo?",
    ] {
        let (mut sender, body) = Channel::new(1);
        let frame = Frame::data(Bytes::from_static(br#"{"touser":"O","msgtype":"text"}"#));
        sender.send(frame).await.unwrap();
        drop(sender);
        let path = format!("{path}access_token={token}");
        let reply = caller.start(Method::POST, &path, Either::Right(body)).await;
        let reply = read(reply.unwrap()).await;
        assert_eq!(reply.status, StatusCode::PRECONDITION_FAILED, "{path}");
        assert_eq!((reply.body.len(), &*reply.content_type), (0, ""));
        let request = wechat.requests().pop().unwrap();
        assert_eq!((request.errcode(), request.body_len()), (None, 31));
        assert_eq!(request.headers()["transfer-encoding"], "chunked");
    }
    assert!(wechat.messages().is_empty());
    assert_eq!(wechat.token_requests().issued, 1);
    // A body of a known length is not chunked, and no body is none.
    let path = format!("/cgi-bin/tags/create?access_token={token}");
    assert_eq!(caller.post(&path, "{}").await.errcode(), 0);
    assert_eq!(caller.call(&token).await, 0);
}

#[tokio::test]
async fn a_chunked_body_is_taken_when_told_so() {
    let (wechat, caller, token) = started_with_token().await;
    wechat.accept_chunked(true);
    let (mut sender, body) = Channel::new(1);
    sender
        .send(Frame::data(Bytes::from_static(b"{}")))
        .await
        .unwrap();
    drop(sender);
    let path = format!("/cgi-bin/tags/create?access_token={token}");
    let reply = caller.start(Method::POST, &path, Either::Right(body)).await;
    assert_eq!(read(reply.unwrap()).await.errcode(), 0);
}

#[tokio::test]
async fn a_chunked_body_may_be_refused_before_it_is_read() {
    let (wechat, caller) = started().await;
    wechat.answer_early(true);
    let (mut sender, body) = Channel::new(1);
    let path = "/cgi-bin/media/upload?type=image&access_token=x";
    let reply = caller.start(Method::POST, path, Either::Right(body)).await;
    assert_eq!(reply.unwrap().status(), StatusCode::PRECONDITION_FAILED);
    let _ = sender.send(Frame::data(Bytes::from_static(b"ab"))).await;
}

#[tokio::test]
async fn an_upload_wants_a_part_called_media_with_a_file_name() {
    let (_wechat, caller, token) = started_with_token().await;
    for path in [
        "/cgi-bin/media/upload?type=image&",
        "/cgi-bin/media/uploadimg?",
        "/cgi-bin/material/add_material?type=image&",
        "/wxa/img_sec_check?",
        "/customservice/kfaccount/uploadheadimg?",
    ] {
        let path = format!("{path}access_token={token}");
        for (disposition, errcode) in [
            (MEDIA, 0),
            (
                r#"name="media"; filename="a.png"; filename*=utf-8''a.png"#,
                0,
            ),
            (r#"name="media"; filename*=utf-8''%E5%9B%BE.png"#, 41005),
            (r#"name="media""#, 41005),
            (r#"name="file"; filename="a.png""#, 41005),
        ] {
            let reply = caller.upload(&path, disposition, b"bytes").await;
            assert_eq!(reply.errcode(), errcode, "{path} {disposition}");
        }
        assert_eq!(caller.upload(&path, MEDIA, b"").await.errcode(), 44001);
        // The file alone, with no form around it, and no body at all.
        assert_eq!(caller.post(&path, "bytes").await.errcode(), 41005);
        assert_eq!(caller.post(&path, "").await.errcode(), 41005);
    }
}

#[tokio::test]
async fn the_wrong_method_is_refused() {
    let (_wechat, caller, token) = started_with_token().await;
    for (method, path, errcode) in [
        (Method::GET, "/cgi-bin/menu/create", 43002),
        (Method::GET, "/cgi-bin/message/template/send", 43002),
        (Method::PUT, "/cgi-bin/tags/create", 43002),
        (Method::GET, "/cgi-bin/media/upload", 43002),
        (Method::POST, "/cgi-bin/user/get", 43001),
        (Method::POST, "/cgi-bin/menu/delete", 43001),
        (Method::POST, "/cgi-bin/media/get", 43001),
        (Method::GET, "/cgi-bin/material/get_materialcount", 0),
        (Method::POST, "/cgi-bin/material/get_materialcount", 0),
    ] {
        let path = format!("{path}?access_token={token}");
        let reply = caller.send(method.clone(), &path, "{}").await;
        assert_eq!(reply.errcode(), errcode, "{method} {path}");
    }
    // The token comes first.
    assert_eq!(caller.get("/cgi-bin/menu/create").await.errcode(), 41001);
}

#[tokio::test]
async fn a_call_by_post_wants_json() {
    let (_wechat, caller, token) = started_with_token().await;
    for path in [
        "/cgi-bin/tags/create",
        "/wxa/getwxacodeunlimit",
        "/cgi-bin/clear_quota",
    ] {
        let path = format!("{path}?access_token={token}");
        assert_eq!(caller.post(&path, "").await.errcode(), 44002);
        assert_eq!(caller.post(&path, "appid=wx1").await.errcode(), 47001);
        assert_eq!(caller.post(&path, "{\"a\":1").await.errcode(), 47001);
    }
}

#[tokio::test]
async fn wechatpy_289_a_path_that_wechat_does_not_have_is_an_invalid_url() {
    let (_wechat, caller, token) = started_with_token().await;
    for path in [
        "/cgi-bin/tools/shorturl",
        "/cgi-bin/menu/creat",
        "/cgi-bin/menu/create/",
        "/wxa/x",
        "/datacube/x",
        "/customservice/x",
    ] {
        let reply = caller
            .post(&format!("{path}?access_token={token}"), "{}")
            .await;
        assert_eq!(reply.errcode(), 40066, "{path}");
        assert!(reply.errmsg().contains("MockWechat::reply_to"));
        assert_eq!(
            caller
                .get(&format!("{path}?access_token=x"))
                .await
                .errcode(),
            40001
        );
    }
    let corp = caller.ask_corp().await.token();
    let reply = caller.get(&format!("/cgi-bin/x?access_token={corp}")).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn errors_carry_the_headers_that_captured_ones_do() {
    let (wechat, caller, token) = started_with_token().await;
    let error = caller.get("/cgi-bin/user/get?access_token=x").await;
    assert_eq!(error.headers["LogicRet"], "40001");
    assert!(error.headers.contains_key("RetKey"));
    wechat.expire();
    let path = format!("/cgi-bin/user/get?access_token={token}");
    assert_eq!(caller.get(&path).await.headers["LogicRet"], "42001");
    let well = caller.ask_token().await;
    assert!(!well.headers.contains_key("LogicRet"));
}

#[tokio::test]
async fn wecoms_errors_read_as_wecoms_do() {
    let (wechat, caller) = started().await;
    let token = caller.ask_corp().await.token();
    wechat.revoke();
    let path = format!("/cgi-bin/user/get?access_token={token}");
    let wrong = format!("/cgi-bin/gettoken?corpid={}&corpsecret=x", wechat.appid());
    wechat.fail_next(Failure::Token(-1));
    for (reply, errcode, said) in [
        (caller.get(&path).await, 40014, "invalid access_token"),
        (caller.ask_corp().await, -1, "system error"),
        (caller.get(&wrong).await, 40001, "invalid credential"),
    ] {
        assert_eq!(reply.errcode(), errcode);
        let errmsg = reply.errmsg();
        let (before, after) = errmsg.split_once(", hint: [").unwrap();
        assert_eq!(before, said);
        let (hint, after) = after
            .split_once("], from ip: 127.0.0.1, more info at ")
            .unwrap();
        let parts: Vec<_> = hint.split('_').collect();
        let [digits, number, hex] = &parts[..] else {
            panic!("{hint}")
        };
        assert!(digits.parse::<u64>().is_ok() && number.parse::<u32>().is_ok());
        assert!(u128::from_str_radix(hex, 16).is_ok());
        assert!(after.ends_with(&format!("query?e={errcode}")));
        assert!(!errmsg.contains("rid:") && !reply.headers.contains_key("LogicRet"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_twenty_first_force_of_a_day_may_be_an_error() {
    let wechat = MockWechat::builder()
        .refuse_excess_forces(true)
        .start()
        .await;
    let caller = Caller::new(&wechat);
    for _ in 0..20 {
        assert_eq!(caller.ask_stable(true).await.errcode(), 0);
        tokio::time::advance(Duration::from_secs(30)).await;
    }
    let current = caller.ask_stable(false).await.token();
    assert_eq!(caller.ask_stable(true).await.errcode(), 45009);
    assert_eq!(caller.ask_stable(false).await.token(), current);
    wechat.refuse_excess_forces(false);
    assert_eq!(caller.ask_stable(true).await.token(), current);
}
