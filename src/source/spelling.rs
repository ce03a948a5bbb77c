//! Finds a secret in text in whatever spelling it stands there: as it is, percent-encoded (also
//! several times over, in either case of the digits, with `+` for a space), escaped as in a JSON
//! string (also in a JSON string inside of one), or all mixed.

use std::ops::Range;

use memchr::memchr3_iter;

/// How often `%25` may stand for the `%` of a further encoding, and how many backslashes may stand
/// before one escape. More than any reader decodes, and few enough that a byte's spelling stays
/// short.
const DEEPEST: usize = 8;

/// What a search came to.
#[cfg(any(test, feature = "server"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Yes,
    /// Not yet: from here on it may begin, and go on in what follows the text. The text's length if
    /// it does not.
    NotBefore(usize),
}

/// Searches `text`, more of which may follow.
#[cfg(any(test, feature = "server"))]
pub(crate) fn search(text: &[u8], secret: &[u8]) -> Found {
    let mut open = text.len();
    for at in beginnings(text, secret) {
        match match_at(text, at, secret) {
            Match::To(_) => return Found::Yes,
            Match::Open => open = open.min(at),
            Match::No => {}
        }
    }
    Found::NotBefore(open)
}

/// Where `secret` stands in `text` for the first time.
pub(crate) fn find(text: &[u8], secret: &[u8]) -> Option<Range<usize>> {
    beginnings(text, secret).find_map(|at| match match_at(text, at, secret) {
        Match::To(end) => Some(at..end),
        Match::Open | Match::No => None,
    })
}

/// `text` with `other` wherever `secret` stands in it; `None` if it does not.
pub(crate) fn replace(text: &[u8], secret: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    let mut replaced = Vec::new();
    let mut rest = text;
    while let Some(at) = find(rest, secret) {
        replaced.extend_from_slice(&rest[..at.start]);
        replaced.extend_from_slice(other);
        rest = &rest[at.end..];
    }
    if rest.len() == text.len() {
        return None;
    }
    replaced.extend_from_slice(rest);
    Some(replaced)
}

/// Where a spelling may begin. Nowhere if there is no secret.
fn beginnings<'a>(text: &'a [u8], secret: &[u8]) -> impl Iterator<Item = usize> + 'a {
    let first = secret.first().copied();
    first.into_iter().flat_map(|first| {
        // A space may be a plus as well, and is the one byte that has two plain spellings.
        let space = (first == b' ').then_some(b'+');
        let others = space
            .into_iter()
            .flat_map(|plus| memchr::memchr_iter(plus, text));
        memchr3_iter(first, b'%', b'\\', text).chain(others)
    })
}

enum Match {
    /// It stands there, and ends here.
    To(usize),
    /// The text ends before that is known.
    Open,
    No,
}

fn match_at(text: &[u8], at: usize, secret: &[u8]) -> Match {
    let mut open = false;
    // Several only where the secret itself has a `%` or a backslash in it.
    let mut places = vec![at];
    let mut next = Vec::new();
    for byte in secret {
        for place in &places {
            open |= Reading { text, byte: *byte }.read(*place, &mut next);
        }
        if next.is_empty() {
            return if open { Match::Open } else { Match::No };
        }
        places.clear();
        std::mem::swap(&mut places, &mut next);
    }
    places.into_iter().max().map_or(Match::No, Match::To)
}

/// One byte of a secret, looked for in a text.
struct Reading<'a> {
    text: &'a [u8],
    byte: u8,
}

impl Reading<'_> {
    /// Adds to `next` where the text goes on after each spelling of the byte at `at`. Whether the
    /// text ends in one.
    fn read(&self, at: usize, next: &mut Vec<usize>) -> bool {
        let mut open = false;
        for unit in units(self.text, at) {
            match unit {
                Unit::Open => open = true,
                Unit::Is(read, end) => {
                    if read == self.byte || (read == b'+' && self.byte == b' ') {
                        add(next, end);
                    }
                    if read == b'%' {
                        open |= self.read_percent(end, next);
                    }
                }
            }
        }
        open
    }

    /// After a `%`.
    fn read_percent(&self, at: usize, next: &mut Vec<usize>) -> bool {
        let mut at = at;
        for _ in 0..=DEEPEST {
            let (value, end) = match hexadecimal(self.text, at) {
                Digits::Are(value, end) => (value, end),
                Digits::Open => return true,
                Digits::None => return false,
            };
            if value == self.byte {
                add(next, end);
            }
            if value != b'%' {
                return false;
            }
            at = end;
        }
        false
    }
}

fn add(next: &mut Vec<usize>, end: usize) {
    if !next.contains(&end) {
        next.push(end);
    }
}

enum Digits {
    Are(u8, usize),
    Open,
    None,
}

/// Two hexadecimal digits.
fn hexadecimal(text: &[u8], at: usize) -> Digits {
    let mut value = 0;
    let mut at = at;
    for _ in 0..2 {
        let mut open = false;
        let mut digit = None;
        for unit in units(text, at) {
            match unit {
                Unit::Open => open = true,
                Unit::Is(read, end) => {
                    let read = char::from(read).to_digit(16);
                    digit = digit.or(read.map(|read| (read, end)));
                }
            }
        }
        match digit {
            Some((read, end)) => {
                value = value << 4 | read as u8;
                at = end;
            }
            None if open => return Digits::Open,
            None => return Digits::None,
        }
    }
    Digits::Are(value, at)
}

/// A byte as a JSON string may write it, and where the text goes on.
#[derive(Clone, Copy)]
enum Unit {
    Is(u8, usize),
    /// The text ends in it.
    Open,
}

/// The readings of what stands at `at`: as it is, and as an escape.
fn units(text: &[u8], at: usize) -> impl Iterator<Item = Unit> {
    let Some(&plain) = text.get(at) else {
        return [Some(Unit::Open), None].into_iter().flatten();
    };
    let escaped = if plain == b'\\' {
        escape(text, at)
    } else {
        None
    };
    [Some(Unit::Is(plain, at + 1)), escaped]
        .into_iter()
        .flatten()
}

/// Reads what follows one backslash or several: a JSON string in a JSON string doubles them.
fn escape(text: &[u8], at: usize) -> Option<Unit> {
    let rest = &text[at..];
    // No further: a run of a million would be read to its end from each of its bytes.
    let few = rest.iter().take(DEEPEST + 1);
    let backslashes = few.take_while(|byte| **byte == b'\\').count();
    if backslashes > DEEPEST {
        return None;
    }
    let at = at + backslashes;
    match text.get(at) {
        None => Some(Unit::Open),
        Some(&quoted @ (b'/' | b'"')) => Some(Unit::Is(quoted, at + 1)),
        Some(b'u') => {
            let digits = &text[at + 1..text.len().min(at + 5)];
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                None
            } else if digits.len() < 4 {
                Some(Unit::Open)
            } else {
                let value = std::str::from_utf8(digits).ok()?;
                let value = u8::try_from(u16::from_str_radix(value, 16).ok()?).ok()?;
                value.is_ascii().then_some(Unit::Is(value, at + 5))
            }
        }
        Some(_) if backslashes > 1 => Some(Unit::Is(b'\\', at)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests;
