//! What is wrong with a Redis: how long that is waited for, and what is told.

mod support;

use std::future::ready;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::Client;
use support::redis_server::RedisServer;
use support::*;
use tokio::time::Instant;
use tower_wechat::redis::{Layout, Outage, RedisTokens};
use tower_wechat::{AccessToken, TokenError, TokenManager, TokenSource, source_fn};

/// As long as Redis may take, by its page.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where there is no Redis, but one of these.
#[derive(Debug)]
enum Stands {
    Nothing,
    Silence,
    /// What is no protocol of Redis'.
    Garbage,
    /// The protocol, and not what was asked for.
    Nonsense,
}

/// Serves from threads of its own, as the time of the runtime stands still.
fn address_of(what: &Stands) -> (SocketAddr, Option<TcpListener>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer: &[u8] = match what {
        Stands::Nothing => return (address, None),
        Stands::Silence => return (address, Some(listener)),
        Stands::Garbage => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        Stands::Nonsense => b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
    };
    std::thread::spawn(move || {
        let mut connections: Vec<TcpStream> = Vec::new();
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.write_all(answer);
            connections.push(connection);
        }
    });
    (address, None)
}

fn client(address: SocketAddr) -> Client {
    Client::open(format!("redis://{address}/")).unwrap()
}

fn good() -> impl TokenSource {
    source_fn(|_| ready(Ok(AccessToken::new("S3CRET-own", TWO_HOURS))))
}

/// An account's source, so that the log can be told from that of other tests.
struct Of(&'static str);

impl TokenSource for Of {
    async fn issue(&self, _: Option<&AccessToken>) -> Result<AccessToken, TokenError> {
        Ok(AccessToken::new("S3CRET-own", TWO_HOURS))
    }

    fn account(&self) -> Option<&str> {
        Some(self.0)
    }

    fn shared_as(&self) -> Option<&str> {
        Some(self.0)
    }
}

impl Of {
    /// What the log has of it, at these levels.
    fn log(&self, levels: &[&str]) -> Vec<String> {
        let text = record().text();
        let lines = text.lines().filter(|line| line.contains(self.0));
        let lines = lines.filter(|line| levels.iter().any(|level| line.contains(level)));
        lines.map(str::to_owned).collect()
    }
}

const ALL: [Stands; 4] = [
    Stands::Nothing,
    Stands::Silence,
    Stands::Garbage,
    Stands::Nonsense,
];

#[tokio::test(start_paused = true)]
async fn jgaskins_redis_80_with_outage_fail_a_caller_waits_for_a_redis_that_is_none_two_seconds_at_most()
 {
    for stands in ALL {
        let (address, _listening) = address_of(&stands);
        let tokens = RedisTokens::new(client(address), good())
            .layout(Layout::new("k"))
            .outage(Outage::Fail);
        let tokens = TokenManager::new(tokens);
        let asked_at = Instant::now();
        let error = tokens.token().await.unwrap_err();
        let waited = asked_at.elapsed();
        assert!(waited <= PATIENCE, "{stands:?}: {waited:?}");
        assert!(error.to_string().contains("Redis"), "{stands:?}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn jgaskins_redis_80_a_source_that_fails_as_well_is_repeated_without_waiting_for_redis_again()
{
    for stands in ALL {
        let (address, _listening) = address_of(&stands);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let busy = source_fn(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            ready(Err(TokenError::api(-1, "system error")))
        });
        let tokens = RedisTokens::new(client(address), busy).layout(Layout::new("k"));
        let tokens = TokenManager::new(tokens);
        let asked_at = Instant::now();
        tokens.token().await.unwrap_err();
        let waited = asked_at.elapsed();
        let pauses = Duration::from_millis(200 + 400 + 800);
        assert!(waited <= PATIENCE + pauses, "{stands:?}: {waited:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 4, "{stands:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_does_not_wait_longer_either_and_keeps_the_token() {
    let (address, _listening) = address_of(&Stands::Silence);
    let tokens = RedisTokens::new(client(address), good()).layout(Layout::new("k"));
    let current = AccessToken::new("S3CRET-current", Duration::from_secs(60));
    let asked_at = Instant::now();
    tokens.renew(&current).await.unwrap_err();
    assert!(asked_at.elapsed() <= PATIENCE);
}

#[tokio::test]
async fn after_an_outage_the_next_caller_may_try_at_once() {
    let Some(mut redis) = RedisServer::start().await else {
        return;
    };
    let tokens = RedisTokens::new(redis.client(), good())
        .layout(Layout::new("k"))
        .timeout(Duration::from_millis(200))
        .outage(Outage::Fail);
    let tokens = TokenManager::new(tokens);
    redis.kill().await;
    tokens.token().await.unwrap_err();
    redis.restart().await;
    tokens.token().await.unwrap();
}

/// A Redis with a user `app`, whose password is `r1ght`, and who may do so much.
async fn guarded(rights: &[&str]) -> Option<RedisServer> {
    let redis = RedisServer::start().await?;
    let user = ["ACL", "SETUSER", "app", "on", ">r1ght"];
    let _: () = redis.raw(&[&user, rights].concat()).await;
    Some(redis)
}

fn as_app(redis: &RedisServer, password: &str) -> Client {
    Client::open(format!("redis://app:{password}@{}/", redis.address())).unwrap()
}

#[tokio::test]
async fn a_wrong_password_is_told_at_error_level_once_and_the_process_goes_on() {
    record();
    let Some(redis) = guarded(&["~*", "&*", "+@all"]).await else {
        return;
    };
    let account = "wx-with-a-wrong-password";
    let tokens = RedisTokens::new(as_app(&redis, "wr0ng"), Of(account));
    let first = tokens.issue(None).await.unwrap();
    tokens.issue(Some(&first)).await.unwrap();
    let told = Of(account).log(&["ERROR", " WARN"]);
    assert_eq!(told.len(), 1, "{told:?}");
    for part in [
        "ERROR",
        "WRONGPASS",
        "only a person can mend that: this process asks for an access_token of its own",
        "correct the user name and the password in the URL",
    ] {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
    assert!(!told[0].contains("wr0ng"));

    let failing = RedisTokens::new(as_app(&redis, "wr0ng"), good())
        .layout(Layout::new("k"))
        .outage(Outage::Fail);
    let error = failing.issue(None).await.unwrap_err().to_string();
    assert!(error.contains("WRONGPASS"), "{error}");
}

#[tokio::test]
async fn that_redis_can_be_used_again_is_told_after_a_warning_and_only_then() {
    record();
    let Some(mut redis) = RedisServer::start().await else {
        return;
    };
    let account = "wx-with-an-outage";
    let tokens = RedisTokens::new(redis.client(), Of(account)).timeout(Duration::from_millis(200));
    let first = tokens.issue(None).await.unwrap();
    redis.kill().await;
    tokens.issue(Some(&first)).await.unwrap();
    redis.restart().await;
    for _ in 0..2 {
        tokens.issue(None).await.unwrap();
    }
    let told = Of(account).log(&["INFO", " WARN"]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("Redis cannot be used"), "{told:?}");
    assert!(told[1].contains("Redis can be used again"), "{told:?}");
}

#[tokio::test]
async fn a_check_finds_all_well_and_leaves_nothing_behind() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let tokens = RedisTokens::new(redis.client(), Of("wx1"));
    tokens.check().await.unwrap();
    assert_eq!(redis.raw::<Vec<String>>(&["KEYS", "*"]).await, [""; 0]);
    let token = tokens.issue(None).await.unwrap();
    tokens.check().await.unwrap();
    let key = "tower-wechat:{wx1}:access_token";
    assert_eq!(redis.raw::<String>(&["GET", key]).await, token.secret());
    assert!(redis.raw::<u64>(&["PTTL", key]).await > 7_000_000);
}

#[tokio::test]
async fn a_check_fails_with_one_clear_sentence() {
    let all = &["~*", "&*", "+@all"][..];
    let cases: [(&[&str], &str, &str); 5] = [
        (all, "wr0ng", "correct the user name and the password"),
        (&["~*", "&*"], "r1ght", "NOPERM"),
        (&["~*", "&*", "+@all", "-get"], "r1ght", "the rights that"),
        (&["%R~*", "&*", "+@all"], "r1ght", "the rights that"),
        (&["~else:*", "&*", "+@all"], "r1ght", "the rights that"),
    ];
    for (rights, password, sentence) in cases {
        let Some(redis) = guarded(rights).await else {
            return;
        };
        let tokens = RedisTokens::new(as_app(&redis, password), Of("wx1"));
        let error = tokens.check().await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains(sentence), "{rights:?}: {said}");
        assert!(error.is_refusal(), "{rights:?}: {said}");
        assert!(!said.contains('\n') && !told(&error).contains(password));
        assert_eq!(redis.raw::<Vec<String>>(&["KEYS", "*"]).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_check_needs_no_more_rights_than_the_documentation_lists() {
    let rights = "~tower-wechat:* &tower-wechat:* +evalsha +script|load +get +set +del +pttl \
                  +pexpire +publish +subscribe";
    let rights: Vec<_> = rights.split_whitespace().collect();
    let Some(redis) = guarded(&rights).await else {
        return;
    };
    let shared = || {
        RedisTokens::new(as_app(&redis, "r1ght"), Of("wx1"))
            .refresh_budget(3, Duration::from_secs(60))
            .outage(Outage::Fail)
    };
    shared().check().await.unwrap();
    let (one, other) = (shared(), shared());
    let (first, second) = tokio::join!(one.issue(None), other.issue(None));
    assert_eq!(first.unwrap(), second.unwrap());
    let rejected = AccessToken::new("S3CRET-own", TWO_HOURS);
    one.issue(Some(&rejected)).await.unwrap();
}

#[tokio::test]
async fn a_check_says_that_a_redis_is_away_and_may_come() {
    let (address, _listening) = address_of(&Stands::Nothing);
    let tokens = RedisTokens::new(client(address), Of("wx1"));
    let error = tokens.check().await.unwrap_err();
    assert!(error.to_string().contains("out of reach"), "{error}");
    assert!(!error.is_refusal());
    let nameless = RedisTokens::new(client(address), good());
    let error = nameless.check().await.unwrap_err();
    assert!(error.to_string().contains("Layout::new"), "{error}");
    assert!(error.is_refusal());
}

/// redis tells it as a wrong password.
#[tokio::test]
async fn a_redis_with_no_room_for_one_more_client_is_no_wrong_password() {
    let Some(redis) = guarded(&["~*", "&*", "+@all"]).await else {
        return;
    };
    let _first = redis.connection().await;
    let _: () = redis.raw(&["CONFIG", "SET", "maxclients", "1"]).await;
    let tokens = RedisTokens::new(as_app(&redis, "r1ght"), Of("wx1"));
    let error = tokens.check().await.unwrap_err();
    // It may close the connection before its words are read.
    let said = error.to_string();
    let reached = said.contains("max number of clients") || said.contains("out of reach");
    assert!(reached && !error.is_refusal(), "{said}");
}

/// A master that has become a replica of the second one.
async fn failed_over() -> Option<[RedisServer; 2]> {
    let [former, master] = [RedisServer::start().await?, RedisServer::start().await?];
    let port = master.address().port().to_string();
    let _: () = former.raw(&["REPLICAOF", "127.0.0.1", &port]).await;
    Some([former, master])
}

#[tokio::test]
async fn redisson_3897_connections_that_are_made_follow_the_name_to_the_new_master() {
    let Some([former, master]) = failed_over().await else {
        return;
    };
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let addresses = [former.client(), master.client()];
    let connect = move || {
        // The name goes on to lead to the former one for a moment.
        let number = count.fetch_add(1, Ordering::SeqCst);
        let client = addresses[number.min(2) / 2].clone();
        async move { client.get_connection_manager().await }
    };
    let tokens = RedisTokens::with_connections(connect, good())
        .layout(Layout::new("k"))
        .outage(Outage::Fail);
    let token = tokens.issue(None).await.unwrap();
    assert_eq!(master.raw::<String>(&["GET", "k"]).await, token.secret());
    assert_eq!(made.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn redisson_3897_a_connection_to_a_demoted_master_is_told_with_what_to_use_instead() {
    record();
    let Some([former, _master]) = failed_over().await else {
        return;
    };
    let connection = former.client().get_connection_manager().await.unwrap();
    let account = "wx-at-a-replica";
    let tokens =
        RedisTokens::with_connection(connection, Of(account)).timeout(Duration::from_millis(300));
    tokens.issue(None).await.unwrap();
    let told = Of(account).log(&[" WARN"]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("READONLY"), "{told:?}");
    assert!(
        told[0].contains("RedisTokens::with_connections"),
        "{told:?}"
    );
}
