use super::AccessToken;

/// Why a token is wanted.
#[derive(Clone, Debug)]
pub(crate) enum Why {
    /// There is none, or it has expired.
    Missing,
    /// WeChat has rejected this one.
    Rejected(AccessToken),
    /// This one is still good but expires soon.
    Expiring(AccessToken),
}

impl Why {
    pub(crate) fn rejected(&self) -> Option<&AccessToken> {
        match self {
            Why::Rejected(token) => Some(token),
            Why::Missing | Why::Expiring(_) => None,
        }
    }

    pub(crate) fn is_renewal(&self) -> bool {
        matches!(self, Why::Expiring(_))
    }
}
