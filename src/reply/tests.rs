use proptest::prelude::*;

use super::*;

const CODES: &[i64] = &[40001, 42001, 40014];
const LIMIT: usize = 4096;

const REJECTION: &[u8] = br#"{"errcode":40001,"errmsg":"invalid credential, access_token is invalid or not latest rid: 66f0-1a2b-3c4d"}"#;

fn inspector(coding: Coding, limit: usize) -> Inspector {
    Inspector::new(coding, &SizeHint::new(), limit).expect("nothing is known of the size")
}

/// Looks at `body` as it comes in frames that end at `cuts`.
fn look_at(body: &[u8], cuts: &[usize], coding: Coding, limit: usize) -> Look {
    let mut inspector = inspector(coding, limit);
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
    cuts.sort_unstable();
    for cut in cuts {
        if inspector.is_due(cut, true) {
            match inspector.look(&body[..cut], false, CODES) {
                Look::More => {}
                known => return known,
            }
        }
    }
    inspector.look(body, true, CODES)
}

fn look(body: impl AsRef<[u8]>) -> Look {
    look_at(body.as_ref(), &[], Coding::Identity, LIMIT)
}

/// In frames of one byte, and looked at after each.
fn look_bytewise(body: impl AsRef<[u8]>) -> Look {
    let body = body.as_ref();
    let mut looks = (0..body.len())
        .map(|end| inspector(Coding::Identity, LIMIT).look(&body[..end], false, CODES));
    looks
        .find(|look| *look != Look::More)
        .unwrap_or_else(|| look(body))
}

#[track_caller]
fn assert_rejected(body: impl AsRef<[u8]>, errcode: i64) {
    for look in [look(&body), look_bytewise(&body)] {
        match look {
            Look::Rejected(rejection) => assert_eq!(rejection.errcode(), errcode),
            other => panic!("{other:?}: {}", String::from_utf8_lossy(body.as_ref())),
        }
    }
}

#[track_caller]
fn assert_passed(body: impl AsRef<[u8]>) {
    assert_look(body, &Look::Pass);
}

#[track_caller]
fn assert_accepted(body: impl AsRef<[u8]>) {
    assert_look(body, &Look::Accepted);
}

#[track_caller]
fn assert_look(body: impl AsRef<[u8]>, expected: &Look) {
    for look in [look(&body), look_bytewise(&body)] {
        assert_eq!(
            look,
            *expected,
            "{}",
            String::from_utf8_lossy(body.as_ref())
        );
    }
}

/// What is known of a reply that goes on after `beginning`.
fn look_at_beginning(beginning: impl AsRef<[u8]>) -> Look {
    inspector(Coding::Identity, LIMIT).look(beginning.as_ref(), false, CODES)
}

// serde_json's `Value` as the judge of what is at the top level.

/// The errcode that `json` has at its top level, when `json` is one object and nothing else.
fn top_level_errcode(json: &str) -> Option<i64> {
    match serde_json::from_str::<Value>(json)
        .ok()?
        .as_object()?
        .get("errcode")?
    {
        Value::Number(number) => number.as_i64(),
        Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

fn is_rejection(json: &str) -> bool {
    top_level_errcode(json).is_some_and(|errcode| CODES.contains(&errcode))
}

fn an_errcode() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "40001",
        "42001",
        "40014",
        "\"40001\"",
        "\"042001\"",
        "\"4000\\u0031\"",
        "0",
        "\"0\"",
        "-1",
        "40013",
        "40001.0",
        "4.0001e4",
        "null",
        "true",
        "\"\"",
        "\"40001 \"",
        "99999999999999999999",
        "\"99999999999999999999\"",
        "[40001]",
        "{\"errcode\":40001}",
    ])
    .prop_map(str::to_owned)
}

fn a_key() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "\"errcode\"",
        "\"errcode\"",
        "\"\\u0065rrcode\"",
        "\"err\\u0063ode\"",
        "\"errmsg\"",
        "\"Errcode\"",
        "\"errcode \"",
        "\"\"",
        "\"a\\\"errcode\\\":40001\"",
        "\"\u{4f60}\"",
    ])
    .prop_map(str::to_owned)
}

fn space() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", "", " ", "\n  ", "\t", "\r\n"])
}

fn an_object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let field = (a_key(), space(), value, space()).prop_map(|(key, before, value, after)| {
        format!("{before}{key}{after}:{before}{value}{after}")
    });
    prop::collection::vec(field, 0..5).prop_map(|fields| format!("{{{}}}", fields.join(",")))
}

fn a_value() -> impl Strategy<Value = String> {
    let text = any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
    let leaf = prop_oneof![3 => an_errcode(), 1 => text];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let array = prop::collection::vec(inner.clone(), 0..4)
            .prop_map(|values| format!("[{}]", values.join(",")));
        prop_oneof![array, an_object(inner)]
    })
}

/// Some JSON, mostly an object, and what may stand around it.
fn a_reply() -> impl Strategy<Value = (&'static str, String)> {
    let lead = prop::sample::select(vec!["", "", "\n", "\u{feff}", " \u{feff}\r\n"]);
    let tail = prop::sample::select(vec!["", "", "", "", "\n", "x", "{}", "}", ",", "\u{feff}"]);
    let json = prop_oneof![6 => an_object(a_value()), 1 => a_value(), 1 => an_errcode()];
    (lead, json, tail).prop_map(|(lead, json, tail)| (lead, format!("{json}{tail}")))
}

fn some_cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_reply_is_a_rejection_when_its_top_level_errcode_is_one(
        (lead, json) in a_reply(), cuts in some_cuts(),
    ) {
        let body = format!("{lead}{json}");
        let look = look_at(body.as_bytes(), &cuts, Coding::Identity, usize::MAX);
        prop_assert_eq!(matches!(look, Look::Rejected(_)), is_rejection(&json), "{}", body);
    }

    #[test]
    fn a_rejection_is_not_let_go_wherever_it_is_cut((lead, json) in a_reply()) {
        if is_rejection(&json) {
            let body = format!("{lead}{json}");
            for cut in 0..=body.len() {
                let part = &body.as_bytes()[..cut];
                prop_assert_eq!(look_at_beginning(part), Look::More, "{:?}", String::from_utf8_lossy(part));
            }
        }
    }

    #[test]
    fn a_reply_over_the_limit_is_no_rejection(
        (lead, json) in a_reply(), cuts in some_cuts(), limit in 0..80_usize,
    ) {
        let body = format!("{lead}{json}");
        let look = look_at(body.as_bytes(), &cuts, Coding::Identity, limit);
        let expected = body.len() <= limit && is_rejection(&json);
        prop_assert_eq!(matches!(look, Look::Rejected(_)), expected, "{}", body);
    }

    #[test]
    fn a_rejection_that_is_cut_off_is_none((_, json) in a_reply(), cut in any::<prop::sample::Index>()) {
        let body = json.as_bytes();
        if is_rejection(&json) {
            // White space may come after the object.
            let body = body.trim_ascii_end();
            prop_assert_eq!(look(&body[..cut.index(body.len())]), Look::Pass);
        }
    }

    #[test]
    fn what_does_not_begin_with_an_object_is_let_go_at_its_first_byte(
        first in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        prop_assume!(!b"{ \t\r\n\x0c\xef".contains(&first));
        let body = [&[first], &rest[..]].concat();
        prop_assert_eq!(look_at_beginning(&body), Look::Pass);
    }

    #[test]
    fn no_bytes_make_it_panic(
        lead in prop::sample::select(vec![&b""[..], b"{", b"\xef\xbb\xbf{", b"{\"errcode\":4000", b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\x78\x9c"]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
        cuts in some_cuts(),
        limit in 0..400_usize,
    ) {
        let body = [lead, &rest].concat();
        for coding in codings() {
            look_at(&body, &cuts, coding, limit);
        }
    }
}

#[cfg(feature = "decompression")]
fn codings() -> Vec<Coding> {
    vec![
        Coding::Identity,
        Coding::Gzip,
        Coding::Deflate,
        Coding::Brotli,
    ]
}

#[cfg(not(feature = "decompression"))]
fn codings() -> Vec<Coding> {
    vec![Coding::Identity]
}

#[test]
fn the_rejection_tells_its_errcode_and_rid() {
    match look(REJECTION) {
        Look::Rejected(rejection) => {
            assert_eq!(rejection.errcode(), 40001);
            assert_eq!(rejection.rid(), Some("66f0-1a2b-3c4d"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_code_in_the_list_is_one_and_each_other_is_not() {
    for errcode in CODES {
        assert_rejected(format!(r#"{{"errcode":{errcode},"errmsg":""}}"#), *errcode);
    }
    for errcode in [-1, 40002, 40013, 41001, 45009, 48001] {
        assert_passed(format!(r#"{{"errcode":{errcode},"errmsg":""}}"#));
    }
}

#[test]
fn an_errcode_may_be_a_string_of_digits() {
    assert_rejected(r#"{"errcode":"42001"}"#, 42001);
    assert_passed(r#"{"errcode":"forty"}"#);
}

#[test]
fn the_errcode_may_stand_anywhere_at_the_top_level() {
    assert_rejected(
        r#"{"errmsg":"x","data":{"a":[1,{}]},"errcode":40014}"#,
        40014,
    );
}

#[test]
fn a_nested_errcode_is_data() {
    assert_accepted(r#"{"list":[{"errcode":40001}],"errcode":0}"#);
    assert_passed(r#"{"data":{"errcode":40001,"errmsg":"x"}}"#);
    assert_passed(r#"{"text":"\"errcode\":40001"}"#);
}

#[test]
fn an_escaped_name_of_the_errcode_counts() {
    assert_rejected(r#"{"err\u0063ode":40001}"#, 40001);
}

#[test]
fn of_several_errcodes_the_last_one_counts() {
    assert_rejected(r#"{"errcode":0,"errcode":40001}"#, 40001);
    assert_accepted(r#"{"errcode":40001,"errcode":0}"#);
}

#[test]
fn white_space_and_a_byte_order_mark_may_lead() {
    assert_rejected("\n{\"errcode\":40001}", 40001);
    // Byte by byte, so the mark is split over frames as well.
    assert_rejected("\u{feff}{\"errcode\":40001}", 40001);
    assert_rejected(" \r\n\u{feff}\n{\"errcode\":40001}", 40001);
}

#[test]
fn a_part_of_a_byte_order_mark_decides_nothing_yet() {
    for part in [
        &b""[..],
        b" ",
        b"\xef",
        b"\n\xef\xbb",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf\n",
    ] {
        assert_eq!(look_at_beginning(part), Look::More, "{part:?}");
    }
    assert_eq!(look_at_beginning(b"\xef\xbb\xbe"), Look::Pass);
    assert_eq!(look_at_beginning("你好"), Look::Pass);
}

#[test]
fn a_pretty_printed_rejection_is_one() {
    assert_rejected(
        "{\r\n    \"errcode\" : 40001,\r\n    \"errmsg\" : \"x\"\r\n}\r\n",
        40001,
    );
}

#[test]
fn a_raw_control_character_in_the_errmsg_is_taken() {
    assert_rejected(b"{\"errmsg\":\"a\nb\tc\x01\",\"errcode\":40001}", 40001);
    assert_rejected(b"{\"errcode\":40001,\"errmsg\":\"a\x00b\"}", 40001);
}

#[test]
fn broken_utf8_in_the_errmsg_is_taken() {
    assert_rejected(
        b"{\"errcode\":40001,\"errmsg\":\"\xff\xfe\xe4\xbd rid: 12ab\"}",
        40001,
    );
    assert_rejected(b"{\"\xff\":1,\"errcode\":40001}", 40001);
    match look(b"{\"errcode\":40001,\"errmsg\":\"\xff\n rid: 12ab\"}") {
        Look::Rejected(rejection) => assert_eq!(rejection.rid(), Some("12ab")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_after_the_object_make_it_data() {
    assert_passed(r#"{"errcode":40001}{"errcode":40001}"#);
    assert_passed(r#"{"errcode":40001},"#);
    assert_passed(b"{\"errcode\":40001}\xff\xd8");
    assert_passed(b"{\"errcode\":40001}\x00\x01\x02");
    assert_rejected("{\"errcode\":40001} \r\n", 40001);
}

#[test]
fn a_rejection_is_none_before_its_end() {
    assert_eq!(look_at_beginning(REJECTION), Look::More);
}

/// serde_json takes `-`, `4.` and `4e` at the end of what there is for broken.
#[test]
fn a_rejection_may_be_cut_within_a_number() {
    assert_rejected(r#"{"a":[-1.5e+3,-0.1E-9],"b":true,"errcode":40001}"#, 40001);
}

#[test]
fn a_truncated_or_empty_reply_passes() {
    assert_passed("");
    assert_passed(" ");
    assert_passed("\u{feff}");
    assert_passed("{");
    assert_passed(r#"{"errcode":40001"#);
    assert_passed(r#"{"errcode":40001,"errmsg":"inva"#);
}

#[test]
fn a_binary_file_that_begins_with_a_brace_is_let_go_at_its_first_frame() {
    for beginning in [
        &b"{\\rtf1\\ansi\\deff0 {\\fonttbl"[..],
        b"{\x00\x01\x02PNG",
        b"{\xff\xd8\xff\xe0\x00\x10JFIF",
        b"{{{{",
        b"{]",
    ] {
        assert_eq!(look_at_beginning(beginning), Look::Pass, "{beginning:?}");
    }
}

#[test]
fn success_is_let_go_as_soon_as_it_is_known() {
    for (reply, look) in [
        (r#"{"errcode":0,"errmsg":"ok"}"#, Look::Accepted),
        (
            r#"{"errcode":0,"errmsg":"ok","media_id":"M"}"#,
            Look::Accepted,
        ),
        (r#"{"openid":"O","nested":{"errcode":40001}}"#, Look::Pass),
        ("{}", Look::Pass),
    ] {
        assert_eq!(look_at_beginning(reply), look, "{reply}");
    }
}

#[test]
fn a_reply_over_the_limit_is_let_go_and_one_that_just_fits_is_not() {
    let body = |length: usize| format!("{}{}", r#"{"errcode":40001}"#, " ".repeat(length - 17));
    assert!(matches!(look(body(LIMIT)), Look::Rejected(_)));
    assert_eq!(look(body(LIMIT + 1)), Look::Pass);
    assert_eq!(look_at_beginning(body(LIMIT + 1)), Look::Pass);
    assert_eq!(look_at_beginning(" ".repeat(LIMIT + 1)), Look::Pass);
}

#[test]
fn a_reply_that_says_it_is_too_large_is_not_looked_at() {
    let new = |hint| Inspector::new(Coding::Identity, &hint, LIMIT);
    assert!(new(SizeHint::with_exact(4096)).is_some());
    assert!(new(SizeHint::with_exact(4097)).is_none());
    assert!(new(SizeHint::with_exact(u64::MAX)).is_none());
    let mut hint = SizeHint::new();
    hint.set_upper(u64::MAX);
    assert!(new(hint).is_some());
}

#[test]
fn frames_of_one_byte_are_looked_at_a_few_times_only() {
    let mut inspector = inspector(Coding::Identity, LIMIT);
    let body = [b"{\"a\":\"", &[b'x'; LIMIT][..]].concat();
    let looks = (1..=LIMIT).filter(|seen| {
        let due = inspector.is_due(*seen, true);
        if due {
            assert_eq!(inspector.look(&body[..*seen], false, CODES), Look::More);
        }
        due
    });
    assert!(looks.count() <= 13);
}

#[test]
fn deep_nesting_is_no_stack_overflow() {
    let nested = |open: &str| format!("{{\"a\":{}", open.repeat(100_000));
    for open in ["[", "{\"a\":", "[{\"a\":"] {
        let body = nested(open);
        let look = look_at(body.as_bytes(), &[], Coding::Identity, usize::MAX);
        assert_eq!(look, Look::Pass);
    }
    let body = format!("{{\"errcode\":{}", "[".repeat(100_000));
    assert_eq!(
        look_at(body.as_bytes(), &[], Coding::Identity, usize::MAX),
        Look::Pass
    );
}

fn coding_of(values: &[&[u8]]) -> Option<Coding> {
    let mut headers = HeaderMap::new();
    for value in values {
        let value = http::HeaderValue::from_bytes(value).unwrap();
        headers.append(header::CONTENT_ENCODING, value);
    }
    Coding::of(&headers)
}

#[test]
fn no_coding_is_the_identity() {
    for values in [&[][..], &[&b""[..]], &[b"identity"], &[b" Identity "]] {
        assert_eq!(coding_of(values), Some(Coding::Identity), "{values:?}");
    }
}

#[test]
fn an_unknown_coding_cannot_be_read() {
    for values in [
        &[&b"zstd"[..]][..],
        &[b"compress"],
        &[b"utf-8"],
        &[b"\xff"],
        &[b"gzip, br"],
        &[b"gzip", b"gzip"],
        &[b"identity", b"br"],
    ] {
        assert_eq!(coding_of(values), None, "{values:?}");
    }
}

#[cfg(feature = "decompression")]
mod decompression {
    use std::io::{Write, repeat};

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn raw_deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// `text` as it is, in the one block of a brotli stream, and an empty last block.
    fn brotli(text: &[u8]) -> Vec<u8> {
        if text.is_empty() {
            return vec![0x06];
        }
        let length = u32::from(u16::try_from(text.len() - 1).unwrap());
        let head = (length << 4 | 1 << 20).to_le_bytes();
        [&head[..3], text, b"\x03"].concat()
    }

    type Encode = fn(&[u8]) -> Vec<u8>;

    const ENCODED: [(Coding, Encode); 4] = [
        (Coding::Gzip, gzip),
        (Coding::Deflate, zlib),
        (Coding::Deflate, raw_deflate),
        (Coding::Brotli, brotli),
    ];

    /// `REJECTION` by Google's encoder.
    const BROTLI: &[u8] = b"\x1b\x69\x00\x48\xc4\xaa\x6d\xa9\xde\x6c\x7e\x33\x68\xc5\xbd\x31\x38\xe5\xc0\xad\xb5\x45\x16\x47\xe5\x7a\xa0\x7b\xc0\x85\xb6\x4e\x5b\xeb\xf9\x43\x77\xdf\x5a\xc8\x9d\x52\x4a\x33\xcc\xf6\x0c\xc8\x31\xed\x4d\x3c\x9b\xbb\x6b\xbb\xfd\x9d\xaa\x95\x51\x8a\x8a\x03\x7b\x78\x71\xdc\xb4\x1f\xef\xb8\xe0\xcd\x47\x4e\x21\xf4\x8a\xeb\xca\xd4\xdc\x36\xae\xc5\x0f";

    /// `{"errcode":40001,"errmsg":"` and a million spaces.
    const BROTLI_BOMB: &[u8] = b"\x5b\x5c\x42\x8f\xc1\x79\x60\x37\x2c\x17\xc8\xb4\x76\x7a\xcd\x19\xa1\x92\xb7\x08\x0c\xcd\xde\x06\xd1\x29\xeb\x53\x2c\x31\x7d\xd6\x26\x37\x07\x36\xe0\x04\x3c\x0a\xe3\x09\xe5\x14\x40\x00\x41\x49\xb8\xb0\xab\x8c\x6b\x5a\xa7\xe7\xe7\x3c\x00\x06";

    fn is_rejected(look: &Look) -> bool {
        matches!(look, Look::Rejected(_))
    }

    proptest! {
        #[test]
        fn an_encoded_reply_is_judged_by_what_it_says(
            (lead, json) in a_reply(), cuts in some_cuts(),
        ) {
            let body = format!("{lead}{json}");
            for (coding, encode) in ENCODED {
                let look = look_at(&encode(body.as_bytes()), &cuts, coding, 1 << 20);
                prop_assert_eq!(is_rejected(&look), is_rejection(&json), "{:?} {}", coding, body);
            }
        }

        #[test]
        fn an_encoded_rejection_that_is_cut_off_is_none(cut in any::<prop::sample::Index>()) {
            for (coding, encode) in ENCODED {
                let body = encode(REJECTION);
                let body = &body[..cut.index(body.len())];
                prop_assert_eq!(look_at(body, &[], coding, LIMIT), Look::Pass, "{:?}", coding);
            }
        }
    }

    #[test]
    fn a_rejection_in_every_coding_is_one() {
        for (coding, encode) in ENCODED {
            let cuts: Vec<_> = (0..400).collect();
            let look = look_at(&encode(REJECTION), &cuts, coding, LIMIT);
            assert!(is_rejected(&look), "{coding:?}");
        }
        assert!(is_rejected(&look_at(
            BROTLI,
            &[1, 40],
            Coding::Brotli,
            LIMIT
        )));
    }

    #[test]
    fn a_coding_is_known_by_its_names() {
        assert_eq!(coding_of(&[b"gzip"]), Some(Coding::Gzip));
        assert_eq!(coding_of(&[b"X-GZIP"]), Some(Coding::Gzip));
        assert_eq!(coding_of(&[b" deflate"]), Some(Coding::Deflate));
        assert_eq!(coding_of(&[b"br"]), Some(Coding::Brotli));
    }

    #[test]
    fn encoded_success_is_let_go_before_its_end() {
        for (coding, encode) in ENCODED {
            let body = encode(br#"{"errcode":0,"errmsg":"ok","data":[1,2,3]}"#);
            let look = inspector(coding, LIMIT).look(&body, false, CODES);
            assert_eq!(look, Look::Accepted, "{coding:?}");
        }
    }

    #[test]
    fn what_flate2_calls_corrupt_is_let_go_at_once() {
        for (coding, body) in [
            (Coding::Gzip, &b"not gzip at all"[..]),
            (Coding::Deflate, b"\x78\x00\xff"),
        ] {
            let look = inspector(coding, LIMIT).look(body, false, CODES);
            assert_eq!(look, Look::Pass, "{coding:?}");
        }
    }

    #[test]
    fn a_body_that_is_not_in_its_coding_passes() {
        for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli] {
            assert_eq!(
                look_at(REJECTION, &[10], coding, LIMIT),
                Look::Pass,
                "{coding:?}"
            );
        }
    }

    #[test]
    fn a_second_gzip_member_is_more_data() {
        let body = [gzip(REJECTION), gzip(b"and more")].concat();
        assert_eq!(look_at(&body, &[], Coding::Gzip, LIMIT), Look::Pass);
        let (one, two) = REJECTION.split_at(30);
        let body = [gzip(one), gzip(two)].concat();
        assert!(is_rejected(&look_at(&body, &[], Coding::Gzip, LIMIT)));
    }

    #[test]
    fn a_bomb_is_decoded_to_the_limit_and_no_further() {
        let bomb = [
            br#"{"errcode":40001,"errmsg":""#,
            &[b' '; 1_000_000][..],
            b"\"}",
        ]
        .concat();
        for (coding, body) in [
            (Coding::Gzip, gzip(&bomb)),
            (Coding::Deflate, zlib(&bomb)),
            (Coding::Deflate, raw_deflate(&bomb)),
            (Coding::Brotli, BROTLI_BOMB.to_vec()),
        ] {
            assert!(body.len() < LIMIT);
            assert_eq!(
                inspector(coding, LIMIT).look(&body, false, CODES),
                Look::Pass
            );
            assert_eq!(look_at(&body, &[], coding, LIMIT), Look::Pass);
        }
        // This one would never end.
        assert!(matches!(
            read_to_limit(repeat(b'{'), LIMIT),
            Decoded::Unreadable
        ));
    }

    #[test]
    fn a_large_brotli_window_is_not_opened() {
        // A window of 30 bits, and the head of a block of 16 bytes as they are.
        let head = (30_u32 | 15 << 9 | 1 << 25).to_le_bytes();
        let body = [b"\x11", &head[..], br#"{"errcode":40001"#].concat();
        assert!(matches!(
            Coding::Brotli.decode(&body, LIMIT),
            Decoded::Unreadable
        ));
    }
}
