//! The three token requests.

use http::Method;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::failure::NoReply;
use super::intake::{self, Keep, Received};
use super::query;
use super::reply::Reply;
use super::server::Call;
use super::state::{Inner, wait};
use super::tokens::Grant;
use crate::platform::Platform;

const PLAIN: &str = "/cgi-bin/token";
const STABLE: &str = "/cgi-bin/stable_token";
const CORP: &str = "/cgi-bin/gettoken";

pub(super) fn is_token_path(path: &str) -> bool {
    [PLAIN, STABLE, CORP].contains(&path)
}

pub(super) async fn answer(call: &Call<'_>, body: Incoming) -> Result<Reply, NoReply> {
    let (failure, delay) = {
        let mut inner = call.state.lock();
        (inner.next_token_failure(), inner.settings.token_delay)
    };
    let keep = Keep {
        bytes: true,
        file: None,
    };
    let received = intake::read(call, body, keep).await?;
    wait(delay).await;
    if let Some(failure) = failure {
        return failure.into_reply(platform_of(call.path()));
    }
    // A request for a token carries none.
    if let Some(own) = call.own_reply(&received, true) {
        return Ok(own.into_reply());
    }
    let mut inner = call.state.lock();
    let reply = match call.path() {
        PLAIN => plain(call, &mut inner),
        STABLE => stable(call, &mut inner, &received),
        _ => corp(call, &mut inner),
    };
    Ok(reply.unwrap_or_else(|errcode| Reply::error_of(platform_of(call.path()), errcode)))
}

fn platform_of(path: &str) -> Platform {
    if path == CORP {
        Platform::WeCom
    } else {
        Platform::OfficialAccount
    }
}

fn plain(call: &Call<'_>, inner: &mut Inner) -> Result<Reply, i64> {
    require(call, Method::GET)?;
    let parameter = |name| query::parameter(call.head.uri.query(), name);
    let account = find_account(
        call,
        inner,
        parameter("grant_type").as_deref(),
        parameter("appid").as_deref(),
        parameter("secret").as_deref(),
    )?;
    let grant = inner.accounts[account].tokens.plain(Instant::now())?;
    Ok(Reply::json(&give(call, inner, &grant)))
}

fn stable(call: &Call<'_>, inner: &mut Inner, received: &Received) -> Result<Reply, i64> {
    require(call, Method::POST)?;
    let request = received.json()?;
    let field = |name: &str| request.get(name).and_then(Value::as_str);
    let account = find_account(
        call,
        inner,
        field("grant_type"),
        field("appid"),
        field("secret"),
    )?;
    let force = request.get("force_refresh").and_then(Value::as_bool) == Some(true);
    let tokens = &mut inner.accounts[account].tokens;
    let grant = tokens.stable(force, Instant::now())?;
    Ok(Reply::json(&give(call, inner, &grant)))
}

fn corp(call: &Call<'_>, inner: &mut Inner) -> Result<Reply, i64> {
    require(call, Method::GET)?;
    let parameter = |name| query::parameter(call.head.uri.query(), name).unwrap_or_default();
    let (corpid, secret) = (parameter("corpid"), parameter("corpsecret"));
    if corpid.is_empty() {
        return Err(41002);
    }
    if secret.is_empty() {
        return Err(41004);
    }
    let account = identify(call, inner, &corpid, &secret, 60020, 40001)?;
    let grant = inner.accounts[account].tokens.corp(Instant::now());
    let mut reply = give(call, inner, &grant);
    reply["errcode"] = json!(0);
    reply["errmsg"] = json!("ok");
    Ok(Reply::json(&reply))
}

fn give(call: &Call<'_>, inner: &mut Inner, grant: &Grant) -> Value {
    if grant.new {
        inner.log.issued(call.id);
    }
    json!({"access_token": grant.token, "expires_in": grant.expires_in})
}

fn require(call: &Call<'_>, method: Method) -> Result<(), i64> {
    if call.head.method == method {
        Ok(())
    } else if method == Method::GET {
        Err(43001)
    } else {
        Err(43002)
    }
}

/// In this order, so that a request with several faults is told the same one each time.
fn find_account(
    call: &Call<'_>,
    inner: &mut Inner,
    grant_type: Option<&str>,
    appid: Option<&str>,
    secret: Option<&str>,
) -> Result<usize, i64> {
    let appid = appid.unwrap_or_default();
    let secret = secret.unwrap_or_default();
    if appid.is_empty() {
        return Err(41002);
    }
    if secret.is_empty() {
        return Err(41004);
    }
    if grant_type != Some("client_credential") {
        return Err(40002);
    }
    identify(call, inner, appid, secret, 40164, 40125)
}

/// The account of this id and secret; else an errcode: for an address that it does not allow, or
/// for a wrong secret.
fn identify(
    call: &Call<'_>,
    inner: &mut Inner,
    appid: &str,
    secret: &str,
    foreign_address: i64,
    wrong_secret: i64,
) -> Result<usize, i64> {
    let accounts = call.state.accounts.iter();
    let named = accounts.enumerate().filter(|(_, who)| who.appid == appid);
    let right = named.clone().find(|(_, who)| who.secret == secret);
    let Some((account, who)) = right.or_else(|| named.clone().next()) else {
        return Err(40013);
    };
    call.belongs_to(inner, account);
    if inner.accounts[account].deny_address {
        return Err(foreign_address);
    }
    if who.secret != secret {
        return Err(wrong_secret);
    }
    Ok(account)
}
