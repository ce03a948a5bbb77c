//! A look at replies to calls that passed without a token: 41001 is a mistake to warn of (R8).

use std::sync::Arc;

use http::request::Parts;
use http::{Method, Response, Uri};
use http_body::Body;

use crate::body::ReplyBody;
use crate::config::Config;
use crate::outcome::AuthOutcome;
use crate::passed::PassedThrough;
use crate::platform::Platform;
use crate::reply::{Coding, errcode_in, may_be_wechats_word};
use crate::request::{has_token, names_other_credential};

/// WeChat's "access_token missing".
const MISSING: i64 = 41001;

/// As much of a reply is looked at. WeChat's errors are about 220 bytes.
const SEEN: usize = 256;

/// Watches the reply to a call that passed without a token.
pub(crate) struct Watch {
    config: Arc<Config>,
    why: PassedThrough,
    method: Method,
    uri: Uri,
    seen: Vec<u8>,
}

impl Watch {
    /// `None` for a call of which nobody would have expected that it gets a token.
    fn of(
        config: &Arc<Config>,
        why: PassedThrough,
        method: &Method,
        uri: &Uri,
    ) -> Option<Box<Watch>> {
        let query = uri.query().unwrap_or_default();
        let has_own = has_token(query) || names_other_credential(query);
        // The first wants none, and the second is warned of already.
        let is_known = matches!(why, PassedThrough::TokenRequest | PassedThrough::WithoutTls);
        (!has_own && !is_known).then(|| {
            Box::new(Watch {
                config: Arc::clone(config),
                why,
                method: method.clone(),
                uri: uri.clone(),
                seen: Vec::new(),
            })
        })
    }

    /// What becomes of a reply: it is handed on, and watched as it flows.
    fn reply<R: Body + Unpin>(self: Box<Self>, reply: &mut Response<ReplyBody<R>>) {
        if self.why == PassedThrough::OtherPlatform && self.wants_token_there() {
            self.warn();
            return;
        }
        let fits = reply.body().size_hint().lower() <= SEEN as u64;
        let is_plain = Coding::of(reply.headers()) == Some(Coding::Identity);
        if fits && is_plain && may_be_wechats_word(&self.method, reply) {
            reply.body_mut().watch(self);
        }
    }

    /// Looks at the next bytes; says whether there is nothing more to look for.
    pub(crate) fn has_seen_enough(&mut self, data: &[u8]) -> bool {
        if self.seen.len() + data.len() > SEEN {
            return true;
        }
        self.seen.extend_from_slice(data);
        let errcode = errcode_in(&self.seen);
        if errcode == Some(MISSING) {
            self.warn();
        }
        errcode.is_some()
    }

    /// Whether the platform of the host takes the account's token at this path.
    fn wants_token_there(&self) -> bool {
        let platform = self.uri.host().and_then(Platform::of_host);
        platform.is_some_and(|platform| !platform.is_exempt(self.uri.path()))
    }

    fn warn(&self) {
        let platform = self.config.platform();
        let warnings = &self.config.warnings;
        warnings.of_missing_token(self.why, platform, &self.uri);
    }
}

impl Config {
    /// Says that a request is sent as it is, and what is to be watched for in its reply.
    pub(crate) fn pass(self: &Arc<Self>, why: PassedThrough, parts: &Parts) -> Option<Box<Watch>> {
        self.warnings
            .of_passed(why, parts.uri.path(), &self.answered);
        let (host, path) = (parts.uri.host(), parts.uri.path());
        tracing::debug!(host, path, %why, "sent as it is");
        Watch::of(self, why, &parts.method, &parts.uri)
    }
}

/// Notes in a reply why its request passed, unless a layer inside did more about it.
pub(crate) fn note_passed<R: Body + Unpin>(
    why: PassedThrough,
    watch: Option<Box<Watch>>,
    reply: &mut Response<ReplyBody<R>>,
) {
    let inner = reply.extensions().get::<AuthOutcome>();
    if inner.is_some_and(|inner| inner.passed_through().is_none()) {
        return;
    }
    reply.extensions_mut().insert(AuthOutcome::passed(why));
    if let Some(watch) = watch {
        watch.reply(reply);
    }
}
