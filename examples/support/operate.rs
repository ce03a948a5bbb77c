//! What `token_server` and `gateway` have in common: their arguments, their configuration, and how they are served.

use std::env;
use std::fs;
use std::future::pending;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use lexopt::ValueExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use rustls::crypto::ring;
use serde::Deserialize;
use tokio::signal;
use tower_wechat::mock::MockWechat;
use tower_wechat::server::ServerBuilder;
use tower_wechat::{ClientCredential, StableToken, TokenManager};

use crate::support::{Account, Failure, exit_code, origin, variable};

pub(crate) type Http = Client<HttpsConnector<HttpConnector>, Body>;

const DEMO_SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// What the program was told.
pub(crate) struct Settings {
    listen: String,
    pub(crate) base_url: String,
    token: Token,
    accounts: Vec<AccountSettings>,
    clients: Vec<ClientSettings>,
    pub(crate) signing_key: Option<String>,
    pub(crate) former_signing_keys: Vec<String>,
    /// The WeChat in this process, where nothing was told.
    pub(crate) mock: Option<MockWechat>,
}

/// The configuration file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<String>,
    base_url: Option<String>,
    #[serde(default)]
    token: Token,
    signing_key: Option<String>,
    #[serde(default)]
    former_signing_keys: Vec<String>,
    #[serde(default)]
    account: Vec<AccountSettings>,
    #[serde(default)]
    client: Vec<ClientSettings>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountSettings {
    appid: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientSettings {
    name: String,
    secret: String,
    accounts: Option<Vec<String>>,
}

/// Which of WeChat's two kinds of token.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Token {
    #[default]
    Stable,
    Classic,
}

/// Runs `program`, unless it is asked for help.
pub(crate) async fn run<R>(program: &str, help: &str, serve: impl FnOnce(Settings) -> R) -> ExitCode
where
    R: Future<Output = Result<(), Failure>>,
{
    // Here and not in `serve`, which must not print before it is known that help is not wanted.
    let done = async {
        match Settings::read().await? {
            Some(settings) => serve(settings).await,
            None => {
                println!("{help}\n\n{HELP}");
                Ok(())
            }
        }
    };
    exit_code(program, done.await)
}

const HELP: &str = r#"Arguments:
  --config FILE   the configuration; default: $WECHAT_CONFIG, or the variables below
  --listen ADDR   where to listen; default: what the configuration says, or 127.0.0.1:8080
  --help          this

The configuration is TOML:
  listen = "127.0.0.1:8080"
  # stable: POST /cgi-bin/stable_token, which several servers can ask without harm. classic: GET /cgi-bin/token.
  token = "stable"
  # The gateway's, the same at each replica: openssl rand -hex 32. While it changes, the former ones are still taken.
  signing_key = "env:SIGNING_KEY"
  # former_signing_keys = []

  [[account]]
  appid = "wx0123456789abcdef"
  secret = "file:/run/secrets/wechat"

  [[client]]
  name = "crm"
  secret = "env:CRM_SECRET"            # 16 bytes at least: openssl rand -hex 16
  accounts = ["wx0123456789abcdef"]    # default: all

A secret or a key can stand there as it is, or be read from a variable (env:NAME) or a file (file:PATH).

Without a file, one account by variables:
  WECHAT_APPID, WECHAT_SECRET   the account
  WECHAT_CLIENTS                the clients, as in crm=SECRET,shop=SECRET
  WECHAT_TOKEN                  stable or classic; default: stable
  WECHAT_SIGNING_KEY            the gateway's key
  WECHAT_LISTEN                 where to listen
  WECHAT_BASE_URL               another server in place of https://api.weixin.qq.com
  WECHAT_LOG                    error, warn, info, debug or trace, in every case; default: info

With nothing configured at all, WeChat runs in the process, and the program says how to try it."#;

impl Settings {
    /// `None` when help is wanted.
    async fn read() -> Result<Option<Settings>, Failure> {
        let (mut config, mut listen) = (variable("WECHAT_CONFIG"), None);
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(None),
                lexopt::Arg::Long("config") => config = Some(arguments.value()?.string()?),
                lexopt::Arg::Long("listen") => listen = Some(arguments.value()?.string()?),
                _ => return Err("the arguments it knows are --config, --listen and --help".into()),
            }
        }
        let mut settings = match config {
            Some(path) => Settings::from_file(&path)?,
            None => Settings::from_env().await?,
        };
        if let Some(listen) = listen {
            settings.listen = listen;
        }
        Ok(Some(settings))
    }

    fn from_file(path: &str) -> Result<Settings, Failure> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        let file: File = toml::from_str(&text).map_err(|error| {
            // Its own text shows the line, which may hold a secret.
            let before = error.span().map_or("", |span| &text[..span.start]);
            let line = before.matches('\n').count() + 1;
            format!(
                "{path}, line {line}: {}",
                error.message().replace('\n', ", ")
            )
        })?;
        let mut settings = Settings {
            listen: file.listen.unwrap_or_else(|| "127.0.0.1:8080".into()),
            base_url: file
                .base_url
                .map_or(Ok("https://api.weixin.qq.com".into()), origin)?,
            token: file.token,
            accounts: file.account,
            clients: file.client,
            signing_key: file.signing_key,
            former_signing_keys: file.former_signing_keys,
            mock: None,
        };
        let accounts = settings
            .accounts
            .iter_mut()
            .map(|account| &mut account.secret);
        let clients = settings.clients.iter_mut().map(|client| &mut client.secret);
        let keys = settings
            .signing_key
            .iter_mut()
            .chain(&mut settings.former_signing_keys);
        for secret in accounts.chain(clients).chain(keys) {
            *secret = look_up(secret)?;
        }
        Ok(settings)
    }

    async fn from_env() -> Result<Settings, Failure> {
        let account = Account::from_env().await?;
        let clients = match (variable("WECHAT_CLIENTS"), &account.mock) {
            (Some(clients), _) => clients.split(',').map(client).collect::<Result<_, _>>()?,
            (None, Some(_)) => vec![client(&format!("demo={DEMO_SECRET}"))?],
            (None, None) => return Err("set WECHAT_CLIENTS, as in crm=SECRET,shop=SECRET".into()),
        };
        let token = match variable("WECHAT_TOKEN").as_deref() {
            Some("classic") => Token::Classic,
            Some("stable") => Token::Stable,
            Some(_) => return Err("WECHAT_TOKEN is stable or classic".into()),
            // WeChat gives a stable token that was revoked again for a while, and the demonstration revokes it.
            None if account.mock.is_some() => Token::Classic,
            None => Token::Stable,
        };
        // A demonstration must not fail for a port that is taken.
        let listen = if account.mock.is_some() {
            "127.0.0.1:0"
        } else {
            "127.0.0.1:8080"
        };
        Ok(Settings {
            listen: variable("WECHAT_LISTEN").unwrap_or_else(|| listen.into()),
            base_url: account.base_url,
            token,
            accounts: vec![AccountSettings {
                appid: account.appid,
                secret: account.secret,
            }],
            clients,
            signing_key: variable("WECHAT_SIGNING_KEY"),
            former_signing_keys: Vec::new(),
            mock: account.mock,
        })
    }

    /// `builder` with the accounts, the clients and the metrics.
    pub(crate) fn set_up<K>(
        &self,
        mut builder: ServerBuilder<K>,
        http: &Http,
    ) -> Result<ServerBuilder<K>, Failure> {
        // First, as managers say what their metrics mean when they are made.
        let prometheus = PrometheusBuilder::new().install_recorder()?;
        builder = builder.metrics(move || prometheus.render());
        for AccountSettings { appid, secret } in &self.accounts {
            let tokens = match self.token {
                Token::Stable => TokenManager::new(
                    StableToken::new(http.clone(), appid, secret).base_url(&self.base_url),
                ),
                Token::Classic => TokenManager::new(
                    ClientCredential::new(http.clone(), appid, secret).base_url(&self.base_url),
                ),
            };
            builder = builder.account(appid, tokens);
        }
        for ClientSettings {
            name,
            secret,
            accounts,
        } in &self.clients
        {
            builder = match accounts {
                Some(accounts) => builder.client_for(name, secret, accounts),
                None => builder.client(name, secret),
            };
        }
        Ok(builder)
    }

    /// How to ask for a token, where WeChat runs in the process.
    pub(crate) fn token_url(&self, server: &str) -> String {
        let (account, client) = (&self.accounts[0], &self.clients[0]);
        format!(
            "{server}/cgi-bin/token?grant_type=client_credential&appid={}&secret={}",
            account.appid, client.secret
        )
    }

    /// Serves `router` until it is told to stop, by ctrl-c or SIGTERM.
    pub(crate) async fn serve(
        &self,
        router: Router,
        say: impl FnOnce(&str),
    ) -> Result<(), Failure> {
        let listen = &self.listen;
        let listener = TcpListener::bind(listen);
        let listener = listener.map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => format!("cannot listen on {listen}: something else does"),
            _ => format!("cannot listen on {listen}: {error}"),
        })?;
        let url = format!("http://{}", listener.local_addr()?);
        let handle = Handle::new();
        let mut server = axum_server::from_tcp(listener)?
            .acceptor(NoDelayAcceptor::new())
            .handle(handle.clone())
            // Who connects and says nothing, or says it byte by byte, holds a connection.
            .first_request_timeout(Duration::from_secs(10));
        server
            .http_builder()
            .http1()
            .header_read_timeout(Duration::from_secs(10))
            .max_buf_size(64 * 1024);
        println!("listening on {url}");
        say(&url);
        tokio::spawn(async move {
            stopped().await;
            // A download may take its time, and a container is killed after 30 s.
            handle.graceful_shutdown(Some(Duration::from_secs(25)));
        });
        // With the addresses of clients, for the log.
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        Ok(server.serve(service).await?)
    }
}

/// Logs to stderr.
pub(crate) fn log() -> Result<(), Failure> {
    let level = variable("WECHAT_LOG").unwrap_or_else(|| "info".into());
    let level = level.parse::<tracing::Level>();
    let level = level.map_err(|_| "WECHAT_LOG is error, warn, info, debug or trace")?;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

/// The client that asks WeChat: for tokens, and with the calls that the gateway passes on.
pub(crate) fn http() -> Result<Http, Failure> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(5)));
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(ring::default_provider())?
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

fn client(text: &str) -> Result<ClientSettings, Failure> {
    let (name, secret) = text
        .split_once('=')
        .ok_or("WECHAT_CLIENTS is as in crm=SECRET,shop=SECRET")?;
    Ok(ClientSettings {
        name: name.trim().into(),
        secret: secret.trim().into(),
        accounts: None,
    })
}

fn look_up(secret: &str) -> Result<String, Failure> {
    if let Some(name) = secret.strip_prefix("env:") {
        let value = env::var(name).ok().filter(|value| !value.is_empty());
        return value.ok_or_else(|| format!("the variable {name} is not set").into());
    }
    if let Some(path) = secret.strip_prefix("file:") {
        let text =
            fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        return Ok(text.trim().into());
    }
    Ok(secret.into())
}

async fn stopped() {
    let terminated = async {
        #[cfg(unix)]
        if let Ok(mut signals) = signal::unix::signal(signal::unix::SignalKind::terminate()) {
            signals.recv().await;
            return;
        }
        pending::<()>().await;
    };
    tokio::select! {
        _ = signal::ctrl_c() => {}
        () = terminated => {}
    }
}
