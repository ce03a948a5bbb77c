//! The scripts that run in Redis.
//!
//! Keys are named where they are used, as proxies of clusters want to find them there.

use std::sync::LazyLock;

use redis::Script;

/// The value of a key, which may be of another type, but not one that Redis keeps back.
macro_rules! got {
    ($value:literal, $key:literal) => {
        concat!(
            "\nlocal ",
            $value,
            " = redis.pcall('GET', ",
            $key,
            ")\nif type(",
            $value,
            ") == 'table' and not string.find(",
            $value,
            ".err or 'WRONGTYPE', 'WRONGTYPE') then\n  return ",
            $value,
            "\nend\n"
        )
    };
}

/// `found` and `ttl` are what stands at the token's key.
///
/// A key that lives longer than WeChat's tokens do is cut to their life here, where it happens
/// once: each process that read it later would take it for new.
macro_rules! look {
    () => {
        concat!(
            got!("value", "KEYS[1]"),
            r"
local ttl = redis.call('PTTL', KEYS[1])
if ttl > 7200000 then
  redis.call('PEXPIRE', KEYS[1], 7200000)
end
local found = 'foreign'
if not value then
  found = 'nothing'
elseif type(value) == 'string' and #value <= 65536 then
  found = 'value:' .. value
end
"
        )
    };
}

/// Takes milliseconds (`$back`) off the level of the budget at `$key`.
macro_rules! refund {
    ($key:literal, $back:literal) => {
        concat!(
            "\n  local back = tonumber(",
            $back,
            ")\n  if back > 0 then\n    local level = redis.call('PTTL', ",
            $key,
            ") - back\n    if level > 0 then\n      redis.call('PEXPIRE', ",
            $key,
            ", string.format('%.0f', level))\n    else\n      redis.call('DEL', ",
            $key,
            ")\n    end\n  end\n"
        )
    };
}

/// Reads the token.
pub(super) static READ: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(look!(), "return {'found', found, ttl}")));

/// Takes the lease, provided that the token still is what was seen (`ARGV[1]`).
///
/// A lease of somebody else's that is to live for longer than any may (`ARGV[6]`), or for ever,
/// lives for so long from now on.
///
/// The budget is a leaky bucket whose level is the TTL of its key, which needs no clock. `ARGV[4]`
/// is the size of the bucket in milliseconds, or less than none where nothing is to be counted, and
/// `ARGV[5]` what one refresh adds. A level above the size is none that refreshes have made, and is
/// cut to it.
pub(super) static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        look!(),
        r"
if found ~= ARGV[1] then
  return {'found', found, ttl}
end
",
        got!("holder", "KEYS[2]"),
        r"
if holder == ARGV[2] then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  return {'leased', '', 0}
end
if holder then
  local left = redis.call('PTTL', KEYS[2])
  local longest = tonumber(ARGV[6])
  if left == -1 or left > longest then
    redis.call('PEXPIRE', KEYS[2], ARGV[6])
  end
  if left == -1 then
    return {'taken', '', longest}
  elseif left > longest then
    return {'taken', 'cut', longest}
  end
  return {'taken', '', left}
end
local size = tonumber(ARGV[4])
if size >= 0 then
  local level = redis.call('PTTL', KEYS[3])
  if level > size then
    level = size
    redis.call('PEXPIRE', KEYS[3], string.format('%.0f', size))
  end
  level = math.max(level, 0) + tonumber(ARGV[5])
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
pub(super) static PROLONG: LazyLock<Script> = LazyLock::new(|| {
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
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        r"
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
",
        refund!("KEYS[2]", "ARGV[2]"),
        r"
return redis.call('DEL', KEYS[1])
"
    ))
});

/// Writes the token (`ARGV[3]`) and gives the lease back; with it `ARGV[5]` milliseconds of the
/// budget, which cannot happen twice.
///
/// An owner whose lease is gone may write only if nobody holds one now, and the token is what it
/// was (`ARGV[2]`) or gone as well, as after a restart of Redis.
pub(super) static STORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        look!(),
        got!("holder", "KEYS[2]"),
        r"
if found == 'value:' .. ARGV[3] and holder ~= ARGV[1] then
  return {'stored', '', 0}
end
if holder ~= ARGV[1] and (holder or (found ~= ARGV[2] and found ~= 'nothing')) then
  return {'found', found, ttl}
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
if holder == ARGV[1] then
",
        refund!("KEYS[3]", "ARGV[5]"),
        r"
  redis.call('DEL', KEYS[2])
end
return {'stored', '', 0}
"
    ))
});

/// Does all that the others do, and leaves nothing behind: what the user of Redis may not do shows
/// before it is needed.
pub(super) static CHECK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        got!("value", "KEYS[1]"),
        r"
for number = 1, 3 do
  redis.call('PTTL', KEYS[number])
  if redis.call('SET', KEYS[number], '', 'NX', 'PX', 1000) then
    redis.call('PEXPIRE', KEYS[number], 1000)
    redis.call('DEL', KEYS[number])
  end
end
return 1
"
    ))
});
