//! A published SDK as it is, `wechat-mp-sdk` 0.3, alone and in the layer.
//!
//! ```sh
//! cargo run --example wrap_sdk
//! ```
//!
//! needs nothing: WeChat runs in the process (`MockWechat`) and kills the token between two calls.
//! With `WECHAT_APPID` and `WECHAT_SECRET` in the environment the SDK in the layer asks WeChat
//! itself (`WECHAT_BASE_URL` names another server in its place), and only reads: WeChat tells the
//! addresses of its own servers.

use std::process::ExitCode;

use tower::Layer;
use tower::layer::layer_fn;
use tower_wechat::mock::MockWechat;
use tower_wechat::reqwest_0_12::{ReqwestAuthLayer, client_builder};
use tower_wechat::{ClientCredential, TokenManager, WechatAuthLayer};
use wechat_mp_sdk::api::{MediaType, Message, TextMessage};
use wechat_mp_sdk::types::{AppId, AppSecret};
use wechat_mp_sdk::{WechatError, WechatMp, WechatMpBuilder};

use self::support::{Account, Failure, explain};

mod support;

#[tokio::main]
async fn main() -> ExitCode {
    support::exit_code("wrap_sdk", run().await)
}

async fn run() -> Result<(), Failure> {
    let account = Account::from_env().await?;
    match &account.mock {
        Some(mock) => compare(&account, mock).await,
        None => {
            let servers = in_the_layer(&account).await?.get_api_domain_ip().await?;
            println!("WeChat's servers: {}", servers.ip_list.join(" "));
            Ok(())
        }
    }
}

/// The SDK as its own documentation builds it, and not built yet.
fn sdk(account: &Account) -> Result<WechatMpBuilder, WechatError> {
    Ok(WechatMp::builder()
        .appid(AppId::new(&account.appid)?)
        .secret(AppSecret::new(&account.secret)?)
        .base_url(&account.base_url))
}

async fn in_the_layer(account: &Account) -> Result<WechatMp, Failure> {
    // A program that talks to WeChat itself has no `.base_url` and no `.api_origin`.
    let client = client_builder().build()?;
    let source = ClientCredential::new(client.clone(), &account.appid, &account.secret);
    let tokens = TokenManager::new(source.base_url(&account.base_url));
    // Calls fetch one when they need it, but a wrong secret should be told when the program starts.
    let token = tokens.token().await;
    token.map_err(|error| explain(&error, &account.base_url))?;

    // The SDK asks for tokens by itself, and each would void the one before: it is given ours.
    let layer = WechatAuthLayer::new(tokens)
        .api_origin(&account.base_url)
        .answer_token_requests([&account.appid]);
    // `.with_middleware(ReqwestAuthLayer::new(layer))` would do, but for the SDK's own client,
    // which sends the token on as `Referer` after a redirect. Ours takes its place.
    let wechat = ReqwestAuthLayer::new(layer).layer(client);
    let sdk = sdk(account)?.with_middleware(layer_fn(move |_sdks_client| wechat.clone()));
    Ok(sdk.build()?)
}

/// With a WeChat of our own, whose token dies.
async fn compare(account: &Account, mock: &MockWechat) -> Result<(), Failure> {
    println!("The SDK alone");
    let alone = try_it(&sdk(account)?.build()?, mock).await;
    println!("The SDK in the layer");
    let wrapped = try_it(&in_the_layer(account).await?, mock).await;

    if (alone, wrapped) != (1, 3) {
        return Err("one call was to succeed alone, and three in the layer".into());
    }
    println!("Alone one of three calls went well, in the layer three.");
    Ok(())
}

/// Makes three calls, the second and third with a dead token, and counts those that went well.
async fn try_it(sdk: &WechatMp, mock: &MockWechat) -> usize {
    let first = send_message(sdk).await;
    tell("message", &first);

    mock.revoke();
    let message = send_message(sdk).await;
    tell("message, the token revoked", &message);

    mock.revoke();
    let picture = [0x5a; 4096];
    let upload = sdk.upload_temp_media(MediaType::Image, "picture.png", &picture);
    let upload = upload.await.map(drop);
    tell("upload, the token revoked", &upload);

    [first, message, upload].iter().flatten().count()
}

async fn send_message(sdk: &WechatMp) -> Result<(), WechatError> {
    let text = TextMessage::new("你好");
    sdk.send_customer_service_message("OPENID1", Message::Text { text })
        .await
}

fn tell(what: &str, done: &Result<(), WechatError>) {
    match done {
        Ok(()) => println!("  {what}: well"),
        Err(error) => println!("  {what}: {error}"),
    }
}
