use proptest::prelude::*;

use super::*;

const SECRET: &[u8] = b"78_Zx-0/a%b";

fn is_in(text: impl AsRef<[u8]>) -> bool {
    find(text.as_ref(), SECRET).is_some()
}

#[test]
fn each_spelling_is_found() {
    for text in [
        "…78_Zx-0/a%b…",
        "78%5FZx-0/a%25b",
        "78%5fZx%2d0%2Fa%25b",
        "78%255FZx-0/a%b",
        "78%25255FZx-0/a%25b",
        r"78\u005fZx\u002D0\/a%b",
        r"78\\u005fZx\\u002D0\\/a%b",
        r"78\u00255FZx-0/a%b",
        "%37%38%5F%5A%78%2D%30%2F%61%25%62",
    ] {
        assert!(is_in(text), "{text}");
    }
    for text in ["78_Zx-0/a%", "78_ZX-0/a%b", "78%5GZx-0/a%b", "78_Zx-0 /a%b"] {
        assert!(!is_in(text), "{text}");
    }
    assert!(find(b"a+b%20c", b"a b c").is_some());
    assert!(find(b"+b", b" b").is_some());
    assert_eq!(find(b"text", b""), None);
}

#[test]
fn what_may_go_on_is_known_from_where_it_begins() {
    for (text, from) in [
        ("ab78_Z", 2),
        ("ab78%", 2),
        ("ab78%2", 2),
        (r"ab\u00", 2),
        ("ab7x78", 4),
        ("abc", 3),
    ] {
        assert_eq!(
            search(text.as_bytes(), SECRET),
            Found::NotBefore(from),
            "{text}"
        );
    }
}

#[test]
fn all_of_them_are_replaced() {
    let replaced = replace(b"a=78%5FZx-0/a%b&b=78_Zx-0/a%25b", SECRET, b"x").unwrap();
    assert_eq!(replaced, b"a=x&b=x");
    assert_eq!(replace(b"a=b", SECRET, b"x"), None);
}

/// Some spelling of `secret`, as `how` says for each byte.
fn spelled(secret: &[u8], how: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for (byte, how) in secret.iter().zip(how.iter().cycle()) {
        match how % 6 {
            0 => text.push(*byte),
            1 => text.extend(format!("%{byte:02X}").bytes()),
            2 => text.extend(format!("%25{byte:02x}").bytes()),
            3 => text.extend(format!("\\u{byte:04x}").bytes()),
            4 => text.extend(format!("\\\\u{byte:04X}").bytes()),
            _ => text.extend(format!("%2525{byte:02X}").bytes()),
        }
    }
    text
}

proptest! {
    #[test]
    fn any_mixture_is_found(
        secret in "[!-~]{1,40}", how in prop::collection::vec(any::<u8>(), 1..40),
        before in "[a-z%\\\\]{0,9}", after in "[a-z%]{0,9}",
    ) {
        let mut text = before.into_bytes();
        text.extend(spelled(secret.as_bytes(), &how));
        text.extend(after.bytes());
        prop_assert!(find(&text, secret.as_bytes()).is_some());
    }

    #[test]
    fn no_text_panics_and_an_open_end_lies_within(text in prop::collection::vec(any::<u8>(), 0..200), secret in "[!-~]{0,9}") {
        if let Found::NotBefore(at) = search(&text, secret.as_bytes()) {
            prop_assert!(at <= text.len());
        }
    }
}

// A draft or a menu may hold them, and whoever may call the gateway may store it. Read to its end
// from each of its bytes, this takes minutes, in which its thread does nothing else.
#[test]
fn s5_a_long_run_of_backslashes_is_searched_in_one_go() {
    let text = vec![b'\\'; 1 << 20];
    assert_eq!(
        search(&text, b"78_Zx0"),
        Found::NotBefore(text.len() - DEEPEST)
    );
    assert_eq!(find(&text, b"78_Zx0"), None);
}
