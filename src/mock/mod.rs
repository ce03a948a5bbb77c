//! WeChat in the process: a real HTTP server that behaves as `api.weixin.qq.com` does.
//!
//! [`MockWechat`] listens on `127.0.0.1`, gives out access tokens, checks them on every API call
//! and answers with WeChat's own codes and wording. A test can revoke tokens, slow replies down,
//! break them, and afterwards read what had arrived. Nothing is stubbed on the client's side:
//! requests cross a socket, so connection reuse, early answers and clients that go away are the
//! real thing.
//!
//! # What it answers
//!
//! | request | official page | behaviour |
//! |---|---|---|
//! | `GET /cgi-bin/token` | "Get access token" | a new token each time; the one before stays good for the [grace](MockBuilder::grace) |
//! | `POST /cgi-bin/stable_token` | "Get stable access token" | the same token until five minutes before its end (half its life, if that is less); `force_refresh` makes a new one, 20 a day and 30 s apart; one too soon is ignored, one too many is ignored or [refused](MockWechat::refuse_excess_forces) |
//! | `GET /cgi-bin/gettoken` | WeCom's "Get access_token" | the same token until it expires or is revoked |
//! | `/cgi-bin/menu/create`, `get`, `delete` | "Custom menu" | keeps one menu |
//! | `POST /cgi-bin/message/custom/send` | "Customer service message" | keeps what was sent, see [`MockWechat::messages`] |
//! | `POST /cgi-bin/media/upload` | "Upload temporary media" | hashes the body and drops it |
//! | `GET /cgi-bin/media/get?size=N` | "Get temporary media" | streams `N` bytes (1 MiB unless told) in constant memory |
//! | `GET /cgi-bin/user/get` | "Get followers" | two followers |
//! | `POST /wxa/getwxacodeunlimit` | "Get unlimited QR code" | a picture; its errors are JSON *called* a picture |
//! | some 300 others | WeChat's and WeCom's pages | `{"errcode":0,"errmsg":"ok"}` |
//! | `/sns/*` | "Web page authorization" | wants the user's token `user-token` |
//! | others under `/cgi-bin`, `/wxa`, `/wxaapi`, `/datacube`, `/customservice`, `/card` | | 40066 |
//! | all else | | 404 and a page of HTML |
//!
//! For any other reply see [`MockWechat::reply_to`]. Byte `i` of a downloaded medium is `i % 251`,
//! except that the first four are those of a JPEG.
//!
//! # What it refuses
//!
//! What WeChat refuses, or a test that passes says nothing. In this order:
//!
//! - A body in chunked encoding, on every path: the status 412 and nothing else. WeChat wants to
//!   know how long a body is. [`MockWechat::accept_chunked`] turns this off, for a client that
//!   talks to another server than WeChat.
//! - A bad token, on every call but the token requests, `/sns/*` and the 404s: 41001 without one,
//!   40001 for one that is unknown or void, 42001 for one that has expired. A void WeCom token gets
//!   40014.
//! - A path that WeChat does not have: 40066, "invalid url", as seen in reports and in the
//!   documentation of WeChat's store. WeChat has more paths than the mock's table, and new ones
//!   each month. A path that is missing gets 40066, too, rather than an "ok" that means nothing:
//!   give it the reply that your program reads, with [`MockWechat::reply_to`].
//! - The wrong method: 43001 where GET is wanted, 43002 where POST is.
//! - A call by POST without a body: 44002; with one that is not JSON: 47001.
//! - An upload that is not a form with a part called `media` that has a `filename`, `filename*`
//!   alone being none: 41005. A file of no bytes: 44001.
//!
//! Errors have WeChat's wording, which ends with a `rid`, and the headers `RetKey` and `LogicRet`,
//! which captured replies have and no documentation mentions; errors about WeCom's tokens have
//! WeCom's wording, with `hint` and `from ip`.
//!
//! # Several accounts
//!
//! [`MockBuilder::another_account`] adds accounts. Each has tokens, a quota, a menu and messages of
//! its own, in [`MockWechat::account`]; the calls on [`MockWechat`] itself mean the first one.
//! Delays, failures and the record of requests belong to the server.
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
mod endpoint;
mod failure;
mod handle;
mod intake;
mod multipart;
mod own_reply;
mod query;
mod record;
mod reply;
mod server;
mod state;
mod token;
mod tokens;
mod wechat;
mod wording;

pub use self::builder::MockBuilder;
pub use self::failure::Failure;
pub use self::handle::MockAccount;
pub use self::own_reply::MockReply;
pub use self::record::{RecordedRequest, TokenRequests};
pub use self::wechat::MockWechat;
