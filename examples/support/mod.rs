//! What the examples have in common: which account they speak for, and how they fail.

use std::env;
use std::error::Error as StdError;
use std::process::ExitCode;
use std::time::Duration;

use http::Uri;
use tower_wechat::mock::MockWechat;
use tower_wechat::{Error, TokenError};

pub(crate) type Failure = Box<dyn StdError + Send + Sync>;

/// An account, and where its API is.
pub(crate) struct Account {
    pub(crate) base_url: String,
    pub(crate) appid: String,
    pub(crate) secret: String,
    /// The WeChat in this process, where the environment names no account.
    pub(crate) mock: Option<MockWechat>,
}

impl Account {
    /// The account of `WECHAT_APPID` and `WECHAT_SECRET`, or that of a `MockWechat`.
    pub(crate) async fn from_env() -> Result<Account, Failure> {
        match (variable("WECHAT_APPID"), variable("WECHAT_SECRET")) {
            (Some(appid), Some(secret)) => {
                let base_url = variable("WECHAT_BASE_URL");
                Ok(Account {
                    base_url: base_url.map_or(Ok("https://api.weixin.qq.com".into()), origin)?,
                    appid,
                    secret,
                    mock: None,
                })
            }
            (None, None) => {
                // With no grace a token is dead the moment it is replaced.
                let mock = MockWechat::builder().grace(Duration::ZERO).start().await;
                Ok(Account {
                    base_url: mock.url(),
                    appid: mock.appid().to_owned(),
                    secret: mock.secret().to_owned(),
                    mock: Some(mock),
                })
            }
            _ => Err("set both WECHAT_APPID and WECHAT_SECRET, or neither".into()),
        }
    }
}

/// An empty variable counts as none: that is how a shell or a CI turns one off.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// `base_url` without a slash at its end.
pub(crate) fn origin(base_url: String) -> Result<String, Failure> {
    let origin = base_url.trim_end_matches('/');
    if is_origin(origin) {
        Ok(origin.to_owned())
    } else {
        Err("WECHAT_BASE_URL must be http:// or https://, a host, and maybe a port".into())
    }
}

/// Asked first because `base_url` and `api_origin` panic when it is none: to them that is a mistake
/// in the program, and here it is one in the environment.
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let (Some(scheme @ ("http" | "https")), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return false;
    };
    let port = uri.port().map(|port| format!(":{port}"));
    !host.is_empty() && text == format!("{scheme}://{host}{}", port.unwrap_or_default())
}

/// Why a call failed, or why there is no token, in one sentence: WeChat's own word, or that WeChat
/// is out of reach.
pub(crate) fn explain(error: &(dyn StdError + 'static), base_url: &str) -> String {
    let of_a_call = error.downcast_ref().and_then(Error::token_error);
    match error.downcast_ref().or(of_a_call) {
        Some(error @ (TokenError::Transport(_) | TokenError::Timeout { .. })) => {
            format!("{base_url} is out of reach, look at the network and the name server: {error}")
        }
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}

/// Ends the program: with 0, or with one sentence on stderr.
pub(crate) fn exit_code(program: &str, done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{program}: {failure}");
            ExitCode::FAILURE
        }
    }
}
