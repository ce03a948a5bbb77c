//! The two token requests: what both servers do, whatever token they give.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::clients::Client;
use super::metrics;
use super::refusal::{Refusal, json_reply};
use super::registry::{Account, Registry};
use super::token_request::TokenRequest;
use crate::source::{SAYS, TAKES_REJECTED_TOKEN};

/// What a server gives to a client that may have it.
pub(super) trait Grant: Send + Sync + 'static {
    fn grant(
        &self,
        client: &Client,
        account: &Account,
        request: &TokenRequest,
    ) -> impl Future<Output = Result<Granted, Refusal>> + Send;
}

pub(super) struct Granted {
    pub(super) token: String,
    /// In seconds.
    pub(super) expires_in: u64,
}

impl Serialize for Granted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Granted", 2)?;
        fields.serialize_field("access_token", &self.token)?;
        fields.serialize_field("expires_in", &self.expires_in)?;
        fields.end()
    }
}

pub(super) fn routes(registry: &Arc<Registry>, grant: impl Grant) -> Router {
    let desk = Arc::new(Desk {
        registry: Arc::clone(registry),
        grant,
    });
    let plain = {
        let desk = Arc::clone(&desk);
        move |request: Request| async move { desk.plain(request).await }
    };
    let stable = move |request: Request| async move { desk.stable(request).await };
    let plain = get(plain).fallback(async || Refusal::new(43001, "require GET method"));
    let stable = post(stable).fallback(async || Refusal::new(43002, "require POST method"));
    let mut routes = Router::new();
    for (name, answer) in [("token", plain), ("stable_token", stable)] {
        for path in spellings(name) {
            routes = routes.route(&path, answer.clone());
        }
    }
    routes
}

/// A path as clients write it whose base URL ends in a slash, or who put one behind it. axum looks
/// routes up by the path as it is.
fn spellings(name: &str) -> impl Iterator<Item = String> {
    const SLASHES: [&str; 2] = ["/", "//"];

    SLASHES.into_iter().flat_map(move |first| {
        SLASHES.into_iter().flat_map(move |second| {
            ["", "/"].map(|last| format!("{first}cgi-bin{second}{name}{last}"))
        })
    })
}

struct Desk<G> {
    registry: Arc<Registry>,
    grant: G,
}

impl<G: Grant> Desk<G> {
    async fn plain(&self, request: Request) -> Response {
        let wanted = TokenRequest::from_query(request.uri().query().unwrap_or_default());
        self.answer(&wanted, address(&request)).await
    }

    async fn stable(&self, request: Request) -> Response {
        let address = address(&request);
        let mut reply = match TokenRequest::from_body(request.into_body()).await {
            Ok(wanted) => self.answer(&wanted, address).await,
            Err(refusal) => refusal.into_response(),
        };
        reply.headers_mut().insert(SAYS, TAKES_REJECTED_TOKEN);
        reply
    }

    async fn answer(&self, wanted: &TokenRequest, address: Option<IpAddr>) -> Response {
        let (client, account) = match self.registry.admit(wanted, address).await {
            Ok(admitted) => admitted,
            Err(refusal) => return refusal.into_response(),
        };
        match self.grant.grant(client, account, wanted).await {
            Ok(granted) => {
                metrics::token_request(client, account, 0);
                json_reply(&granted)
            }
            Err(refusal) => {
                metrics::token_request(client, account, refusal.errcode());
                refusal.into_response()
            }
        }
    }
}

/// Whom the connection is with; not known where the server was not told to say so.
fn address(request: &Request) -> Option<IpAddr> {
    let connected = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
    Some(connected.0.ip().to_canonical())
}
