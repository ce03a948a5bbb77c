//! Whether a form has a file, read as it comes: neither the form nor the file is kept.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use memchr::memmem;

/// Longer headers of a part are none.
const LONGEST_HEADERS: usize = 16 * 1024;

/// What may stand between a boundary and the end of its line.
const LONGEST_PADDING: usize = 256;

const LONGEST_BOUNDARY: usize = 256;

/// What a form has under the name that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    /// No such part, or one without a file name.
    Missing,
    /// A part with a file name and not one byte.
    Empty,
    Sent,
}

/// Reads a `multipart/form-data` body (RFC 7578) that is fed in pieces of any size.
pub(super) struct Form {
    /// With the line break before it, which belongs to the boundary and not to the part.
    delimiter: Vec<u8>,
    name: &'static str,
    at: At,
    /// What was fed and not yet read: a piece, and what it takes to see a delimiter or the headers
    /// of a part.
    unread: Vec<u8>,
    file: File,
}

#[derive(Clone, Copy)]
enum At {
    /// Before the first delimiter, or in a part that nobody looks for.
    Skipped,
    /// Right behind a delimiter.
    Delimiter,
    Headers,
    /// In the part that is looked for.
    Wanted {
        empty: bool,
    },
    /// Behind the last delimiter, or where no form can be read any more.
    End,
}

impl Form {
    /// A reader that looks for the file `name`; `None` if the body is no form.
    pub(super) fn of(headers: &HeaderMap, name: &'static str) -> Option<Form> {
        let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let (kind, parameters) = content_type.split_once(';')?;
        if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let boundary = parameter(parameters, "boundary")?;
        if boundary.is_empty() || boundary.len() > LONGEST_BOUNDARY {
            return None;
        }
        Some(Form {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            name,
            at: At::Skipped,
            // The first delimiter may stand at the very beginning.
            unread: b"\r\n".to_vec(),
            file: File::Missing,
        })
    }

    pub(super) fn feed(&mut self, data: &[u8]) {
        if matches!(self.at, At::End) {
            return;
        }
        self.unread.extend_from_slice(data);
        while self.step() {}
    }

    /// What the form had, once all of it was fed. A part that was cut off does not count.
    pub(super) fn file(&self) -> File {
        self.file
    }

    /// Reads on by one thing; `false` where more must be fed first.
    fn step(&mut self) -> bool {
        match self.at {
            At::Skipped => {
                let Some(end) = memmem::find(&self.unread, &self.delimiter) else {
                    self.skip();
                    return false;
                };
                self.go_on(end + self.delimiter.len(), At::Delimiter)
            }
            At::Wanted { empty } => {
                let Some(end) = memmem::find(&self.unread, &self.delimiter) else {
                    let skipped = self.skip();
                    self.at = At::Wanted {
                        empty: empty && skipped == 0,
                    };
                    return false;
                };
                let file = if empty && end == 0 {
                    File::Empty
                } else {
                    File::Sent
                };
                if self.file != File::Sent {
                    self.file = file;
                }
                self.go_on(end + self.delimiter.len(), At::Delimiter)
            }
            At::Delimiter => self.read_delimiter(),
            At::Headers => self.read_headers(),
            At::End => {
                self.unread = Vec::new();
                false
            }
        }
    }

    /// Drops what cannot be the beginning of a delimiter, and says how much that is.
    fn skip(&mut self) -> usize {
        let skipped = self.unread.len().saturating_sub(self.delimiter.len() - 1);
        self.unread.drain(..skipped);
        skipped
    }

    fn go_on(&mut self, read: usize, at: At) -> bool {
        self.unread.drain(..read);
        self.at = at;
        true
    }

    fn read_delimiter(&mut self) -> bool {
        let line = &self.unread[..self.unread.len().min(LONGEST_PADDING)];
        if line.starts_with(b"--") {
            return self.go_on(0, At::End);
        }
        if let Some(end) = memmem::find(line, b"\r\n") {
            let is_padding = line[..end].iter().all(|byte| b" \t".contains(byte));
            // No line of a part may begin as a delimiter does (RFC 2046): a longer word is a broken
            // form.
            let next = if is_padding { At::Headers } else { At::End };
            // The line break stays, so that a part without headers ends its headers as others do.
            return self.go_on(end, next);
        }
        match line.len() {
            LONGEST_PADDING => self.go_on(0, At::End),
            _ => false,
        }
    }

    fn read_headers(&mut self) -> bool {
        let head = &self.unread[..self.unread.len().min(LONGEST_HEADERS)];
        if let Some(end) = memmem::find(head, b"\r\n\r\n") {
            let next = if is_file(&head[..end], self.name) {
                At::Wanted { empty: true }
            } else {
                At::Skipped
            };
            return self.go_on(end + 4, next);
        }
        match head.len() {
            LONGEST_HEADERS => self.go_on(0, At::End),
            _ => false,
        }
    }
}

/// Whether these are the headers of a part called `name` that has a file name. WeChat does not read
/// `filename*=`, in which some clients write a name that is not ASCII.
fn is_file(headers: &[u8], name: &str) -> bool {
    let headers = String::from_utf8_lossy(headers);
    headers.split("\r\n").any(|header| {
        let Some((key, value)) = header.split_once(':') else {
            return false;
        };
        let Some((kind, parameters)) = value.split_once(';') else {
            return false;
        };
        key.eq_ignore_ascii_case("content-disposition")
            && kind.trim().eq_ignore_ascii_case("form-data")
            && parameter(parameters, "name").is_some_and(|given| given == name)
            && parameter(parameters, "filename").is_some_and(|file| !file.is_empty())
    })
}

/// The value of `name` in `a=1; b="2"`, without its quotes.
fn parameter(mut parameters: &str, name: &str) -> Option<String> {
    while !parameters.is_empty() {
        let (key, rest) = parameters.split_once('=')?;
        let (value, rest) = match rest.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (value, rest) = rest.split_once(';').unwrap_or((rest, ""));
                (value.trim().to_owned(), rest)
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value);
        }
        parameters = rest;
    }
    None
}

/// What stands before the closing quote, and behind the semicolon after it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => {
                let rest = &text[at + 1..];
                return Some((value, rest.split_once(';').map_or("", |(_, rest)| rest)));
            }
            // Browsers leave a backslash as it is; a quote after it is not the closing one.
            '\\' if text[at + 1..].starts_with('"') => {
                value.push('"');
                letters.next();
            }
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests;
