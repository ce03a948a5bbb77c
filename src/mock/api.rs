//! All requests that are no token requests.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::{Body, Incoming};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::body::ReplyBody;
use super::failure::NoReply;
use super::intake::{self, Keep, Received};
use super::query;
use super::record::RequestId;
use super::reply::{self, Reply};
use super::state::{Inner, State, wait};

const PREFIXES: [&str; 4] = ["/cgi-bin/", "/wxa/", "/datacube/", "/customservice/"];
const USER_TOKEN: &str = "user-token";
const MEDIUM_SIZE: u64 = 1024 * 1024;

/// The signature of a PNG and the beginning of its first chunk.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x01\xae\0\0\x01\xae\x08\x02\0\0\0";

pub(super) async fn answer(
    state: &State,
    id: RequestId,
    head: &Parts,
    body: Incoming,
) -> Result<Reply, NoReply> {
    // All that is decided on arrival, so that controls act on requests that come after them.
    let (failure, verdict, early, delay) = {
        let mut inner = state.lock();
        (
            inner.next_api_failure(),
            check_token(&inner, head),
            inner.settings.answer_early,
            inner.settings.draw_api_delay(),
        )
    };
    let early = early && !body.is_end_stream();
    if let (None, Err(errcode), true) = (&failure, verdict, early) {
        intake::discard(body);
        wait(delay).await;
        return Ok(refuse(head, errcode));
    }

    let keep = match head.uri.path() {
        "/cgi-bin/menu/create" | "/cgi-bin/message/custom/send" => Keep::Json,
        _ => Keep::Nothing,
    };
    let received = intake::read(state, id, body, keep).await?;
    let reply = match (failure, verdict) {
        (Some(failure), _) => failure.into_reply(),
        (None, Err(errcode)) => Ok(refuse(head, errcode)),
        (None, Ok(())) => Ok(act(&mut state.lock(), head, &received)),
    };
    wait(delay).await;
    reply
}

fn check_token(inner: &Inner, head: &Parts) -> Result<(), i64> {
    let token = query::parameter(head.uri.query(), "access_token").unwrap_or_default();
    let path = head.uri.path();
    if path.starts_with("/sns/") {
        return if token == USER_TOKEN {
            Ok(())
        } else {
            Err(40001)
        };
    }
    if !is_api(path) {
        return Ok(());
    }
    if token.is_empty() {
        return Err(41001);
    }
    match inner.settings.reject_every_token {
        Some(errcode) => Err(errcode),
        None => inner.tokens.check(&token, Instant::now()),
    }
}

fn is_api(path: &str) -> bool {
    PREFIXES.iter().any(|prefix| path.starts_with(prefix))
}

/// A refusal, called what WeChat calls it: after the endpoint, not after the content.
fn refuse(head: &Parts, errcode: i64) -> Reply {
    let reply = Reply::error(errcode);
    match head.uri.path() {
        "/wxa/getwxacodeunlimit" => reply.called(reply::JPEG),
        "/cgi-bin/media/get" | "/cgi-bin/user/get" => reply.called(reply::TEXT),
        _ => reply,
    }
}

fn act(inner: &mut Inner, head: &Parts, received: &Received) -> Reply {
    let path = head.uri.path();
    let is_post = head.method == Method::POST;
    match path {
        "/cgi-bin/menu/create"
        | "/cgi-bin/message/custom/send"
        | "/cgi-bin/media/upload"
        | "/wxa/getwxacodeunlimit"
            if !is_post =>
        {
            refuse(head, 43002)
        }
        "/cgi-bin/menu/create" => create_menu(inner, received).unwrap_or_else(Reply::error),
        "/cgi-bin/menu/get" => match &inner.menu {
            Some(button) => Reply::json(&json!({"menu": {"button": button}})),
            None => Reply::error(46003),
        },
        "/cgi-bin/menu/delete" => {
            inner.menu = None;
            Reply::ok()
        }
        "/cgi-bin/message/custom/send" => {
            send_message(inner, received).unwrap_or_else(Reply::error)
        }
        "/cgi-bin/media/upload" => upload(head, received).unwrap_or_else(Reply::error),
        "/cgi-bin/media/get" => {
            let size = query::parameter(head.uri.query(), "size");
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
        _ if is_api(path) || path.starts_with("/sns/") => Reply::ok(),
        _ => Reply::html(StatusCode::NOT_FOUND.as_u16()),
    }
}

/// "Create custom menu": one to three buttons, each with at most five below it.
fn create_menu(inner: &mut Inner, received: &Received) -> Result<Reply, i64> {
    let menu = received.json()?;
    let buttons = menu.get("button").and_then(Value::as_array).ok_or(40016)?;
    if !(1..=3).contains(&buttons.len()) {
        return Err(40016);
    }
    let below = |button: &Value| Some(button.get("sub_button")?.as_array()?.len());
    if buttons.iter().filter_map(below).any(|count| count > 5) {
        return Err(40023);
    }
    inner.menu = Some(buttons.as_slice().into());
    Ok(Reply::ok())
}

/// "Send customer service message".
fn send_message(inner: &mut Inner, received: &Received) -> Result<Reply, i64> {
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
    inner.messages.push(message);
    Ok(Reply::ok())
}

/// "Upload temporary media". Nothing is kept but the hash, which is the name.
fn upload(head: &Parts, received: &Received) -> Result<Reply, i64> {
    let kind = query::parameter(head.uri.query(), "type").unwrap_or_default();
    if !["image", "voice", "video", "thumb"].contains(&kind.as_str()) {
        return Err(40004);
    }
    if received.len == 0 {
        return Err(41005);
    }
    Ok(Reply::json(&json!({
        "type": kind,
        "media_id": format!("media-{}", received.sha256),
        "created_at": reply::unix_time(),
    })))
}
