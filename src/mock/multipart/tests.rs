use proptest::prelude::*;

use super::*;

fn headers(content_type: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
    headers
}

/// Reads `body` in pieces of at most `piece` bytes.
fn read(body: &[u8], piece: usize) -> File {
    let content_type = headers("multipart/form-data; boundary=b0");
    let mut form = Form::of(&content_type, "media").unwrap();
    for piece in body.chunks(piece) {
        form.feed(piece);
    }
    form.file()
}

fn part(disposition: &str, content: &str) -> String {
    format!("--b0\r\nContent-Disposition: {disposition}\r\nContent-Type: x/y\r\n\r\n{content}\r\n")
}

fn form(parts: &[String]) -> String {
    format!("{}--b0--\r\n", parts.concat())
}

const WANTED: &str = r#"form-data; name="media"; filename="a.png""#;

#[test]
fn a_file_is_a_part_of_that_name_with_a_file_name() {
    for (disposition, file) in [
        (WANTED, File::Sent),
        (r#"form-data; filename="a.png"; name="media""#, File::Sent),
        (r#"Form-Data;NAME="media";FileName="a.png""#, File::Sent),
        ("form-data; name=media; filename=a.png", File::Sent),
        (
            r#"form-data; name="media"; filename="图 \";片.png""#,
            File::Sent,
        ),
        (
            r#"form-data; name="media"; filename="a.png"; filename*=utf-8''a.png"#,
            File::Sent,
        ),
        (
            r#"form-data; name="media"; filename*=utf-8''%E5%9B%BE.png"#,
            File::Missing,
        ),
        (r#"form-data; name="media""#, File::Missing),
        (r#"form-data; name="media"; filename="""#, File::Missing),
        (r#"form-data; name="file"; filename="a.png""#, File::Missing),
        (
            r#"form-data; name="x;name=media"; filename="a""#,
            File::Missing,
        ),
        (
            r#"form-data; name="Media"; filename="a.png""#,
            File::Missing,
        ),
        (r#"form-data; filename="a.png""#, File::Missing),
        (
            r#"attachment; name="media"; filename="a.png""#,
            File::Missing,
        ),
        (r#"form-data; name="media; filename=a.png"#, File::Missing),
    ] {
        let body = form(&[part(disposition, "bytes")]);
        assert_eq!(read(body.as_bytes(), usize::MAX), file, "{disposition}");
    }
}

#[test]
fn the_file_may_stand_beside_other_parts_and_a_preamble() {
    let fields = part(r#"form-data; name="type""#, "image");
    let wanted = part(WANTED, "bytes");
    for body in [
        form(&[fields.clone(), wanted.clone()]),
        form(&[wanted.clone(), fields.clone()]),
        format!(
            "preamble\r\n{}epilogue",
            form(std::slice::from_ref(&wanted))
        ),
        form(&[wanted.replacen("--b0", "--b0 \t", 1)]),
        form(&[format!("--b0\r\n\r\nno headers\r\n{wanted}")]),
    ] {
        assert_eq!(read(body.as_bytes(), usize::MAX), File::Sent, "{body}");
    }
}

#[test]
fn a_file_of_no_bytes_is_told_apart() {
    let body = form(&[part(WANTED, "")]);
    assert_eq!(read(body.as_bytes(), 1), File::Empty);
    let body = form(&[part(WANTED, ""), part(WANTED, "\r\n")]);
    assert_eq!(read(body.as_bytes(), 1), File::Sent);
}

#[test]
fn what_is_no_whole_form_has_no_file() {
    let whole = form(&[part(WANTED, "bytes")]);
    let cut = whole.find("\r\n--b0--").unwrap();
    for body in [
        "",
        "bytes",
        "--b0",
        "--b0--",
        &whole[..cut],
        &whole[..cut + 3],
        &whole.replace("--b0", "--b1"),
        &whole.replacen("--b0", "--b0x", 1),
        &whole.replace("\r\n", "\n"),
    ] {
        assert_eq!(read(body.as_bytes(), usize::MAX), File::Missing, "{body}");
    }
    let endless = format!("--b0\r\n{}", "x".repeat(2 * LONGEST_HEADERS));
    assert_eq!(read(endless.as_bytes(), 4096), File::Missing);
}

#[test]
fn only_a_form_with_a_boundary_is_one() {
    for content_type in [
        "multipart/form-data; boundary=b0",
        "Multipart/Form-Data; charset=utf-8; Boundary=\"b 0\"",
    ] {
        assert!(Form::of(&headers(content_type), "media").is_some());
    }
    let long = format!("multipart/form-data; boundary={}", "b".repeat(257));
    for content_type in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=b0",
        "application/x-www-form-urlencoded; boundary=b0",
        "image/png",
        &long,
    ] {
        assert!(Form::of(&headers(content_type), "media").is_none());
    }
    assert!(Form::of(&HeaderMap::new(), "media").is_none());
}

#[test]
fn no_more_is_kept_than_what_it_takes_to_read_on() {
    let content_type = headers("multipart/form-data; boundary=b0");
    let mut form = Form::of(&content_type, "media").unwrap();
    form.feed(format!("--b0\r\nContent-Disposition: {WANTED}\r\n\r\n").as_bytes());
    for _ in 0..1000 {
        form.feed(&[b'-'; 4096]);
        assert!(form.unread.len() < 16);
    }
    form.feed(b"\r\n--b0--");
    form.feed(&[b'-'; 4096]);
    assert_eq!((form.file(), form.unread.len()), (File::Sent, 0));
}

/// Bytes of which forms are made, and any others.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "\r\n",
        "--b0",
        "--",
        "--b",
        "b0",
        "\r",
        "\n",
        "\"",
        ";",
        "=",
        ":",
        "\\",
        " ",
        "Content-Disposition",
        "form-data",
        "name",
        "media",
        "filename",
        "a.png",
        WANTED,
    ]);
    let word = words.prop_map(|word| word.as_bytes().to_vec());
    let other = prop::collection::vec(any::<u8>(), 0..6);
    prop::collection::vec(prop_oneof![4 => word, 1 => other], 0..40)
        .prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_read_the_same_in_any_pieces(body in pieces(), piece in 1_usize..40) {
        prop_assert_eq!(read(&body, piece), read(&body, usize::MAX));
    }

    #[test]
    fn any_bytes_in_a_file_are_a_file(content in pieces(), piece in 1_usize..40) {
        let content = String::from_utf8_lossy(&content).replace("--b0", "--bo");
        let body = form(&[part(r#"form-data; name="type""#, "image"), part(WANTED, &content)]);
        let file = if content.is_empty() { File::Empty } else { File::Sent };
        prop_assert_eq!(read(body.as_bytes(), piece), file);
    }

    #[test]
    fn any_parameters_are_read(parameters in "[a-z=;\"\\\\ \u{e9}]{0,30}", value in "[^\\\\\"]{0,20}") {
        let _ = parameter(&parameters, "name");
        let given = format!("x=\"a\\\"b\"; y=z ; name=\"{value}\"; {parameters}");
        prop_assert_eq!(parameter(&given, "name"), Some(value));
    }
}
