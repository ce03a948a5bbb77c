//! The gateway's own tokens: signed, expiring, bound to a client and an account.
//!
//! Nothing is stored, so every gateway that has the same key and the same clients takes them, and a
//! restart voids none.
//!
//! `base64url(version, expiry, 8 bytes by chance, length of the client's name, client's name,
//! appid, HMAC-SHA256 of all these)`

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::clients::Client;
use super::refusal::Refusal;
use super::registry::{Account, Registry};
use super::token_endpoints::{Grant, Granted};
use super::token_request::TokenRequest;

type Sha256Mac = Hmac<Sha256>;

const VERSION: u8 = 1;
const TAG: usize = 32;

/// So that no two tokens are alike.
const NONCE: usize = 8;

/// A longer life than this is a mistake, and clients of this crate's take no longer one.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How far the clocks of two gateways may be apart. A token of one whose clock is years ahead would
/// live for years.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// Seals tokens, and opens those that it or another with the same keys has sealed.
pub(super) struct Seal {
    life: Duration,
    /// By client, the one that seals first: a client's is made from its secret too, so that another
    /// secret voids its tokens.
    keys: HashMap<Arc<str>, Vec<Sha256Mac>>,
}

/// Why a token is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsealed {
    /// It is not one of ours, or for a client or an account that is not there any more.
    Invalid,
    /// It was good once.
    Expired,
}

impl Seal {
    /// `keys`: the first seals, all of them open.
    pub(super) fn new<'a>(
        keys: &[Zeroizing<Vec<u8>>],
        clients: impl Iterator<Item = &'a Client>,
        life: Duration,
    ) -> Self {
        let keys = clients.map(|client| {
            let of_client = keys.iter().map(|key| {
                let mut derived = mac(key);
                derived.update(b"tower-wechat: a client of the gateway\0");
                derived.update(client.name.as_bytes());
                derived.update(b"\0");
                derived.update(client.secret().expose().as_bytes());
                mac(&derived.finalize().into_bytes())
            });
            (Arc::clone(&client.name), of_client.collect())
        });
        Seal {
            life,
            keys: keys.collect(),
        }
    }

    fn seal(&self, client: &str, appid: &str, now: Duration) -> Option<String> {
        // Not before what the client is told.
        let expiry = now.as_secs() + self.life.as_secs() + 1;
        let mut token = vec![VERSION];
        token.extend_from_slice(&expiry.to_be_bytes());
        token.extend_from_slice(&fastrand::u64(..).to_be_bytes());
        token.push(u8::try_from(client.len()).ok()?);
        token.extend_from_slice(client.as_bytes());
        token.extend_from_slice(appid.as_bytes());
        let key = self.keys.get(client)?.first()?;
        let tag = key.clone().chain_update(&token).finalize().into_bytes();
        token.extend_from_slice(&tag);
        Some(URL_SAFE_NO_PAD.encode(token))
    }

    /// How long the newest token can live.
    fn longest(&self) -> Duration {
        self.life + Duration::from_secs(1) + SKEW
    }

    /// For whom a token is good, and for which account.
    pub(super) fn open<'a>(
        &self,
        token: &str,
        registry: &'a Registry,
    ) -> Result<(&'a Client, &'a Account), Unsealed> {
        let (client, appid) = self.open_at(token, now())?;
        let client = registry.client(&client).ok_or(Unsealed::Invalid)?;
        let account = registry.account(&appid).ok_or(Unsealed::Invalid)?;
        if client.may_use(&account.appid) {
            Ok((client, account))
        } else {
            Err(Unsealed::Invalid)
        }
    }

    fn open_at(&self, token: &str, now: Duration) -> Result<(String, String), Unsealed> {
        let token = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| Unsealed::Invalid)?;
        let parsed = token
            .split_last_chunk::<TAG>()
            .and_then(|(sealed, tag)| Some((sealed, tag, parse(sealed)?)));
        let (sealed, tag, (expiry, client, appid)) = parsed.ok_or(Unsealed::Invalid)?;
        let keys = self.keys.get(client).ok_or(Unsealed::Invalid)?;
        let mut tags = keys.iter().map(|key| key.clone().chain_update(sealed));
        if !tags.any(|expected| expected.verify_slice(tag).is_ok()) {
            return Err(Unsealed::Invalid);
        }
        // After the tag: only whoever held the token is told that it was good. Its client gets
        // another, by a better clock.
        let expiry = Duration::from_secs(expiry);
        if now >= expiry || expiry > now + self.longest() {
            return Err(Unsealed::Expired);
        }
        Ok((client.to_owned(), appid.to_owned()))
    }
}

fn mac(key: &[u8]) -> Sha256Mac {
    Sha256Mac::new_from_slice(key).expect("HMAC takes keys of every length")
}

/// The expiry, the client's name and the appid.
fn parse(sealed: &[u8]) -> Option<(u64, &str, &str)> {
    let (&version, sealed) = sealed.split_first()?;
    let (&expiry, sealed) = sealed.split_first_chunk::<8>()?;
    let (_, sealed) = sealed.split_first_chunk::<NONCE>()?;
    let (&length, sealed) = sealed.split_first()?;
    let (client, appid) = sealed.split_at_checked(length.into())?;
    let client = std::str::from_utf8(client).ok()?;
    let appid = std::str::from_utf8(appid).ok()?;
    (version == VERSION).then_some((u64::from_be_bytes(expiry), client, appid))
}

/// Since 1970, as gateways on several machines have to agree on it.
fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO)
}

impl Grant for Arc<Seal> {
    /// Also for a client that says its token is dead: a new one it gets in any case, and that
    /// WeChat's died it is never told.
    async fn grant(
        &self,
        client: &Client,
        account: &Account,
        _request: &TokenRequest,
    ) -> Result<Granted, Refusal> {
        let token = self.seal(&client.name, &account.appid, now());
        Ok(Granted {
            token: token.expect("there is a key for each client, and names are short"),
            expires_in: self.life.as_secs(),
        })
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::clients::Allowed;
    use super::*;
    use crate::source::Secret;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const LIFE: Duration = Duration::from_secs(7200);

    fn client(name: &str, secret: &str) -> Client {
        Client::new(name.into(), Secret::new(secret), None, &Allowed::default())
    }

    fn seal_of(keys: &[&str], secret: &str) -> Seal {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| Zeroizing::new(key.as_bytes().to_vec()))
            .collect();
        let clients = [client("crm", secret), client("shop", "the shop's secret")];
        Seal::new(&keys, clients.iter(), LIFE)
    }

    fn crm() -> Result<(String, String), Unsealed> {
        Ok(("crm".into(), "wx1".into()))
    }

    #[test]
    fn a_token_opens_where_the_keys_and_the_clients_are_the_same() {
        let token = seal_of(&["key"], "secret").seal("crm", "wx1", NOW).unwrap();
        assert_eq!(seal_of(&["key"], "secret").open_at(&token, NOW), crm());
        assert!(
            token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        );
    }

    #[test]
    fn another_key_or_another_secret_of_the_client_voids_it() {
        let token = seal_of(&["key"], "secret").seal("crm", "wx1", NOW).unwrap();
        assert_eq!(
            seal_of(&["other"], "secret").open_at(&token, NOW),
            Err(Unsealed::Invalid)
        );
        assert_eq!(
            seal_of(&["key"], "changed").open_at(&token, NOW),
            Err(Unsealed::Invalid)
        );
    }

    #[test]
    fn a_former_key_opens_and_does_not_seal() {
        let both = seal_of(&["new", "old"], "secret");
        let old = seal_of(&["old"], "secret").seal("crm", "wx1", NOW).unwrap();
        assert_eq!(both.open_at(&old, NOW), crm());
        let new = both.seal("crm", "wx1", NOW).unwrap();
        assert_eq!(seal_of(&["new"], "secret").open_at(&new, NOW), crm());
        assert_eq!(
            seal_of(&["old"], "secret").open_at(&new, NOW),
            Err(Unsealed::Invalid)
        );
    }

    #[test]
    fn it_expires_when_its_life_is_over_and_says_so() {
        let seal = seal_of(&["key"], "secret");
        let token = seal.seal("crm", "wx1", NOW).unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(seal.open_at(&token, NOW + LIFE), crm());
        assert_eq!(
            seal.open_at(&token, NOW + LIFE + second),
            Err(Unsealed::Expired)
        );
    }

    #[test]
    fn s11_a_token_of_a_gateway_whose_clock_is_ahead_lives_no_longer_than_another() {
        let seal = seal_of(&["key"], "secret");
        let ten_years = Duration::from_secs(10 * 365 * 24 * 60 * 60);
        let ahead = seal.seal("crm", "wx1", NOW + ten_years).unwrap();
        assert_eq!(seal.open_at(&ahead, NOW), Err(Unsealed::Expired));
        let a_little = seal.seal("crm", "wx1", NOW + SKEW).unwrap();
        assert_eq!(seal.open_at(&a_little, NOW), crm());
        let too_much = seal.seal("crm", "wx1", NOW + 2 * SKEW).unwrap();
        assert_eq!(seal.open_at(&too_much, NOW), Err(Unsealed::Expired));
    }

    #[test]
    fn the_longest_names_still_make_a_token_of_256_characters() {
        let name = "n".repeat(64);
        let keys = [Zeroizing::new(b"key".to_vec())];
        let seal = Seal::new(&keys, [client(&name, "secret")].iter(), LIFE);
        let token = seal.seal(&name, &"a".repeat(64), NOW).unwrap();
        assert!(token.len() <= 256, "{}", token.len());
    }

    proptest! {
        #[test]
        fn no_bytes_that_were_not_sealed_open(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let seal = seal_of(&["key"], "secret");
            let token = URL_SAFE_NO_PAD.encode(&bytes);
            prop_assert_eq!(seal.open_at(&token, NOW), Err(Unsealed::Invalid));
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            prop_assert_eq!(seal_of(&["key"], "secret").open_at(&text, NOW), Err(Unsealed::Invalid));
        }

        #[test]
        fn no_byte_of_a_token_can_be_another(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let seal = seal_of(&["key"], "secret");
            let token = seal.seal("crm", "wx1", NOW).unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let forged = URL_SAFE_NO_PAD.encode(bytes);
            prop_assert_eq!(seal.open_at(&forged, NOW), Err(Unsealed::Invalid));
        }
    }
}
