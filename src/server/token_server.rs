use super::builder::ServerBuilder;
use super::clients::Client;
use super::refusal::Refusal;
use super::registry::Account;
use super::token_endpoints::{Grant, Granted};
use super::token_request::TokenRequest;
use crate::platform::FORCES_APART;
use crate::token::{AccessToken, TokenError};

/// One token for every process: gives WeChat's own token to those who have a secret of this
/// server's.
///
/// Clients ask it as they would ask WeChat, see [`server`](crate::server#endpoints); and from Rust
/// with [`StableToken`](crate::StableToken):
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_wechat::mock::MockWechat;
/// use tower_wechat::server::TokenServer;
/// use tower_wechat::{ClientCredential, StableToken, TokenManager};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let wechat = MockWechat::start().await;
/// # let (url, appid, app_secret) = (wechat.url(), wechat.appid(), wechat.secret());
/// let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let source = ClientCredential::new(http.clone(), appid, app_secret).base_url(url);
/// let server = TokenServer::builder()
///     .account(appid, TokenManager::new(source))
///     .client("crm", "a secret of this client's own")
///     .build()?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let server_url = format!("http://{}", listener.local_addr()?);
/// tokio::spawn(async { axum::serve(listener, server).await });
///
/// // In another process:
/// let tokens = TokenManager::new(
///     StableToken::new(http, appid, "a secret of this client's own").base_url(server_url),
/// );
/// assert_eq!(Some(tokens.token().await?.secret()), wechat.current_token().as_deref());
/// # Ok(())
/// # }
/// ```
///
/// The tokens it gives are WeChat's, so a client can still see one die, and has to say so by
/// `force_refresh`. The layer of this crate does; for other clients see
/// [`Gateway`](crate::server::Gateway).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TokenServer;

impl TokenServer {
    /// Sets a token server up.
    pub fn builder() -> ServerBuilder<TokenServer> {
        ServerBuilder::new(TokenServer)
    }
}

impl Grant for TokenServer {
    async fn grant(
        &self,
        client: &Client,
        account: &Account,
        request: &TokenRequest,
    ) -> Result<Granted, Refusal> {
        let tokens = &account.tokens;
        let token = match rejected(account, request) {
            None => tokens.token().await,
            Some(rejected) => {
                tracing::debug!(
                    client = &*client.name,
                    account = &*account.appid,
                    "a client's token was rejected"
                );
                match account.tokens_for(client).refresh(&rejected).await {
                    // As WeChat does with a force that comes too often.
                    Err(TokenError::OverBudget) => tokens.token().await,
                    refreshed => refreshed,
                }
            }
        };
        let token = token.map_err(|error| Refusal::no_token(&error))?;
        Ok(Granted {
            token: token.secret().to_owned(),
            expires_in: token.seconds_left(),
        })
    }
}

/// The current token, where the client has a reason to want another.
fn rejected(account: &Account, request: &TokenRequest) -> Option<AccessToken> {
    if !request.force_refresh {
        return None;
    }
    let current = account.tokens.cached()?;
    let is_dead = match &request.rejected_token {
        Some(rejected) => current.secret() == rejected.as_str(),
        // Which one it means is not known: the last refresh may have been made for the same death.
        None => current.age() >= FORCES_APART,
    };
    is_dead.then_some(current)
}
