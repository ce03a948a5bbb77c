use std::fmt;

use zeroize::Zeroizing;

use super::spelling;

/// An AppSecret: zeroized when dropped, opaque to `Debug`.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(secret: impl Into<String>) -> Self {
        Secret(Zeroizing::new(secret.into()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `text` tells the secret, in whatever spelling.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        spelling::find(text.as_bytes(), self.0.as_bytes()).is_some()
    }

    /// `text` without the secret, should a server have sent it back.
    pub(crate) fn redact(&self, text: &str) -> String {
        match spelling::replace(text.as_bytes(), self.0.as_bytes(), "…".as_bytes()) {
            // A secret is whole characters, and so is what is left.
            Some(redacted) => String::from_utf8_lossy(&redacted).into_owned(),
            None => text.to_owned(),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_redacted_in_whatever_spelling_a_server_sends_it_back() {
        let secret = Secret::new("s3c/r e+t");
        for text in [
            "invalid appsecret s3c/r e+t!",
            "invalid appsecret s3c%2Fr%20e%2Bt!",
            "invalid appsecret s3c%2fr+e%2bt!",
            "invalid appsecret s3c%252Fr%2520e%252Bt!",
            r"invalid appsecret s3c\/r\u0020e\u002bt!",
        ] {
            assert!(secret.is_in(text), "{text}");
            assert_eq!(secret.redact(text), "invalid appsecret …!", "{text}");
        }
        assert_eq!(secret.redact("s3c/r"), "s3c/r");
        assert_eq!(Secret::new("").redact("a"), "a");
        assert!(!Secret::new("").is_in("a"));
    }
}
