//! The three token requests.

use http::Method;
use http::request::Parts;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::account::Grant;
use super::failure::NoReply;
use super::intake::{self, Keep, Received};
use super::query;
use super::record::RequestId;
use super::reply::Reply;
use super::state::{State, wait};

const PLAIN: &str = "/cgi-bin/token";
const STABLE: &str = "/cgi-bin/stable_token";
const CORP: &str = "/cgi-bin/gettoken";

pub(super) fn is_token_path(path: &str) -> bool {
    [PLAIN, STABLE, CORP].contains(&path)
}

pub(super) async fn answer(
    state: &State,
    id: RequestId,
    head: &Parts,
    body: Incoming,
) -> Result<Reply, NoReply> {
    let (failure, delay) = {
        let mut inner = state.lock();
        (inner.next_token_failure(), inner.settings.token_delay)
    };
    let received = intake::read(state, id, body, Keep::Json).await?;
    wait(delay).await;
    if let Some(failure) = failure {
        return failure.into_reply();
    }
    let reply = match head.uri.path() {
        PLAIN => plain(state, id, head),
        STABLE => stable(state, id, head, &received),
        _ => corp(state, id, head),
    };
    Ok(reply.unwrap_or_else(|refusal| refusal))
}

fn plain(state: &State, id: RequestId, head: &Parts) -> Result<Reply, Reply> {
    require(head, Method::GET)?;
    let parameter = |name| query::parameter(head.uri.query(), name);
    check_account(
        state,
        parameter("grant_type").as_deref(),
        parameter("appid").as_deref(),
        parameter("secret").as_deref(),
    )?;
    let mut inner = state.lock();
    let grant = inner.tokens.plain(Instant::now()).map_err(Reply::error)?;
    inner.log.issued(id);
    Ok(Reply::json(&granted(&grant)))
}

fn stable(state: &State, id: RequestId, head: &Parts, received: &Received) -> Result<Reply, Reply> {
    require(head, Method::POST)?;
    let request = received.json().map_err(Reply::error)?;
    let field = |name: &str| request.get(name).and_then(Value::as_str);
    check_account(state, field("grant_type"), field("appid"), field("secret"))?;
    let force = request.get("force_refresh").and_then(Value::as_bool);
    let mut inner = state.lock();
    let grant = inner.tokens.stable(force == Some(true), Instant::now());
    if grant.new {
        inner.log.issued(id);
    }
    Ok(Reply::json(&granted(&grant)))
}

fn corp(state: &State, id: RequestId, head: &Parts) -> Result<Reply, Reply> {
    require(head, Method::GET)?;
    check_address(state)?;
    let corpid = query::parameter(head.uri.query(), "corpid").unwrap_or_default();
    let secret = query::parameter(head.uri.query(), "corpsecret").unwrap_or_default();
    if corpid.is_empty() {
        return Err(Reply::error_saying(41002, "corpid missing"));
    }
    if secret.is_empty() {
        return Err(Reply::error_saying(41004, "corpsecret missing"));
    }
    if corpid != state.appid {
        return Err(Reply::error_saying(40013, "invalid corpid"));
    }
    if secret != state.secret {
        return Err(Reply::error_saying(40001, "invalid credential"));
    }
    let mut inner = state.lock();
    let grant = inner.tokens.corp(Instant::now());
    if grant.new {
        inner.log.issued(id);
    }
    let mut reply = granted(&grant);
    reply["errcode"] = json!(0);
    reply["errmsg"] = json!("ok");
    Ok(Reply::json(&reply))
}

fn granted(grant: &Grant) -> Value {
    json!({"access_token": grant.token, "expires_in": grant.expires_in})
}

fn require(head: &Parts, method: Method) -> Result<(), Reply> {
    if head.method == method {
        Ok(())
    } else if method == Method::GET {
        Err(Reply::error(43001))
    } else {
        Err(Reply::error(43002))
    }
}

fn check_address(state: &State) -> Result<(), Reply> {
    if state.lock().settings.deny_address {
        return Err(Reply::error(40164));
    }
    Ok(())
}

/// In this order, so that a request with several faults is told the same one each time.
fn check_account(
    state: &State,
    grant_type: Option<&str>,
    appid: Option<&str>,
    secret: Option<&str>,
) -> Result<(), Reply> {
    check_address(state)?;
    let appid = appid.unwrap_or_default();
    let secret = secret.unwrap_or_default();
    let errcode = if appid.is_empty() {
        41002
    } else if secret.is_empty() {
        41004
    } else if grant_type != Some("client_credential") {
        40002
    } else if appid != state.appid {
        40013
    } else if secret != state.secret {
        40125
    } else {
        return Ok(());
    };
    Err(Reply::error(errcode))
}
