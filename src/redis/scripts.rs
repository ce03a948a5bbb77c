//! What Redis does in one step, and what it answers.
//!
//! Keys are named where they are used, as proxies of clusters want to find them there.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{FromRedisValue, ParsingError, Script, ScriptInvocation, Value};
use zeroize::Zeroizing;

use super::layout::Layout;

/// `found` and `ttl` are what stands at the token's key.
macro_rules! look {
    () => {
        r"
local value = redis.pcall('GET', KEYS[1])
local ttl = redis.call('PTTL', KEYS[1])
local found = 'foreign'
if not value then
  found = 'nothing'
elseif type(value) == 'string' and #value <= 65536 then
  found = 'value:' .. value
end
"
    };
}

/// Reads the token.
static READ: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(look!(), "return {'found', found, ttl}")));

/// Takes the lease, provided that the token still is what was seen (`ARGV[1]`).
///
/// The budget is a leaky bucket whose level is the TTL of its key, which needs no clock. `ARGV[4]` is the size of the bucket in
/// milliseconds, or less than none where nothing is to be counted, and `ARGV[5]` what one refresh adds.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        look!(),
        r"
if found ~= ARGV[1] then
  return {'found', found, ttl}
end
local holder = redis.pcall('GET', KEYS[2])
if holder == ARGV[2] then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  return {'leased', '', 0}
end
if holder then
  local left = redis.call('PTTL', KEYS[2])
  if left == -1 then
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
    left = tonumber(ARGV[3])
  end
  return {'taken', '', left}
end
local size = tonumber(ARGV[4])
if size >= 0 then
  local level = math.max(redis.call('PTTL', KEYS[3]), 0) + tonumber(ARGV[5])
  if level > size then
    return {'spent', '', level - size}
  end
  redis.call('SET', KEYS[3], '', 'PX', string.format('%.0f', level))
end
redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3])
return {'leased', '', 0}
"
    ))
});

/// Prolongs the lease, if it still is the owner's.
static PROLONG: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.pcall('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
",
    )
});

/// Gives the lease back, if it still is the owner's; and `ARGV[2]` milliseconds of the budget.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local back = tonumber(ARGV[2])
if back > 0 then
  local level = redis.call('PTTL', KEYS[2]) - back
  if level > 0 then
    redis.call('PEXPIRE', KEYS[2], string.format('%.0f', level))
  else
    redis.call('DEL', KEYS[2])
  end
end
return redis.call('DEL', KEYS[1])
",
    )
});

/// Writes the token (`ARGV[3]`) and gives the lease back.
///
/// An owner whose lease is gone may write only if nobody holds one now, and the token is what it was (`ARGV[2]`) or gone as well, as
/// after a restart of Redis.
static STORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        look!(),
        r"
local holder = redis.pcall('GET', KEYS[2])
if found == 'value:' .. ARGV[3] and holder ~= ARGV[1] then
  return {'stored', '', 0}
end
if holder ~= ARGV[1] and (holder or (found ~= ARGV[2] and found ~= 'nothing')) then
  return {'found', found, ttl}
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
if holder == ARGV[1] then
  redis.call('DEL', KEYS[2])
end
return {'stored', '', 0}
"
    ))
});

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
    pub(super) price: Option<Price>,
}

/// The size of the budget, and what one refresh takes of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Price {
    pub(super) burst: u32,
    pub(super) per: Duration,
}

pub(super) enum Answer {
    /// The token's key as it is, and the milliseconds that it has left; less than none where it does not expire.
    Found(Found, i64),
    Leased,
    /// Somebody else has it, for so much longer.
    Taken(Duration),
    Spent,
    Stored,
}

impl FromRedisValue for Answer {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (kind, found, milliseconds): (String, Vec<u8>, i64) = redis::from_redis_value(value)?;
        match kind.as_str() {
            "found" => Ok(Answer::Found(Found::read(found)?, milliseconds)),
            "leased" => Ok(Answer::Leased),
            "taken" => Ok(Answer::Taken(Duration::from_millis(
                milliseconds.try_into().unwrap_or(0),
            ))),
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
    claim
}

pub(super) fn prolong(layout: &Layout, terms: &Terms<'_>) -> ScriptInvocation<'static> {
    let mut prolong = PROLONG.key(layout.lease_key());
    prolong.arg(terms.owner).arg(milliseconds(terms.lease));
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
    value: &str,
    life: Duration,
) -> ScriptInvocation<'static> {
    let mut store = STORE.key(layout.token_key());
    store.key(layout.lease_key()).arg(owner);
    store
        .arg(seen.to_arg().as_slice())
        .arg(value)
        .arg(milliseconds(life));
    store
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
        assert!(matches!(taken(-2), Ok(Answer::Taken(Duration::ZERO))));
        assert!(matches!(taken(i64::MAX), Ok(Answer::Taken(_))));
    }
}
