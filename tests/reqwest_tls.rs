//! The way to WeChat itself, as far as a machine without a network can go it: TLS, WeChat's own
//! host name, and no origin or base URL set. Behind the name is `MockWechat`.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::*;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::Layer;
use tower_wechat::mock::MockWechat;
use tower_wechat::{
    AuthOutcome, ClientCredential, StableToken, TokenManager, TokenSource, WechatAuthLayer,
};

const HOST: &str = "api.weixin.qq.com";

/// A certificate for `HOST`, and its key.
const TLS: &[u8] = include_bytes!("support/tls.pem");

/// A server at `HOST` that hands everything on to the mock, and the certificate to trust.
async fn behind_tls(wechat: SocketAddr) -> (SocketAddr, CertificateDer<'static>) {
    let certificate = CertificateDer::from_pem_slice(TLS).unwrap();
    let key = PrivateKeyDer::from_pem_slice(TLS).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut outside = acceptor.accept(stream).await?;
                let mut inside = TcpStream::connect(wechat).await?;
                copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    (addr, certificate)
}

#[tokio::test]
async fn a_dead_token_is_survived_at_wechats_own_name_over_tls() {
    let wechat = MockWechat::builder().grace(Duration::ZERO).start().await;
    let (addr, certificate) = behind_tls(wechat.addr()).await;
    let client = tower_wechat::reqwest::client_builder()
        .resolve(HOST, addr)
        .tls_certs_only([reqwest::Certificate::from_der(&certificate).unwrap()])
        .build()
        .unwrap();
    let source = ClientCredential::new(client.clone(), wechat.appid(), wechat.secret());
    let layer = WechatAuthLayer::new(TokenManager::new(source));
    let service = tower_wechat::reqwest::ReqwestAuthLayer::new(layer).layer(client.clone());
    for call in 1..=2 {
        let reply = service.execute(client.get(API).build().unwrap()).await;
        let reply = reply.unwrap();
        let outcome = reply.extensions().get::<AuthOutcome>().unwrap();
        assert_eq!(outcome.replayed(), call == 2);
        assert_eq!(reply.url().as_str(), API);
        assert!(reply.text().await.unwrap().contains("OPENID1"));
        wechat.revoke();
    }
    assert_eq!(wechat.token_requests().issued, 2);
}

#[tokio::test]
async fn and_with_reqwest_0_12_and_a_stable_token() {
    use reqwest_0_12 as reqwest;

    let wechat = MockWechat::builder().grace(Duration::ZERO).start().await;
    let (addr, certificate) = behind_tls(wechat.addr()).await;
    let client = tower_wechat::reqwest_0_12::client_builder()
        .resolve(HOST, addr)
        .add_root_certificate(reqwest::Certificate::from_der(&certificate).unwrap())
        .build()
        .unwrap();
    let source = StableToken::new(client.clone(), wechat.appid(), wechat.secret());
    let layer = WechatAuthLayer::new(TokenManager::new(source));
    let service = tower_wechat::reqwest_0_12::ReqwestAuthLayer::new(layer).layer(client.clone());
    for call in 1..=2 {
        let reply = service.execute(client.get(API).build().unwrap()).await;
        let reply = reply.unwrap();
        let outcome = reply.extensions().get::<AuthOutcome>().unwrap();
        assert_eq!(outcome.replayed(), call == 2);
        assert!(reply.text().await.unwrap().contains("OPENID1"));
        wechat.revoke();
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_said_to_be_the_reason() {
    let wechat = MockWechat::start().await;
    let (addr, _) = behind_tls(wechat.addr()).await;
    let client = tower_wechat::reqwest::client_builder()
        .resolve(HOST, addr)
        .build()
        .unwrap();
    let source = ClientCredential::new(client, wechat.appid(), wechat.secret());
    let error = source.issue(None).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(wechat.requests().len(), 0);
}

#[tokio::test]
async fn the_token_does_not_leave_tls() {
    // The layer's scope is https: the same host over http gets no token.
    let wechat = MockWechat::start().await;
    let client = tower_wechat::reqwest::client_builder()
        .resolve(HOST, wechat.addr())
        .build()
        .unwrap();
    let service =
        tower_wechat::reqwest::ReqwestAuthLayer::new(WechatAuthLayer::new(numbered_tokens().0));
    let service = service.layer(client.clone());
    let url = API.replace("https://", "http://");
    let reply = service.execute(client.get(url).build().unwrap()).await;
    assert!(reply.unwrap().text().await.unwrap().contains("41001"));
    assert_eq!(wechat.requests()[0].access_token(), None);
}
