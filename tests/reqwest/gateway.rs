//! A gateway that asks WeChat with a client of reqwest's.

use tower::ServiceExt;
use tower_wechat::server::Gateway;

use super::super::*;
use super::adapters::{HttpClient, client_builder, from_axum};

const SECRET: &str = "the-secret-of-crm-which-is-long";

async fn gateway(wechat: &tower_wechat::mock::MockWechat) -> String {
    let http = HttpClient::new(client_builder().build().unwrap());
    let gateway = Gateway::builder(http.map_request(from_axum))
        .upstream(wechat.url())
        .account(wechat.appid(), tokens_of(wechat))
        .client("crm", SECRET);
    serve(gateway.build().unwrap()).await
}

#[tokio::test]
async fn calls_pass_and_their_length_is_told_as_it_was() {
    let wechat = tower_wechat::mock::MockWechat::start().await;
    let url = gateway(&wechat).await;
    let appid = wechat.appid();
    let token =
        format!("{url}/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={SECRET}");
    let token = text(hyper().request(get(token)).await.unwrap()).await;
    let token: serde_json::Value = serde_json::from_str(&token).unwrap();
    let token = token["access_token"].as_str().unwrap();

    wechat.revoke();
    wechat.clear();
    take_any_upload(&wechat);
    let uri = format!("{url}/cgi-bin/media/upload?type=image&access_token={token}");
    let reply = hyper().request(post(uri, vec![b'x'; 3_000_000])).await;
    assert!(text(reply.unwrap()).await.contains("media-"));
    let uri = format!("{url}/cgi-bin/user/get?access_token={token}");
    let reply = hyper().request(get(uri)).await;
    assert!(text(reply.unwrap()).await.contains("OPENID1"));

    let requests = wechat.requests();
    let [dead, refresh, upload, get] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert!(refresh.is_token_request());
    assert_eq!(dead.headers()["content-length"], "3000000");
    assert_eq!(upload.headers()["content-length"], "3000000");
    assert_eq!(upload.body_len(), 3_000_000);
    for name in ["content-length", "transfer-encoding"] {
        assert!(!get.headers().contains_key(name), "{name}");
    }
}
