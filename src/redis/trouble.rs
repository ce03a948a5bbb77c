//! What is wrong with Redis: whether it may pass, and how a log tells it.

use std::error::Error as StdError;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, RetryMethod};

/// Whether another connection, or a moment's patience, may help: with a Redis that starts, or hands
/// over to another.
pub(super) fn may_pass(error: &RedisError) -> bool {
    if matches!(
        error.kind(),
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig
    ) {
        return false;
    }
    match error.code() {
        // A cluster's own connection goes where this says; any other is a mistake.
        Some("MOVED") => return false,
        Some(
            "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY"
            | "NOREPLICAS" | "NOSCRIPT",
        ) => return true,
        _ => {}
    }
    let says = |what| error.detail().is_some_and(|detail| detail.contains(what));
    error.is_io_error()
        || error.is_unrecoverable_error()
        || !matches!(error.retry_method(), RetryMethod::NoRetry)
        // As Redis 6 tells it of a script.
        || says("-READONLY")
        || says("max number of clients")
}

/// Whether Redis has answered, and will answer the same until a person mends something: a wrong
/// password, a right that is missing.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    !may_pass(error)
}

type Cause = Arc<dyn StdError + Send + Sync>;

/// What went wrong, as it can go to a log.
pub(super) fn text(error: &RedisError) -> String {
    if error.is_io_error() {
        // It keeps its cause in an `Arc`, which hides the cause's type from those who look for it.
        let cause = error
            .source()
            .and_then(|cause| cause.downcast_ref::<Cause>());
        return match cause {
            Some(cause) => format!("Redis is out of reach: {cause}"),
            None => "Redis is out of reach".to_owned(),
        };
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "Redis refuses: the password or the user name is wrong".to_owned();
    }
    let (Some(code), Some(detail)) = (error.code(), error.detail()) else {
        // An answer of another form is printed by redis with all that was in it.
        return format!("Redis cannot be understood: {}", error.category());
    };
    // Arguments of a command that Redis does not know or may not run may be tokens, and so may what
    // is quoted.
    let told = detail.split("with args").next().unwrap_or_default();
    let told: String = told
        .split(['\'', '"', '`'])
        .enumerate()
        .map_while(|(number, part)| (number % 2 == 0 || is_command(part)).then_some(part))
        .collect();
    format!("Redis refuses: {code} {}", told.trim())
}

/// The names of commands are the only thing in quotes that an operator needs, and no token is so
/// short.
fn is_command(quoted: &str) -> bool {
    quoted.len() <= 20
        && quoted
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'|')
}

/// What a person can do about it.
pub(super) fn advice(error: &RedisError, can_connect: bool) -> Option<&'static str> {
    let says = |what| error.detail().is_some_and(|detail| detail.contains(what));
    if error.kind() == ErrorKind::AuthenticationFailed {
        return Some("correct them in the URL of Redis");
    }
    match error.code() {
        Some("WRONGPASS") => Some("correct the user name and the password in the URL of Redis"),
        Some("NOAUTH") => Some("put a password into the URL of Redis"),
        Some("NOPERM") => Some(
            "give the user of Redis the rights that the documentation of tower_wechat::redis lists",
        ),
        Some("MOVED") => Some(
            "this Redis is a node of a cluster: use RedisTokens::with_connections, and redis' cluster client",
        ),
        Some("CROSSSLOT") => {
            Some("all names of the layout must have one hash tag, as in {wx0123456789abcdef}:lease")
        }
        Some("READONLY") if !can_connect => Some(
            "the connection that the program has made leads to a replica, and RedisTokens cannot make another: \
             use RedisTokens::with_connections",
        ),
        Some("ERR") if says("invalid password") => Some("correct the password in the URL of Redis"),
        Some("ERR") if says("run this command") => Some(
            "give the user of Redis the rights that the documentation of tower_wechat::redis lists",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn answer(code: &str, detail: &str) -> RedisError {
        redis::make_extension_error(code.to_owned(), Some(detail.to_owned()))
    }

    #[test]
    fn an_error_is_told_without_arguments_and_answers() {
        for detail in [
            "unknown command 'EVALSHA', with args beginning with: 'S3CRET'",
            "unknown command with args S3CRET",
            "wrong value \"S3CRET\"",
            "two 'evalsha' and 'S3CRET'",
        ] {
            let text = text(&answer("ERR", detail));
            assert!(text.starts_with("Redis refuses: ERR "), "{text}");
            assert!(!text.contains("S3CRET"), "{text}");
        }
        let answer = redis::Value::BulkString(b"S3CRET".to_vec());
        let error = redis::from_redis_value::<Vec<(i64, i64)>>(answer).unwrap_err();
        let text = text(&RedisError::from(error));
        assert!(text.starts_with("Redis cannot be understood"), "{text}");
        assert!(!text.contains("S3CRET"), "{text}");
    }

    #[test]
    fn the_command_that_may_not_be_run_is_named() {
        let error = answer(
            "NOPERM",
            "User app has no permissions to run the 'evalsha' command",
        );
        assert!(text(&error).ends_with("run the evalsha command"));
    }

    #[test]
    fn an_io_error_is_told_by_its_cause() {
        let error = RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(text(&error), "Redis is out of reach: connection refused");
    }

    #[test]
    fn what_only_a_person_can_mend_is_a_refusal() {
        let wrong = [
            RedisError::from((ErrorKind::AuthenticationFailed, "wrong")),
            RedisError::from((ErrorKind::InvalidClientConfig, "no TLS")),
            answer("WRONGPASS", "invalid username-password pair"),
            answer("NOAUTH", "Authentication required."),
            answer("NOPERM", "this user has no permissions"),
            answer("DENIED", "Redis is running in protected mode"),
            answer("MOVED", "1 127.0.0.1:7001"),
            answer("MISCONF", "Redis is configured to save"),
            answer("ERR", "unknown command"),
        ];
        for error in wrong {
            assert!(is_refusal(&error), "{}", text(&error));
        }
        let passing = [
            RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused)),
            RedisError::from((ErrorKind::Parse, "no Redis")),
            answer("READONLY", "You can't write against a read only replica."),
            answer("LOADING", "Redis is loading the dataset in memory"),
            answer("CLUSTERDOWN", "The cluster is down"),
            answer("BUSY", "Redis is busy running a script"),
            answer("NOREPLICAS", "Not enough good replicas to write."),
            answer("ERR", "max number of clients reached"),
        ];
        for error in passing {
            assert!(!is_refusal(&error), "{}", text(&error));
        }
    }
}
