//! WeChat in the process: a real HTTP server that behaves as `api.weixin.qq.com` does.
//!
//! [`MockWechat`] listens on `127.0.0.1`, gives out access tokens, checks them on every API call and
//! answers with WeChat's own codes and wording. A test can revoke tokens, slow replies down, break
//! them, and afterwards read what had arrived. Nothing is stubbed on the client's side: requests
//! cross a socket, so connection reuse, early answers and clients that go away are the real thing.
//!
//! # What it answers
//!
//! | request | official page | behaviour |
//! |---|---|---|
//! | `GET /cgi-bin/token` | "Get access token" | a new token each time; the one before stays good for the [grace](MockBuilder::grace) |
//! | `POST /cgi-bin/stable_token` | "Get stable access token" | the same token until five minutes before its end (half its life, if that is less); `force_refresh` makes a new one, 20 a day and 30 s apart, and is otherwise ignored |
//! | `GET /cgi-bin/gettoken` | WeCom's "Get access_token" | the same token until it expires or is revoked |
//! | `/cgi-bin/menu/create`, `get`, `delete` | "Custom menu" | keeps one menu |
//! | `POST /cgi-bin/message/custom/send` | "Customer service message" | keeps what was sent, see [`MockWechat::messages`] |
//! | `POST /cgi-bin/media/upload` | "Upload temporary media" | hashes the body and drops it |
//! | `GET /cgi-bin/media/get?size=N` | "Get temporary media" | streams `N` bytes (1 MiB unless told) in constant memory |
//! | `GET /cgi-bin/user/get` | "Get followers" | two followers |
//! | `POST /wxa/getwxacodeunlimit` | "Get unlimited QR code" | a picture; its errors are JSON *called* a picture |
//! | others under `/cgi-bin`, `/wxa`, `/datacube`, `/customservice` | | `{"errcode":0,"errmsg":"ok"}` |
//! | `/sns/*` | "Web page authorization" | wants the user's token `user-token` |
//! | all else | | 404 and a page of HTML |
//!
//! Every call but the token requests, `/sns/*` and the 404s is checked for its token before anything
//! else: 41001 without one, 40001 for one that is unknown or void, 42001 for one that has expired. A
//! void WeCom token gets 40014. Byte `i` of a downloaded medium is `i % 251`, except that the first
//! four are those of a JPEG.
//!
//! # Time
//!
//! All lifetimes are measured with [`tokio::time::Instant`], so `tokio::time::pause` and `advance`
//! move them. Mind that a paused clock jumps to the next timer whenever the runtime is idle, and
//! waiting for a socket is idle: with delays, or timeouts in the client, leave the clock running.

mod account;
mod api;
mod body;
mod builder;
mod failure;
mod intake;
mod query;
mod record;
mod reply;
mod server;
mod state;
mod token;
mod wechat;

pub use self::builder::MockBuilder;
pub use self::failure::Failure;
pub use self::record::{RecordedRequest, TokenRequests};
pub use self::wechat::MockWechat;
