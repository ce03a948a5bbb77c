//! All requests that are no token requests.

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Incoming};
use serde_json::{Value, json};

use super::account::{Account, Bearer};
use super::body::ReplyBody;
use super::endpoint::{Endpoint, is_api};
use super::failure::NoReply;
use super::intake::{self, Keep, Received};
use super::multipart::File;
use super::query;
use super::reply::{self, Reply};
use super::server::Call;
use super::state::{Inner, wait};
use crate::platform::Platform;

const USER_TOKEN: &str = "user-token";
const MEDIUM_SIZE: u64 = 1024 * 1024;

/// The signature of a PNG and the beginning of its first chunk.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x01\xae\0\0\x01\xae\x08\x02\0\0\0";

pub(super) async fn answer(call: &Call<'_>, body: Incoming) -> Result<Reply, NoReply> {
    let endpoint = Endpoint::of(call.path());
    // All that is decided on arrival, so that controls act on requests that come after them.
    let (failure, bearer, early, delay, keep) = {
        let mut inner = call.state.lock();
        let bearer = bearer_of(call, &inner);
        if let Some(account) = bearer.account {
            call.belongs_to(&mut inner, account);
        }
        let early = inner.settings.answer_early && !inner.replies.may_need_no_token(call.path());
        let keep = Keep {
            bytes: endpoint == Some(Endpoint::Json) || inner.replies.look_at_body(call.path()),
            file: (endpoint == Some(Endpoint::File)).then_some("media"),
        };
        let delay = inner.settings.draw_api_delay();
        (inner.next_api_failure(), bearer, early, delay, keep)
    };
    let early = early && !body.is_end_stream();
    if let (None, Err(errcode), true) = (&failure, bearer.good, early) {
        intake::discard(body);
        wait(delay).await;
        return Ok(refuse(call, bearer.platform, errcode));
    }

    let received = intake::read(call, body, keep).await?;
    let reply = match failure {
        Some(failure) => failure.into_reply(bearer.platform),
        None => Ok(decide(call, bearer, endpoint, &received)),
    };
    wait(delay).await;
    reply
}

fn bearer_of(call: &Call<'_>, inner: &Inner) -> Bearer {
    let token = query::parameter(call.head.uri.query(), "access_token").unwrap_or_default();
    let path = call.path();
    if path.starts_with("/sns/") {
        let known = token == USER_TOKEN;
        return Bearer::nobody(if known { Ok(()) } else { Err(40001) });
    }
    if !is_api(path) {
        return Bearer::nobody(Ok(()));
    }
    if token.is_empty() {
        return Bearer::nobody(Err(41001));
    }
    let bearer = Bearer::of(&inner.accounts, &token);
    match inner.settings.reject_every_token {
        Some(errcode) => Bearer {
            good: Err(errcode),
            ..bearer
        },
        None => bearer,
    }
}

fn decide(
    call: &Call<'_>,
    bearer: Bearer,
    endpoint: Option<Endpoint>,
    received: &Received,
) -> Reply {
    if let Some(own) = call.own_reply(received, bearer.good.is_ok()) {
        return own.into_reply();
    }
    let path = call.path();
    let done = match endpoint {
        _ if bearer.good.is_err() => bearer.good.map(|()| Reply::ok()),
        Some(endpoint) => {
            let accounts = &mut call.state.lock().accounts;
            let account = &mut accounts[bearer.account.unwrap_or_default()];
            check(call, endpoint, received).and_then(|()| act(account, call, received))
        }
        None if path.starts_with("/sns/") => Ok(Reply::ok()),
        // What WeCom says to a path that it does not have is not known.
        None if is_api(path) && bearer.platform != Platform::WeCom => Err(40066),
        None => Ok(Reply::html(StatusCode::NOT_FOUND.as_u16())),
    };
    done.unwrap_or_else(|errcode| refuse(call, bearer.platform, errcode))
}

/// Whether the call has the method and the content that its path wants.
fn check(call: &Call<'_>, endpoint: Endpoint, received: &Received) -> Result<(), i64> {
    endpoint.check(&call.head.method)?;
    match (endpoint, received.file) {
        (Endpoint::Json, _) => received.json().map(drop),
        (Endpoint::File, Some(File::Sent)) => Ok(()),
        (Endpoint::File, Some(File::Empty)) => Err(44001),
        (Endpoint::File, Some(File::Missing) | None) => Err(41005),
        (Endpoint::Get | Endpoint::Any, _) => Ok(()),
    }
}

/// A refusal, called what WeChat calls it: after the endpoint, not after the content.
fn refuse(call: &Call<'_>, platform: Platform, errcode: i64) -> Reply {
    let reply = Reply::error_of(platform, errcode);
    match call.path() {
        "/wxa/getwxacodeunlimit" => reply.called(reply::JPEG),
        "/cgi-bin/media/get" | "/cgi-bin/user/get" => reply.called(reply::TEXT),
        _ => reply,
    }
}

fn act(account: &mut Account, call: &Call<'_>, received: &Received) -> Result<Reply, i64> {
    Ok(match call.path() {
        "/cgi-bin/menu/create" => return create_menu(account, received),
        "/cgi-bin/menu/get" => match &account.menu {
            Some(button) => Reply::json(&json!({"menu": {"button": button}})),
            None => return Err(46003),
        },
        "/cgi-bin/menu/delete" => {
            account.menu = None;
            Reply::ok()
        }
        "/cgi-bin/message/custom/send" => return send_message(account, received),
        "/cgi-bin/media/upload" => return upload(call, received),
        "/cgi-bin/media/get" => {
            let size = query::parameter(call.head.uri.query(), "size");
            let size = size.and_then(|size| size.parse().ok());
            Reply::picture(ReplyBody::Medium {
                sent: 0,
                size: size.unwrap_or(MEDIUM_SIZE),
            })
        }
        "/cgi-bin/user/get" => Reply::json(&json!({
            "total": 2,
            "count": 2,
            "data": {"openid": ["OPENID1", "OPENID2"]},
            "next_openid": "OPENID2",
        }))
        .called(reply::TEXT),
        "/wxa/getwxacodeunlimit" => Reply::picture(ReplyBody::Bytes(Bytes::from_static(PNG))),
        _ => Reply::ok(),
    })
}

/// "Create custom menu": one to three buttons, each with at most five below it.
fn create_menu(account: &mut Account, received: &Received) -> Result<Reply, i64> {
    let menu = received.json()?;
    let buttons = menu.get("button").and_then(Value::as_array).ok_or(40016)?;
    if !(1..=3).contains(&buttons.len()) {
        return Err(40016);
    }
    let below = |button: &Value| Some(button.get("sub_button")?.as_array()?.len());
    if buttons.iter().filter_map(below).any(|count| count > 5) {
        return Err(40023);
    }
    account.menu = Some(buttons.as_slice().into());
    Ok(Reply::ok())
}

/// "Send customer service message".
fn send_message(account: &mut Account, received: &Received) -> Result<Reply, i64> {
    let message = received.json()?;
    let has = |field: &str| {
        let text = message.get(field).and_then(Value::as_str);
        text.is_some_and(|text| !text.is_empty())
    };
    if !has("touser") {
        return Err(40003);
    }
    if !has("msgtype") {
        return Err(40008);
    }
    account.messages.push(message);
    Ok(Reply::ok())
}

/// "Upload temporary media". Nothing is kept but the hash, which is the name.
fn upload(call: &Call<'_>, received: &Received) -> Result<Reply, i64> {
    let kind = query::parameter(call.head.uri.query(), "type").unwrap_or_default();
    if !["image", "voice", "video", "thumb"].contains(&kind.as_str()) {
        return Err(40004);
    }
    Ok(Reply::json(&json!({
        "type": kind,
        "media_id": format!("media-{}", received.sha256),
        "created_at": reply::unix_time(),
    })))
}
