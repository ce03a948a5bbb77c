//! What a server is told: by arguments, by a file, or by variables.

use std::fs;
use std::net::SocketAddr;

use lexopt::ValueExt;
use serde::Deserialize;
use tower_wechat::mock::MockWechat;
use tower_wechat::server::Bounds;

use crate::support::{Account, Failure, origin, variable};

/// That of the one client, where nothing was told.
pub(crate) const DEMO_SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

pub(crate) const HELP: &str = r#"Arguments:
  --config FILE   the configuration; default: $WECHAT_CONFIG, or the variables below
  --listen ADDR   where to listen; default: what the configuration says, or 127.0.0.1:8080
  --help          this

The configuration is TOML:
  listen = "127.0.0.1:8080"
  # base_url = "https://api.weixin.qq.com"
  # stable: POST /cgi-bin/stable_token, which several servers can ask without harm. classic: GET /cgi-bin/token, by one server,
  # or by several that share their tokens in Redis.
  token = "stable"
  # redis = "env:REDIS_URL"            # redis://:PASSWORD@HOST:6379/, or rediss:// for TLS
  # The gateway's, the same at each replica: openssl rand -hex 32. While it changes, the former ones are still taken.
  signing_key = "env:SIGNING_KEY"
  # former_signing_keys = []
  # How many connections it takes. Two open files for each, and the process must be allowed these.
  # connections = 2048
  # Of one address. Only where clients connect themselves: behind a balancer or a proxy all have the same.
  # connections_by_address = 100

  [[account]]
  appid = "wx0123456789abcdef"
  secret = "file:/run/secrets/wechat"

  [[client]]
  name = "crm"
  secret = "env:CRM_SECRET"            # 16 bytes at least: openssl rand -hex 16
  accounts = ["wx0123456789abcdef"]    # default: all

A secret or a key can stand there as it is, or be read from a variable (env:NAME) or a file (file:PATH). It is read once, at the
start.

Without a file, one account by variables, whose secrets can be env: and file: as well:
  WECHAT_APPID, WECHAT_SECRET   the account
  WECHAT_CLIENTS                the clients, as in crm=SECRET,shop=SECRET
  WECHAT_TOKEN                  stable or classic; default: stable
  WECHAT_SIGNING_KEY            the gateway's key
  WECHAT_REDIS                  the Redis in which several servers share their tokens; default: none
  WECHAT_LISTEN                 where to listen
  WECHAT_BASE_URL               another server in place of https://api.weixin.qq.com
  WECHAT_LOG                    error, warn, info, debug or trace, in every case; default: info

With nothing configured at all, WeChat runs in the process, and the program listens on a free port and says how to try it."#;

/// What the program was told.
pub(crate) struct Settings {
    pub(crate) listen: String,
    pub(crate) base_url: String,
    pub(crate) token: Token,
    /// Where several servers share their tokens.
    pub(crate) redis: Option<redis::Client>,
    pub(crate) accounts: Vec<AccountSettings>,
    pub(crate) clients: Vec<ClientSettings>,
    pub(crate) signing_key: Option<String>,
    pub(crate) former_signing_keys: Vec<String>,
    pub(crate) bounds: Bounds,
    /// The WeChat in this process, where nothing was told.
    pub(crate) mock: Option<MockWechat>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountSettings {
    pub(crate) appid: String,
    pub(crate) secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientSettings {
    pub(crate) name: String,
    pub(crate) secret: String,
    pub(crate) accounts: Option<Vec<String>>,
}

/// Which of WeChat's two kinds of token.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Token {
    #[default]
    Stable,
    Classic,
}

/// The configuration file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<String>,
    base_url: Option<String>,
    #[serde(default)]
    token: Token,
    redis: Option<String>,
    signing_key: Option<String>,
    #[serde(default)]
    former_signing_keys: Vec<String>,
    connections: Option<usize>,
    connections_by_address: Option<usize>,
    #[serde(default)]
    account: Vec<AccountSettings>,
    #[serde(default)]
    client: Vec<ClientSettings>,
}

impl Settings {
    /// `None` when help is wanted.
    pub(crate) async fn read() -> Result<Option<Settings>, Failure> {
        let (mut file, mut listen) = (variable("WECHAT_CONFIG"), variable("WECHAT_LISTEN"));
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(None),
                lexopt::Arg::Long("config") => file = Some(arguments.value()?.string()?),
                lexopt::Arg::Long("listen") => listen = Some(arguments.value()?.string()?),
                _ => return Err("the arguments it knows are --config, --listen and --help".into()),
            }
        }
        let told = VARIABLES.into_iter().find(|name| variable(name).is_some());
        let mut settings = match (file, told) {
            (Some(_), Some(variable)) => {
                return Err(
                    format!("{variable} has no meaning beside a configuration file").into(),
                );
            }
            (Some(path), None) => Settings::from_file(&path)?,
            (None, Some(_)) => Settings::from_variables().await?,
            (None, None) => Settings::demonstration().await?,
        };
        if let Some(listen) = listen {
            settings.listen = listen;
        }
        if settings.mock.is_some() && !is_here(&settings.listen) {
            return Err("nothing is configured, and the demonstration listens on 127.0.0.1 only: where is --config?".into());
        }
        Ok(Some(settings))
    }

    fn from_file(path: &str) -> Result<Settings, Failure> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|error| format!("cannot read {path}: {error}"))?;
        let file: File = toml::from_str(&text).map_err(|error| {
            let before = error.span().map_or("", |span| &text[..span.start]);
            let line = before.matches('\n').count() + 1;
            format!("{path}, line {line}: {}", without_values(error.message()))
        })?;
        let base_url = file
            .base_url
            .unwrap_or_else(|| "https://api.weixin.qq.com".into());
        let base_url = origin(base_url);
        let base_url = base_url.map_err(|_| {
            format!("{path}: base_url must be http:// or https://, a host, and maybe a port")
        })?;
        let mut bounds = Bounds::default();
        if let Some(connections) = file.connections {
            bounds = bounds.connections(connections);
        }
        if let Some(connections) = file.connections_by_address {
            bounds = bounds.connections_by_address(connections);
        }
        let mut settings = Settings {
            listen: file.listen.unwrap_or_else(|| "127.0.0.1:8080".into()),
            base_url,
            token: file.token,
            redis: file.redis.as_deref().map(redis_at).transpose()?,
            accounts: file.account,
            clients: file.client,
            signing_key: file.signing_key,
            former_signing_keys: file.former_signing_keys,
            bounds,
            mock: None,
        };
        let Settings {
            accounts,
            clients,
            signing_key,
            former_signing_keys,
            ..
        } = &mut settings;
        let accounts = accounts.iter_mut().map(|account| &mut account.secret);
        let clients = clients.iter_mut().map(|client| &mut client.secret);
        let keys = signing_key.iter_mut().chain(former_signing_keys);
        for secret in accounts.chain(clients).chain(keys) {
            *secret = look_up(secret)?;
        }
        Ok(settings)
    }

    async fn from_variables() -> Result<Settings, Failure> {
        let account = Account::from_env().await?;
        if account.mock.is_some() {
            return Err("set WECHAT_APPID and WECHAT_SECRET, or no variable at all".into());
        }
        let clients = variable("WECHAT_CLIENTS");
        let clients = clients.ok_or("set WECHAT_CLIENTS, as in crm=SECRET,shop=SECRET")?;
        let token = match variable("WECHAT_TOKEN").as_deref() {
            Some("classic") => Token::Classic,
            Some("stable") | None => Token::Stable,
            Some(_) => return Err("WECHAT_TOKEN is stable or classic".into()),
        };
        Ok(Settings {
            listen: "127.0.0.1:8080".into(),
            base_url: account.base_url,
            token,
            accounts: vec![AccountSettings {
                appid: account.appid,
                secret: look_up(&account.secret)?,
            }],
            clients: clients.split(',').map(client).collect::<Result<_, _>>()?,
            redis: variable("WECHAT_REDIS")
                .as_deref()
                .map(redis_at)
                .transpose()?,
            signing_key: variable("WECHAT_SIGNING_KEY")
                .map(|key| look_up(&key))
                .transpose()?,
            former_signing_keys: Vec::new(),
            bounds: Bounds::default(),
            mock: None,
        })
    }

    async fn demonstration() -> Result<Settings, Failure> {
        let account = Account::from_env().await?;
        Ok(Settings {
            // One that is taken must not spoil it.
            listen: "127.0.0.1:0".into(),
            base_url: account.base_url,
            // A stable token that was revoked WeChat gives again for a while.
            token: Token::Classic,
            redis: None,
            accounts: vec![AccountSettings {
                appid: account.appid,
                secret: account.secret,
            }],
            clients: vec![client(&format!("demo={DEMO_SECRET}"))?],
            signing_key: None,
            former_signing_keys: Vec::new(),
            bounds: Bounds::default(),
            mock: account.mock,
        })
    }
}

/// Whether only this machine can reach it.
fn is_here(listen: &str) -> bool {
    let address = listen.parse::<SocketAddr>();
    listen.starts_with("localhost:") || address.is_ok_and(|address| address.ip().is_loopback())
}

/// By which an account is told. One of them alone is half a configuration, and no reason for a
/// demonstration.
const VARIABLES: [&str; 7] = [
    "WECHAT_APPID",
    "WECHAT_SECRET",
    "WECHAT_CLIENTS",
    "WECHAT_TOKEN",
    "WECHAT_SIGNING_KEY",
    "WECHAT_REDIS",
    "WECHAT_BASE_URL",
];

/// What is wrong with a file, without what stands there where that may be a secret.
fn without_values(message: &str) -> String {
    let kinds = [
        "invalid type",
        "invalid value",
        "unknown variant",
        "unknown field",
    ];
    let kind = kinds.into_iter().find(|kind| message.starts_with(kind));
    match (kind, message.rsplit_once(", expected ")) {
        (Some(kind), Some((_, expected))) => format!("{kind}, expected {expected}"),
        _ => message.replace('\n', ", "),
    }
}

fn client(text: &str) -> Result<ClientSettings, Failure> {
    let named = text.split_once('=');
    let (name, secret) = named.ok_or("WECHAT_CLIENTS is as in crm=SECRET,shop=SECRET")?;
    Ok(ClientSettings {
        name: name.trim().into(),
        secret: look_up(secret.trim())?,
        accounts: None,
    })
}

/// Not connected to yet: a server starts without Redis as well.
fn redis_at(told: &str) -> Result<redis::Client, Failure> {
    let url = look_up(told)?;
    // What is wrong with it is not told, as it may hold a password.
    redis::Client::open(url)
        .map_err(|_| "the Redis is as redis://127.0.0.1:6379/ is, or rediss://".into())
}

/// A secret as it is told: in the open, by the name of a variable, or by that of a file.
fn look_up(told: &str) -> Result<String, Failure> {
    let secret = if let Some(name) = told.strip_prefix("env:") {
        let value = variable(name);
        value.ok_or_else(|| format!("the variable {name} is not set"))?
    } else if let Some(path) = told.strip_prefix("file:") {
        let text = fs::read_to_string(path);
        let text = text.map_err(|error| format!("cannot read {path}: {error}"))?;
        match text.trim() {
            "" => return Err(format!("{path} is empty").into()),
            text => text.to_owned(),
        }
    } else {
        told.to_owned()
    };
    match secret.as_str() {
        "" => Err("a secret is empty".into()),
        _ if told.starts_with('$') => {
            Err("a secret begins with $: a variable is written as env:NAME".into())
        }
        _ => Ok(secret),
    }
}
