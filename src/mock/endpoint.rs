//! Which API paths there are, and how each of them wants to be called.

use std::collections::HashMap;
use std::sync::LazyLock;

use http::Method;

/// How a path wants to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// By GET.
    Get,
    /// By POST, with JSON.
    Json,
    /// By POST, with a form that has the file `media`.
    File,
    /// By any method, with anything.
    Any,
}

/// Folders of APIs that take the account's token. Elsewhere there is nothing.
const FOLDERS: [&str; 6] = [
    "/cgi-bin/",
    "/wxa/",
    "/wxaapi/",
    "/datacube/",
    "/customservice/",
    "/card/",
];

impl Endpoint {
    /// `None` for a path that no API has.
    pub(super) fn of(path: &str) -> Option<Endpoint> {
        static TABLE: LazyLock<HashMap<String, Endpoint>> =
            LazyLock::new(|| parse(include_str!("paths.txt")));

        TABLE.get(path).copied()
    }

    /// The errcode of a call by this method, if it is the wrong one.
    pub(super) fn check(self, method: &Method) -> Result<(), i64> {
        match self {
            Endpoint::Get if method != Method::GET => Err(43001),
            Endpoint::Json | Endpoint::File if method != Method::POST => Err(43002),
            _ => Ok(()),
        }
    }
}

/// Whether an API may be at `path`: it is one that wants the account's token.
pub(super) fn is_api(path: &str) -> bool {
    FOLDERS.iter().any(|folder| path.starts_with(folder))
}

fn parse(table: &str) -> HashMap<String, Endpoint> {
    let lines = table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows = lines.flat_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let endpoint = match words.next() {
            Some("GET") => Endpoint::Get,
            Some("POST") => Endpoint::Json,
            Some("FILE") => Endpoint::File,
            _ => Endpoint::Any,
        };
        let folder = words.next().unwrap_or_default();
        words.map(move |name| (format!("{folder}{name}"), endpoint))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_can_be_read_and_names_each_path_once() {
        let table = include_str!("paths.txt");
        let mut names = 0;
        for line in table.lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            let [kind, folder, paths @ ..] = &words[..] else {
                panic!("{line}");
            };
            assert!(["GET", "POST", "FILE", "ANY"].contains(kind), "{line}");
            assert!(is_api(folder) && folder.ends_with('/'), "{line}");
            assert!(!paths.is_empty() && line.len() <= 100, "{line}");
            names += paths.len();
        }
        assert_eq!(parse(table).len(), names);
    }

    #[test]
    fn paths_are_known_as_they_are_documented() {
        for (path, endpoint) in [
            ("/cgi-bin/menu/create", Some(Endpoint::Json)),
            ("/cgi-bin/user/get", Some(Endpoint::Get)),
            ("/cgi-bin/media/upload", Some(Endpoint::File)),
            ("/wxa/img_sec_check", Some(Endpoint::File)),
            ("/wxa/getwxacodeunlimit", Some(Endpoint::Json)),
            ("/cgi-bin/menu/creat", None),
            ("/cgi-bin/menu/create/", None),
            ("/cgi-bin/Menu/create", None),
            ("/cgi-bin/", None),
        ] {
            assert_eq!(Endpoint::of(path), endpoint, "{path}");
        }
    }
}
