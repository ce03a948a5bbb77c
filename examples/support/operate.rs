//! What `token_server` and `gateway` have in common: their arguments, their configuration, and how
//! they are served.

use std::future::{IntoFuture, pending};
use std::io::ErrorKind;
use std::process::ExitCode;
use std::sync::{Arc, Once};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use metrics_exporter_prometheus::PrometheusBuilder;
use rustls::crypto::ring;
use tokio::net::TcpListener;
use tokio::signal;
use tokio::sync::oneshot;
use tower_wechat::redis::RedisTokens;
use tower_wechat::server::{ServerBuilder, serve};
use tower_wechat::{ClientCredential, StableToken, TokenManager, TokenSource};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::{AccountSettings, ClientSettings, DEMO_SECRET, HELP, Settings, Token};
use crate::support::{Failure, exit_code, variable};

pub(crate) type Http = Client<HttpsConnector<HttpConnector>, Body>;

/// Runs `program`, unless it is asked for help.
pub(crate) async fn run<R>(program: &str, help: &str, serve: impl FnOnce(Settings) -> R) -> ExitCode
where
    R: Future<Output = Result<(), Failure>>,
{
    // Here and not in `serve`, which must not print before it is known that help is not wanted.
    // For Redis over TLS: rustls chooses none where two are built in, ring and aws-lc-rs.
    let _ = ring::default_provider().install_default();
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

impl Settings {
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
                Token::Stable => self.manager(
                    StableToken::new(http.clone(), appid, secret).base_url(&self.base_url),
                ),
                Token::Classic => self.manager(
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

    /// The tokens of `source`, shared with other servers where there is a Redis for it.
    fn manager(&self, source: impl TokenSource) -> TokenManager {
        match &self.redis {
            Some(redis) => {
                let tokens = Arc::new(RedisTokens::new(redis.clone(), source));
                check_redis(&tokens);
                TokenManager::new(tokens)
            }
            None => TokenManager::new(source),
        }
    }

    /// Serves `router` until it is told to stop, by ctrl-c or SIGTERM; told so twice, at once.
    /// Where nothing is configured, `try_it` prints what to do with its URL, and with the one for a
    /// token.
    pub(crate) async fn serve(
        &self,
        router: Router,
        try_it: impl FnOnce(&str, &str),
    ) -> Result<(), Failure> {
        let listen = &self.listen;
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => format!("cannot listen on {listen}: something else does"),
            _ => format!("cannot listen on {listen}, which should be as 0.0.0.0:8080 is: {error}"),
        })?;
        let url = format!("http://{}", listener.local_addr()?);
        // The usual limit is 1024 open files, and more are there for the asking.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        println!("listening on {url}");
        let (accounts, clients) = (self.accounts.len(), self.clients.len());
        tracing::info!(accounts, clients, wechat = self.base_url, "serving");
        if let Some(mock) = &self.mock {
            let appid = mock.appid();
            println!("Nothing is configured, so WeChat runs in this process. Try it:");
            try_it(
                &url,
                &format!(
                    "{url}/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={DEMO_SECRET}"
                ),
            );
        }
        // A download may take its time, and a container is killed after 30 s: the bounds have 25 s
        // for it.
        let (stop, stopping) = oneshot::channel();
        let serving = serve(listener, router, self.bounds.clone()).until(async {
            let _ = stopping.await;
        });
        let told_twice = async {
            stopped().await;
            tracing::info!("stopping, when what is under way is done, in 25 s at the latest");
            let _ = stop.send(());
            stopped().await;
        };
        tokio::select! {
            () = serving.into_future() => {}
            () = told_twice => {}
        }
        Ok(())
    }
}

/// Says at the start what is wrong with Redis, which nobody would learn before a token is wanted.
/// The server starts all the same, and does not wait for it; that takes 2 s at most.
fn check_redis<T: TokenSource>(tokens: &Arc<RedisTokens<T>>) {
    static CHECKED: Once = Once::new();
    // All accounts have the same.
    CHECKED.call_once(|| {
        let tokens = Arc::clone(tokens);
        tokio::spawn(async move {
            match tokens.check().await {
                Ok(()) => {}
                Err(error) if error.is_refusal() => {
                    tracing::error!("{error}. Until then each server has tokens of its own");
                }
                Err(error) => tracing::warn!("{error}. Tokens are shared as soon as it is there"),
            }
        });
    });
}

/// Logs to stderr: what this crate says, down to the level that is asked for, and warnings of all
/// others.
pub(crate) fn log() -> Result<(), Failure> {
    let level = variable("WECHAT_LOG").unwrap_or_else(|| "info".into());
    let level = level.parse::<tracing::Level>();
    let level = level.map_err(|_| "WECHAT_LOG is error, warn, info, debug or trace")?;
    let ours = ["tower_wechat", "token_server", "gateway"];
    let filter = Targets::new().with_default(level.min(tracing::Level::WARN));
    let filter = ours
        .into_iter()
        .fold(filter, |filter, target| filter.with_target(target, level));
    tracing_subscriber::registry()
        .with(fmt::layer().with_ansi(false).with_writer(std::io::stderr))
        .with(filter)
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
