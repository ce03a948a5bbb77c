//! One account's tokens: which exist, which are good, and what a token request gives.
//!
//! Nothing here reads a clock: the time is handed in.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::platform::Platform;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const STABLE_MARGIN: Duration = Duration::from_secs(300);
const FORCED_APART: Duration = Duration::from_secs(30);
const FORCED_A_DAY: u32 = 20;

/// Longer spans are cut to this one, because adding them to an `Instant` would panic.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The answer to a token request.
pub(super) struct Grant {
    pub(super) token: String,
    pub(super) expires_in: u64,
    pub(super) new: bool,
}

/// Which endpoint a token comes from. The kinds do not know of each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Plain,
    Stable,
    Corp,
}

struct Token {
    kind: Kind,
    expires: Instant,
    /// When the grace ends that a newer token left to this one.
    superseded: Option<Instant>,
    revoked: bool,
}

/// A count that starts again each day.
#[derive(Default)]
struct Daily {
    since: Option<Instant>,
    used: u32,
}

impl Daily {
    /// Counts one more, unless the day's `limit` is reached.
    fn take(&mut self, limit: u32, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= DAY) {
            self.since = Some(now);
            self.used = 0;
        }
        let granted = self.used < limit;
        self.used += u32::from(granted);
        granted
    }
}

/// What the tokens of an account are like.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) expires_in: Duration,
    pub(super) grace: Duration,
    pub(super) quota: u32,
    pub(super) token_len: usize,
    pub(super) refuse_excess_forces: bool,
}

pub(super) struct Tokens {
    terms: Terms,
    plain_requests: Daily,
    forced: Daily,
    last_forced: Option<Instant>,
    known: HashMap<String, Token>,
    newest: HashMap<Kind, String>,
}

impl Tokens {
    pub(super) fn new(terms: &Terms) -> Tokens {
        Tokens {
            terms: Terms {
                expires_in: terms.expires_in.min(LONGEST),
                grace: terms.grace.min(LONGEST),
                ..terms.clone()
            },
            plain_requests: Daily::default(),
            forced: Daily::default(),
            last_forced: None,
            known: HashMap::new(),
            newest: HashMap::new(),
        }
    }

    /// Whose platform the token is of, if it is one of these at all.
    pub(super) fn platform_of(&self, token: &str) -> Option<Platform> {
        let token = self.known.get(token)?;
        Some(match token.kind {
            Kind::Plain | Kind::Stable => Platform::OfficialAccount,
            Kind::Corp => Platform::WeCom,
        })
    }

    /// Whether an API call with this token may go on; else the errcode.
    pub(super) fn check(&self, token: &str, now: Instant) -> Result<(), i64> {
        let Some(token) = self.known.get(token) else {
            return Err(40001);
        };
        if token.revoked {
            return Err(if token.kind == Kind::Corp {
                40014
            } else {
                40001
            });
        }
        // "access_token is invalid or not latest" is the wording of 40001, not of 42001.
        if token.superseded.is_some_and(|end| now >= end) {
            return Err(40001);
        }
        if now >= token.expires {
            return Err(42001);
        }
        Ok(())
    }

    /// "Get access token": a new one each time.
    pub(super) fn plain(&mut self, now: Instant) -> Result<Grant, i64> {
        if !self.plain_requests.take(self.terms.quota, now) {
            return Err(45009);
        }
        let grace = self.terms.grace;
        if let Some(former) = self.newest_mut(Kind::Plain) {
            former.superseded = Some(now + grace);
        }
        Ok(self.issue(Kind::Plain, now))
    }

    /// "Get stable access token": the same one, unless it is about to end or a new one is forced.
    ///
    /// A force that comes too soon is silently no force at all. So is one too many, or it is
    /// refused: the page does not say.
    pub(super) fn stable(&mut self, force: bool, now: Instant) -> Result<Grant, i64> {
        let apart = self
            .last_forced
            .is_none_or(|last| now - last >= FORCED_APART);
        if force && apart {
            if self.forced.take(FORCED_A_DAY, now) {
                self.last_forced = Some(now);
                if let Some(former) = self.newest_mut(Kind::Stable) {
                    former.revoked = true;
                }
                return Ok(self.issue(Kind::Stable, now));
            }
            if self.terms.refuse_excess_forces {
                return Err(45009);
            }
        }
        // Lives shorter than WeChat's are for tests, and would be all margin.
        let margin = STABLE_MARGIN.min(self.terms.expires_in / 2);
        // Revocation is not looked at: WeChat hands out the dead token too.
        Ok(match self.newest(Kind::Stable) {
            Some(grant) if grant.1.expires > now + margin => reissue(grant, now),
            _ => self.issue(Kind::Stable, now),
        })
    }

    /// WeCom's "Get access_token": the same one as long as it is good.
    pub(super) fn corp(&mut self, now: Instant) -> Grant {
        match self.newest(Kind::Corp) {
            Some(grant) if !grant.1.revoked && grant.1.expires > now => reissue(grant, now),
            _ => self.issue(Kind::Corp, now),
        }
    }

    pub(super) fn current(&self) -> Option<String> {
        let (secret, token) = self.newest(Kind::Plain)?;
        (!token.revoked).then(|| secret.to_owned())
    }

    pub(super) fn refuse_excess_forces(&mut self, refuse: bool) {
        self.terms.refuse_excess_forces = refuse;
    }

    pub(super) fn set_quota(&mut self, quota: u32) {
        self.terms.quota = quota;
    }

    pub(super) fn revoke(&mut self) {
        for token in self.known.values_mut() {
            token.revoked = true;
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        for token in self.known.values_mut() {
            token.expires = token.expires.min(now);
            // The last word counts: these would be told as 40001 otherwise.
            token.superseded = None;
            token.revoked = false;
        }
    }

    fn newest(&self, kind: Kind) -> Option<(&str, &Token)> {
        let secret = self.newest.get(&kind)?;
        Some((secret, self.known.get(secret)?))
    }

    fn newest_mut(&mut self, kind: Kind) -> Option<&mut Token> {
        self.known.get_mut(self.newest.get(&kind)?)
    }

    fn issue(&mut self, kind: Kind, now: Instant) -> Grant {
        let secret = loop {
            let secret = random_token(self.terms.token_len);
            if !self.known.contains_key(&secret) {
                break secret;
            }
        };
        let token = Token {
            kind,
            expires: now + self.terms.expires_in,
            superseded: None,
            revoked: false,
        };
        let grant = Grant {
            new: true,
            ..reissue((&secret, &token), now)
        };
        self.known.insert(secret.clone(), token);
        self.newest.insert(kind, secret);
        grant
    }
}

fn reissue((secret, token): (&str, &Token), now: Instant) -> Grant {
    let left = token.expires - now;
    Grant {
        token: secret.to_owned(),
        // 0 would say that it has expired already, and it has not.
        expires_in: left.as_secs().max(u64::from(!left.is_zero())),
        new: false,
    }
}

fn random_token(len: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..len)
        .map(|_| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())]))
        .collect()
}
