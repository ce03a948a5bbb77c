use std::fmt;

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

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

    /// Whether `text` tells the secret, as it is or as it stands in a URL.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        let tells = |text: &str| !self.0.is_empty() && text.contains(self.expose());
        tells(text) || tells(&percent_decode_str(text).decode_utf8_lossy())
    }

    /// `text` without the secret, should a server have sent it back.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        text.replace(self.expose(), "…")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
