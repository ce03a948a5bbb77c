//! What the servers themselves count, beside what the layer and the managers do.

use std::sync::Arc;

use metrics::{SharedString, counter, describe_counter, describe_gauge, gauge};

use super::clients::Client;
use super::registry::{Account, Registry};
use crate::metrics::label;

const TOKEN_REQUESTS: &str = "wechat_server_token_requests_total";
const CALLS: &str = "wechat_gateway_requests_total";
const LIFE: &str = "wechat_token_life_seconds";

pub(super) fn describe() {
    describe_counter!(
        TOKEN_REQUESTS,
        "Token requests of clients, by client, account and errcode (0: given); no names where they are not known"
    );
    describe_counter!(
        CALLS,
        "Calls to the gateway, by client, account and result; no names where no token of ours told them"
    );
    describe_gauge!(
        LIFE,
        "What is left of the life of the account's token, in seconds"
    );
}

/// Nearly always that of a token that is given.
fn digits(errcode: i64) -> SharedString {
    match errcode {
        0 => SharedString::const_str("0"),
        _ => errcode.to_string().into(),
    }
}

pub(super) fn token_request(client: &Client, account: &Account, errcode: i64) {
    counter!(
        TOKEN_REQUESTS,
        "client" => label(Some(&client.name)), "account" => label(Some(&account.appid)), "errcode" => digits(errcode)
    )
    .increment(1);
}

/// Names that somebody sends are no labels: there would be no end of them.
pub(super) fn token_request_refused(errcode: i64) {
    counter!(TOKEN_REQUESTS, "client" => "", "account" => "", "errcode" => digits(errcode))
        .increment(1);
}

pub(super) fn call(client: &Arc<str>, account: &Arc<str>, result: &'static str) {
    counter!(
        CALLS,
        "client" => label(Some(client)), "account" => label(Some(account)), "result" => result
    )
    .increment(1);
}

pub(super) fn call_refused(result: &'static str) {
    counter!(CALLS, "client" => "", "account" => "", "result" => result).increment(1);
}

/// Set when it is asked for: it changes every second.
pub(super) fn lives(registry: &Registry) {
    for account in registry.accounts() {
        let life = account
            .tokens
            .cached()
            .map_or(0.0, |token| token.expires_in().as_secs_f64());
        gauge!(LIFE, "account" => label(Some(&account.appid))).set(life);
    }
}
