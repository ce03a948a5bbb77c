//! What Redis is told to do in one step, and what it answers.

use std::time::Duration;

use redis::{FromRedisValue, ParsingError, ScriptInvocation, Value};
use zeroize::Zeroizing;

use super::layout::Layout;
use super::lua::{CHECK, CLAIM, PROLONG, READ, RELEASE, STORE};

/// What stands at the token's key.
#[derive(Clone, PartialEq)]
pub(super) enum Found {
    Nothing,
    /// A key of another type than a string, or larger than any token.
    Foreign,
    Value(Zeroizing<Vec<u8>>),
}

impl Found {
    fn read(text: Vec<u8>) -> Result<Self, ParsingError> {
        let text = Zeroizing::new(text);
        match text.as_slice() {
            b"nothing" => Ok(Found::Nothing),
            b"foreign" => Ok(Found::Foreign),
            text => match text.strip_prefix(b"value:") {
                Some(value) => Ok(Found::Value(Zeroizing::new(value.to_vec()))),
                None => Err("an answer that the script does not give".into()),
            },
        }
    }

    fn to_arg(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Found::Nothing => Zeroizing::new(b"nothing".to_vec()),
            Found::Foreign => Zeroizing::new(b"foreign".to_vec()),
            Found::Value(value) => Zeroizing::new([b"value:", value.as_slice()].concat()),
        }
    }
}

/// Whose lease it is to be, for how long, and what it costs.
pub(super) struct Terms<'a> {
    pub(super) owner: &'a str,
    pub(super) lease: Duration,
    /// The longest life that is believed of somebody else's.
    pub(super) longest: Duration,
    pub(super) price: Option<Price>,
}

/// The size of the budget, and what one refresh takes of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Price {
    pub(super) burst: u32,
    pub(super) per: Duration,
}

pub(super) enum Answer {
    /// The token's key as it is, and the milliseconds that it has left; less than none where it
    /// does not expire.
    Found(Found, i64),
    Leased,
    /// Somebody else has it, for so much longer.
    Taken {
        left: Duration,
        /// It was to be for longer than any lease is.
        cut: bool,
    },
    Spent,
    Stored,
}

impl FromRedisValue for Answer {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (kind, found, milliseconds): (String, Vec<u8>, i64) = redis::from_redis_value(value)?;
        match kind.as_str() {
            "found" => Ok(Answer::Found(Found::read(found)?, milliseconds)),
            "leased" => Ok(Answer::Leased),
            "taken" => Ok(Answer::Taken {
                left: Duration::from_millis(milliseconds.try_into().unwrap_or(0)),
                cut: found == b"cut",
            }),
            "spent" => Ok(Answer::Spent),
            "stored" => Ok(Answer::Stored),
            _ => Err("an answer that the script does not give".into()),
        }
    }
}

pub(super) fn read(layout: &Layout) -> ScriptInvocation<'static> {
    READ.key(layout.token_key())
}

pub(super) fn claim(layout: &Layout, seen: &Found, terms: &Terms<'_>) -> ScriptInvocation<'static> {
    let (size, step) = match terms.price {
        None => (-1, 0),
        Some(Price { burst, per }) => {
            // Rounded up: without a period there is no end of them, but a burst of none stays one.
            let step = milliseconds(per);
            (
                i64::try_from(step.saturating_mul(burst.into())).unwrap_or(i64::MAX),
                step,
            )
        }
    };
    let mut claim = CLAIM.key(layout.token_key());
    claim.key(layout.lease_key()).key(layout.refreshes_key());
    claim.arg(seen.to_arg().as_slice()).arg(terms.owner);
    claim.arg(milliseconds(terms.lease)).arg(size).arg(step);
    claim.arg(milliseconds(terms.longest));
    claim
}

pub(super) fn prolong(layout: &Layout, owner: &str, lease: Duration) -> ScriptInvocation<'static> {
    let mut prolong = PROLONG.key(layout.lease_key());
    prolong.arg(owner).arg(milliseconds(lease));
    prolong
}

pub(super) fn release(
    layout: &Layout,
    owner: &str,
    refund: Option<Price>,
) -> ScriptInvocation<'static> {
    let mut release = RELEASE.key(layout.lease_key());
    release.key(layout.refreshes_key()).arg(owner);
    release.arg(refund.map_or(0, |price| milliseconds(price.per)));
    release
}

pub(super) fn store(
    layout: &Layout,
    seen: &Found,
    owner: &str,
    value: &[u8],
    life: Duration,
    refund: Option<Price>,
) -> ScriptInvocation<'static> {
    let mut store = STORE.key(layout.token_key());
    store.key(layout.lease_key()).key(layout.refreshes_key());
    store.arg(owner);
    store
        .arg(seen.to_arg().as_slice())
        .arg(value)
        .arg(milliseconds(life))
        .arg(refund.map_or(0, |price| milliseconds(price.per)));
    store
}

pub(super) fn check(layout: &Layout) -> ScriptInvocation<'static> {
    let mut check = CHECK.key(layout.token_key());
    check.key(layout.lease_key()).key(layout.refreshes_key());
    check
}

/// Redis takes no life of none, and none longer than it can count.
fn milliseconds(duration: Duration) -> u64 {
    const LONGEST: u64 = 10 * 365 * 24 * 60 * 60 * 1000;
    u64::try_from(duration.as_millis())
        .unwrap_or(LONGEST)
        .clamp(1, LONGEST)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            any::<bool>().prop_map(Value::Boolean),
            vec(any::<u8>(), 0..32).prop_map(Value::BulkString),
            Just(Value::BulkString(b"found".to_vec())),
            Just(Value::BulkString(b"value:78_Zx0".to_vec())),
            Just(Value::BulkString(b"taken".to_vec())),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| vec(inner, 0..4).prop_map(Value::Array))
    }

    proptest! {
        #[test]
        fn any_answer_of_redis_is_read_or_refused(value in any_value()) {
            let _ = Answer::from_redis_value(value);
        }

        #[test]
        fn what_is_found_is_told_back_as_it_is(value: Vec<u8>) {
            let told = [b"value:", value.as_slice()].concat();
            let found = Found::read(told.clone()).unwrap();
            prop_assert_eq!(&*found.to_arg(), &told);
        }

        #[test]
        fn any_time_is_one_that_redis_takes(time: Duration) {
            let milliseconds = milliseconds(time);
            prop_assert!((1..=10 * 366 * 24 * 60 * 60 * 1000).contains(&milliseconds));
        }
    }

    #[test]
    fn a_lease_that_is_taken_for_less_than_no_time_is_over() {
        let taken = |milliseconds| {
            let kind = Value::BulkString(b"taken".to_vec());
            let nothing = Value::BulkString(Vec::new());
            Answer::from_redis_value(Value::Array(vec![kind, nothing, Value::Int(milliseconds)]))
        };
        let none = taken(-2).unwrap();
        assert!(matches!(none, Answer::Taken { left, .. } if left.is_zero()));
        assert!(matches!(taken(i64::MAX), Ok(Answer::Taken { .. })));
    }
}
