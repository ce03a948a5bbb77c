//! What no reply may tell: the tokens that a call was sent with, and the account's current one.

use std::sync::{Arc, Mutex, PoisonError};

use axum::http::Uri;
use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use super::query::parameters;
use crate::source::{Found, find, replace, search};
use crate::token::TokenManager;

/// The tokens that one call was sent with: the second one is that of its replay. Noted below the
/// layer, where they are known.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Vec<Zeroizing<String>>>>);

impl Sent {
    pub(super) fn note(&self, sent_to: &Uri) {
        let mut parameters = parameters(sent_to.query().unwrap_or_default());
        let token = parameters.find(|(name, _)| name == "access_token");
        let token = token.map_or_else(String::new, |(_, token)| token.into_owned());
        self.lock().push(Zeroizing::new(token));
    }

    /// Whether the call was sent at all.
    pub(super) fn is_any(&self) -> bool {
        !self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Zeroizing<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looked for in each part of a reply, in every spelling that [`spelling`](crate::source) knows.
pub(super) struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    /// A token may have been replaced while a call was under way.
    pub(super) fn of_call(sent: &Sent, tokens: &TokenManager) -> Self {
        let mut secrets = sent.lock().clone();
        secrets.retain(|secret| !secret.is_empty());
        let current = tokens.cached();
        let current = current.as_ref().map(|current| current.secret());
        if let Some(current) =
            current.filter(|current| secrets.iter().all(|sent| **sent != *current))
        {
            secrets.push(Zeroizing::new(current.to_owned()));
        }
        Secrets(secrets)
    }

    /// Searches a body, of which more may follow.
    pub(super) fn search(&self, text: &[u8]) -> Found {
        let mut open = text.len();
        for secret in &self.0 {
            match search(text, secret.as_bytes()) {
                Found::Yes => return Found::Yes,
                Found::NotBefore(at) => open = open.min(at),
            }
        }
        Found::NotBefore(open)
    }

    /// Whether a header's value tells one of them, however often it has to be decoded.
    pub(super) fn are_in(&self, value: &[u8]) -> bool {
        self.0
            .iter()
            .any(|secret| is_spelled_in(value, secret.as_bytes()))
    }

    /// `text` with `other` in their places.
    pub(super) fn replace(&self, text: Vec<u8>, other: &str) -> Vec<u8> {
        self.0.iter().fold(text, |text, secret| {
            replace(&text, secret.as_bytes(), other.as_bytes()).unwrap_or(text)
        })
    }
}

/// Whether `secret` is in `value`, also where a digit of an encoding is encoded itself.
pub(super) fn is_spelled_in(value: &[u8], secret: &[u8]) -> bool {
    /// More than any reader decodes.
    const DEEPEST: usize = 8;

    if find(value, secret).is_some() {
        return true;
    }
    // Nearly no header has anything encoded in it.
    if !value.contains(&b'%') {
        return false;
    }
    let mut value = value.to_vec();
    for _ in 0..DEEPEST {
        let decoded: Vec<u8> = percent_decode(&value).collect();
        if find(&decoded, secret).is_some() {
            return true;
        }
        if decoded == value {
            break;
        }
        value = decoded;
    }
    false
}
