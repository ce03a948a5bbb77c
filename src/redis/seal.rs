use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::value::SEALED;

/// The version of the form, so that another one can follow.
const FIRST: &str = "1:";

const NONCE: usize = 24;

/// The keys by which tokens in Redis are sealed, and opened (feature `redis-seal`).
///
/// What Redis holds then is the token encrypted and authenticated (XChaCha20-Poly1305), bound to
/// the name of its key and to its account: whoever can read Redis cannot call WeChat, and whoever
/// can write to it cannot slip in a token, nor one of another account. They still can delete a
/// token, or put back one that was there before, which costs a refresh.
///
/// A key is 32 bytes from a generator of random numbers, the same in all processes (`openssl rand
/// -hex 32` prints one). To replace it, first have all processes [open](Seal::also_opens) what the
/// new one seals, then have them seal by it, and then forget the old one: two processes that cannot
/// open each other's tokens replace them in turn.
///
/// ```
/// use tower_wechat::redis::Seal;
///
/// let (key, former) = ([7; 32], [1; 32]);
/// let seal = Seal::new(key).also_opens(former);
/// assert_eq!(format!("{seal:?}"), "Seal { keys: 2, .. }");
/// ```
#[derive(Clone)]
pub struct Seal {
    /// The first one seals.
    keys: Vec<Zeroizing<[u8; 32]>>,
}

impl Seal {
    /// Seals and opens by `key`.
    pub fn new(key: [u8; 32]) -> Self {
        Seal {
            keys: vec![Zeroizing::new(key)],
        }
    }

    /// Opens what was sealed by `key`, too: the former key, or the next one.
    pub fn also_opens(mut self, key: [u8; 32]) -> Self {
        self.keys.push(Zeroizing::new(key));
        self
    }

    /// `text` sealed for the account whose token stands at `place`; or why not.
    pub(super) fn close(
        &self,
        place: &str,
        account: Option<&str>,
        text: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        let mut nonce = XNonce::default();
        getrandom::fill(&mut nonce).map_err(|_| "the system gives no random numbers to seal by")?;
        let bound = bound_to(place, account);
        let payload = Payload {
            msg: text,
            aad: &bound,
        };
        let cipher = XChaCha20Poly1305::new((&*self.keys[0]).into());
        let sealed = cipher.encrypt(&nonce, payload);
        let sealed = sealed.map_err(|_| "it cannot be sealed")?;
        let sealed = URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat());
        Ok(Zeroizing::new(
            [SEALED, FIRST, &sealed].concat().into_bytes(),
        ))
    }

    /// What was sealed for that account and place by one of the keys.
    pub(super) fn open(
        &self,
        place: &str,
        account: Option<&str>,
        value: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let sealed = value.strip_prefix(SEALED.as_bytes())?;
        let sealed = URL_SAFE_NO_PAD.decode(sealed.strip_prefix(FIRST.as_bytes())?);
        let sealed = sealed.ok()?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE)?;
        let nonce = XNonce::try_from(nonce).ok()?;
        let bound = bound_to(place, account);
        let opened = self.keys.iter().find_map(|key| {
            let cipher = XChaCha20Poly1305::new((&**key).into());
            let payload = Payload {
                msg: sealed,
                aad: &bound,
            };
            cipher.decrypt(&nonce, payload).ok()
        });
        opened.map(Zeroizing::new)
    }
}

/// No two pairs of a place and an account are bound to the same.
fn bound_to(place: &str, account: Option<&str>) -> Vec<u8> {
    let length = place.len() as u64;
    let account = account.map_or(String::new(), |account| format!("of {account}"));
    [
        SEALED.as_bytes(),
        FIRST.as_bytes(),
        &length.to_be_bytes(),
        place.as_bytes(),
        account.as_bytes(),
    ]
    .concat()
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn closed(seal: &Seal, place: &str, account: Option<&str>) -> Zeroizing<Vec<u8>> {
        seal.close(place, account, b"78_Zx0").unwrap()
    }

    #[test]
    fn what_is_sealed_opens_and_tells_nothing() {
        let seal = Seal::new(KEY);
        let value = closed(&seal, "k", Some("wx1"));
        let opened = seal.open("k", Some("wx1"), &value).unwrap();
        assert_eq!(*opened, b"78_Zx0");
        assert!(value.is_ascii());
        assert!(!value.windows(6).any(|part| part == b"78_Zx0"));
        assert_ne!(value, closed(&seal, "k", Some("wx1")), "a nonce each");
    }

    #[test]
    fn a_former_key_and_the_next_one_open_and_no_other() {
        let old = closed(&Seal::new([1; 32]), "k", None);
        let both = Seal::new(KEY).also_opens([2; 32]).also_opens([1; 32]);
        assert!(both.open("k", None, &old).is_some());
        assert!(Seal::new(KEY).open("k", None, &old).is_none());
        let new = closed(&both, "k", None);
        assert!(Seal::new(KEY).open("k", None, &new).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_never_open(value: Vec<u8>, known_form: bool) {
            let value = if known_form {
                let sealed = URL_SAFE_NO_PAD.encode(&value);
                [SEALED, FIRST, &sealed].concat().into_bytes()
            } else {
                value
            };
            prop_assert!(Seal::new(KEY).open("k", Some("wx1"), &value).is_none());
        }

        #[test]
        fn a_value_that_was_changed_never_opens(place in 0usize..200, bit in 0u8..8) {
            let seal = Seal::new(KEY);
            let mut value = closed(&seal, "k", None).to_vec();
            let place = place % value.len();
            value[place] ^= 1 << bit;
            prop_assert!(seal.open("k", None, &value).is_none());
        }

        #[test]
        fn a_value_that_was_cut_never_opens(length: usize) {
            let seal = Seal::new(KEY);
            let value = closed(&seal, "k", None);
            let length = length % value.len();
            prop_assert!(seal.open("k", None, &value[..length]).is_none());
        }

        #[test]
        fn a_token_sealed_for_another_place_or_account_never_opens(
            one in (".{0,8}", proptest::option::of(".{0,8}")),
            other in (".{0,8}", proptest::option::of(".{0,8}")),
        ) {
            prop_assume!(one != other);
            let seal = Seal::new(KEY);
            let value = closed(&seal, &one.0, one.1.as_deref());
            prop_assert!(seal.open(&other.0, other.1.as_deref(), &value).is_none());
        }
    }
}
