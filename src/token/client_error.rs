//! Errors of others: of HTTP clients, whose text may tell a secret, and of users' own sources.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use super::error::TokenError;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// An error of somebody else's, whose text may not be ours to print.
///
/// Errors of HTTP clients print the URL, and the URL of a token request holds the AppSecret. So
/// `Display` and `Debug` name the [`io::ErrorKind`] found in the chain and no more; an error of
/// reqwest's, of which the URL can be taken out, is printed with all its sources, unless one of
/// them tells the AppSecret. An error that a source of your own made ([`TokenError::other`]) is
/// printed as it is. [`get_ref`](ClientError::get_ref) hands the error out.
///
/// ```
/// use std::io;
/// use tower_wechat::TokenError;
///
/// let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "https://…?secret=S3CRET");
/// let TokenError::Transport(error) = TokenError::transport(refused) else { unreachable!() };
/// assert_eq!(error.to_string(), "connection refused");
/// assert!(error.get_ref().is::<io::Error>());
/// ```
#[derive(Clone)]
pub struct ClientError {
    error: Arc<dyn StdError + Send + Sync>,
    text: Option<Arc<str>>,
    /// What is said of an error of which nothing else may be said.
    nameless: &'static str,
}

const OF_THE_CLIENT: &str =
    "an error of the HTTP client's, not printed here since it may hold a secret";
const OF_THE_SOURCE: &str =
    "an error of the source's own, not printed here since it may hold a secret";

impl ClientError {
    /// What a user's own source says: text is printed, and of an error its kind.
    pub(crate) fn new<E: Into<BoxError> + 'static>(error: E) -> Self {
        // Text that the caller wrote by hand is meant to be read.
        let any: &dyn Any = &error;
        let text = any
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| any.downcast_ref::<&'static str>().copied())
            .map(Arc::from);
        ClientError {
            error: Arc::from(error.into()),
            text,
            nameless: OF_THE_SOURCE,
        }
    }

    /// An error that a user's own source made: it is printed with its sources, unless an HTTP
    /// client's is among them, or a URL that may tell a secret.
    pub(crate) fn of_source<E: Into<BoxError> + 'static>(error: E) -> Self {
        let own = ClientError::new(error);
        if own.text.is_some() || causes(&*own.error).any(|error| kind_of(error).is_some()) {
            return own;
        }
        let text = text_of(&*own.error);
        ClientError {
            text: (!may_tell_secret(&text)).then(|| one_line(&text).into()),
            ..own
        }
    }

    /// An HTTP client's error of a type that we do not know.
    pub(crate) fn of_client(error: BoxError) -> Self {
        ClientError {
            error: Arc::from(error),
            text: None,
            nameless: OF_THE_CLIENT,
        }
    }

    /// An HTTP client's error of a known type, without its URL: it is printed with its sources,
    /// unless that would tell a secret, or another URL with a query.
    pub(crate) fn printed(error: BoxError, tells_secret: impl Fn(&str) -> bool) -> Self {
        let text = text_of(&*error);
        let printable = !may_tell_secret(&text) && !tells_secret(&text);
        ClientError {
            text: printable.then(|| one_line(&text).into()),
            ..ClientError::of_client(error)
        }
    }

    /// An error with a text that is safe to print.
    #[cfg(feature = "redis")]
    pub(crate) fn told(error: impl Into<BoxError>, text: &str) -> Self {
        ClientError {
            text: Some(one_line(text).into()),
            ..ClientError::of_client(error.into())
        }
    }

    /// The error itself, whose `Display` and `Debug` may print a URL with a secret in it.
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.error
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => fmt_kind(&*self.error, self.nameless, f),
        }
    }
}

impl fmt::Debug for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientError({self})")
    }
}

/// An error and its sources.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What an error and its sources say.
fn text_of(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    for source in causes(error).skip(1) {
        let why = source.to_string();
        // Some errors say themselves what their source says.
        if !text.ends_with(&why) {
            text = format!("{text}: {why}");
        }
    }
    text
}

/// Whether there is a URL with a query or with a user's name and password in it.
fn may_tell_secret(text: &str) -> bool {
    text.split("://").skip(1).any(|url| {
        let host = url.split(['/', ' ', ')', '"', '\'']).next();
        url.contains('?') || host.is_some_and(|host| host.contains('@'))
    })
}

/// Text of somebody else's as it can go to a log.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 512;
    let text = text.trim().chars().take(LONGEST);
    text.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints what is safe to print of an HTTP client's error: what kind it is, as far as that is
/// known.
pub(crate) fn fmt_foreign(
    error: &(dyn StdError + 'static),
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    fmt_kind(error, OF_THE_CLIENT, f)
}

fn fmt_kind(
    error: &(dyn StdError + 'static),
    nameless: &str,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let mut kind = None;
    for error in causes(error) {
        if let Some(error) = error.downcast_ref::<TokenError>() {
            return fmt::Display::fmt(error, f);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if let Some(kind) = kind {
                write!(f, "{kind}: ")?;
            }
            return match error.kind().to_string().as_str() {
                // The standard library has no kinds for these.
                "uncategorized error" => f.write_str(
                    "an I/O error without a kind, as of a name that cannot be looked up",
                ),
                "other error" => f.write_str(
                    "an I/O error without a kind, as of a certificate that is not trusted",
                ),
                kind => f.write_str(kind),
            };
        }
        kind = kind.or_else(|| kind_of(error));
    }
    f.write_str(kind.unwrap_or(nameless))
}

/// Of the errors of those clients that there is a feature for.
fn kind_of(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    type KindOf = fn(&(dyn StdError + 'static)) -> Option<&'static str>;
    const CLIENTS: &[KindOf] = &[
        #[cfg(feature = "reqwest")]
        crate::reqwest::kind_of,
        #[cfg(feature = "reqwest-0-12")]
        crate::reqwest_0_12::kind_of,
    ];
    CLIENTS.iter().find_map(|kind_of| kind_of(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenError;

    #[test]
    fn an_error_of_a_known_type_is_printed_unless_it_tells_a_secret_or_a_query() {
        let printed = |text: &str| {
            let error = io::Error::other(text.to_owned()).into();
            ClientError::printed(error, |text| text.contains("S3CRET")).to_string()
        };
        assert_eq!(printed("why? not\nhttp://h/p"), "why? not http://h/p");
        for told in ["S3CRET", "not to http://h/p?a=1", "http://h and http://i/?"] {
            assert_eq!(
                printed(told),
                "an I/O error without a kind, as of a certificate that is not trusted"
            );
        }
    }

    /// An error of a type of the user's own, around another one.
    #[derive(Debug)]
    struct Own(String, Option<io::Error>);

    impl fmt::Display for Own {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl StdError for Own {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.1.as_ref().map(|error| error as _)
        }
    }

    #[test]
    fn an_error_that_a_source_of_ones_own_made_is_printed_as_it_is() {
        let why = io::Error::from(io::ErrorKind::NotFound);
        let sealed = || Own("the vault\nis sealed".to_owned(), None);
        for (error, said) in [
            (
                TokenError::other("the vault is sealed"),
                "the vault is sealed",
            ),
            (TokenError::other(sealed()), "the vault is sealed"),
            (
                TokenError::other(BoxError::from(sealed())),
                "the vault is sealed",
            ),
            (
                TokenError::other(Own("no vault".to_owned(), Some(why))),
                "no vault: entity not found",
            ),
            (
                TokenError::other(Own("is http://h/p up?".to_owned(), None)),
                OF_THE_SOURCE,
            ),
            (
                TokenError::other(TokenError::api(40013, "")),
                "WeChat refused to give a token: errcode 40013; the appid is wrong: copy it anew from the account's console",
            ),
        ] {
            assert_eq!(
                error.to_string(),
                format!("the token source failed: {said}")
            );
            assert_eq!(format!("{error:?}"), format!("Other({error})"));
        }
    }

    #[test]
    fn an_error_with_a_url_that_may_tell_a_secret_is_not_printed() {
        for text in [
            "error sending request for url (https://h/cgi-bin/token?secret=S3CRET)",
            "cannot connect to redis://:S3CRET@h:6379/",
            "https://me:S3CRET@h",
        ] {
            let own = TokenError::other(Own(text.to_owned(), None));
            assert_eq!(
                own.to_string(),
                format!("the token source failed: {OF_THE_SOURCE}")
            );
            let boxed = TokenError::other(BoxError::from(text));
            assert_eq!(
                boxed.to_string(),
                format!("the token source failed: {OF_THE_SOURCE}")
            );
            assert!(!format!("{own:?} {boxed:?}").contains("S3CRET"));
        }
    }

    #[test]
    fn an_error_of_a_clients_is_told_by_its_kind_and_whose_it_is() {
        let leaky = || Own("S3CRET".to_owned(), None);
        let ours = TokenError::Transport(ClientError::of_client(leaky().into()));
        assert_eq!(
            ours.to_string(),
            format!("the token request failed: {OF_THE_CLIENT}")
        );
        let theirs = TokenError::transport(leaky());
        assert_eq!(
            theirs.to_string(),
            format!("the token request failed: {OF_THE_SOURCE}")
        );
        // What a client said as text is not text that our caller wrote.
        let text = ClientError::of_client("S3CRET".into());
        assert_eq!(text.to_string(), OF_THE_CLIENT);
    }
}
