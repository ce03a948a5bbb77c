//! What stands at the token's key: how it is made, and whether it is believed.

use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroizing;

use super::layout::Layout;
use super::scripts::Found;
use super::share::Want;
use super::tokens::RedisTokens;
use crate::token::{AccessToken, TokenSource};

/// In milliseconds. What ends sooner would end on its way to WeChat.
const SHORTEST_LIFE: u64 = 1000;

/// No token of WeChat's lives longer, whatever Redis says.
const LONGEST_LIFE: Duration = Duration::from_secs(7200);

/// How the values begin that [`RedisTokens::sealed`](super::RedisTokens) has written.
pub(super) const SEALED: &str = "tower-wechat-sealed:";

impl<T> RedisTokens<T>
where
    T: TokenSource,
{
    /// The value for the token, and the key's life; or why there is none.
    pub(super) fn written(
        &self,
        layout: &Layout,
        token: &AccessToken,
        asked_at: Instant,
    ) -> Result<(Zeroizing<Vec<u8>>, Duration), &'static str> {
        // The manager says what is wrong with an empty one.
        let expires_in = token.expires_in();
        if expires_in.is_zero() {
            return Err("it has expired already");
        }
        // It lives from when it was asked for, and the reply may have taken its time.
        let late = asked_at.elapsed().saturating_sub(token.age());
        let life = expires_in.min(LONGEST_LIFE).saturating_sub(late);
        let value = self.sealed_or_plain(layout, layout.text_of(token))?;
        match self.token_in(layout, &value) {
            Ok(read) if *read == token.secret() => Ok((value, layout.life_of_key(life))),
            _ => Err("it would not be read as it is written"),
        }
    }

    /// The token that stands in Redis, if it is one to use.
    pub(super) fn usable(
        &self,
        layout: &Layout,
        want: Want<'_>,
        found: &Found,
        milliseconds: i64,
        asked_at: Instant,
    ) -> Option<AccessToken> {
        let warn = |what| {
            let path = layout.token_key();
            self.warned_of_value.tell(self.account(), path, what);
        };
        let value = match found {
            Found::Nothing => return None,
            Found::Foreign => {
                warn(
                    "the key of the access_token in Redis has another type than a string, and is replaced",
                );
                return None;
            }
            Found::Value(value) => value,
        };
        let secret = match self.token_in(layout, value) {
            Ok(secret) => secret,
            Err(why) => {
                warn(why);
                return None;
            }
        };
        let Ok(milliseconds) = u64::try_from(milliseconds) else {
            warn("the access_token in Redis has no TTL, and is replaced");
            return None;
        };
        let life = Duration::from_millis(milliseconds);
        if life > LONGEST_LIFE {
            warn(
                "the access_token in Redis was to live for longer than WeChat's do, and its TTL is cut to 7200 s",
            );
        }
        // What was left when Redis was asked, and the answer may have taken its time.
        let life = life.saturating_add(layout.early()).min(LONGEST_LIFE);
        let life = life.saturating_sub(asked_at.elapsed());
        let token = AccessToken::shared(secret.as_str(), life).at_no_cost();
        let useless = self.known.useless(&token, want);
        (milliseconds >= SHORTEST_LIFE && !useless).then_some(token)
    }

    /// The token in a value, or why it is none.
    fn token_in(&self, layout: &Layout, value: &[u8]) -> Result<Zeroizing<String>, &'static str> {
        const NONE: &str = "the value in Redis is no access_token, and is replaced";
        #[cfg(feature = "redis-seal")]
        if let Some(seal) = &self.seal {
            let text = seal.open(layout.token_key(), self.account(), value).ok_or(
                "the value in Redis does not open with the keys of this process, and is replaced",
            )?;
            return layout.token_in(&text).ok_or(NONE);
        }
        if value.starts_with(SEALED.as_bytes()) {
            return Err(
                "the access_token in Redis is sealed and this process has no key: it is replaced",
            );
        }
        layout.token_in(value).ok_or(NONE)
    }

    #[cfg(feature = "redis-seal")]
    fn sealed_or_plain(
        &self,
        layout: &Layout,
        text: Zeroizing<String>,
    ) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        match &self.seal {
            Some(seal) => seal.close(layout.token_key(), self.account(), text.as_bytes()),
            None => Ok(Zeroizing::new(text.as_bytes().to_vec())),
        }
    }

    #[cfg(not(feature = "redis-seal"))]
    fn sealed_or_plain(
        &self,
        _: &Layout,
        text: Zeroizing<String>,
    ) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        Ok(Zeroizing::new(text.as_bytes().to_vec()))
    }
}
