//! A large download through the layer takes no memory. In a file of its own, since it looks at the
//! memory of the whole process.
#![cfg(target_os = "linux")]

mod support;

use http_body_util::BodyExt;
use support::memory::Memory;
use support::*;
use tokio::sync::{Mutex, MutexGuard};
use tower::{Layer, ServiceExt};
use tower_wechat::mock::MockWechat;

/// The cases for reqwest 0.13.
#[path = "reqwest"]
mod v0_13 {
    use ::reqwest;
    use tower_wechat::reqwest as adapters;

    mod adapter;
    mod client_with_middleware;
    mod downloads;

    use self::adapter::Wrap;

    const ADAPTERS: &[(&str, Wrap)] = &[
        ("HttpClient", adapter::http_client),
        ("ReqwestAuthLayer", adapter::reqwest_auth),
        ("the middleware", client_with_middleware::wrap),
    ];
}

/// The same cases for reqwest 0.12.
#[path = "reqwest"]
mod v0_12 {
    use reqwest_0_12 as reqwest;
    use tower_wechat::reqwest_0_12 as adapters;

    #[allow(clippy::duplicate_mod, reason = "one source for two versions")]
    mod adapter;
    #[allow(clippy::duplicate_mod, reason = "one source for two versions")]
    mod downloads;

    use self::adapter::Wrap;

    const ADAPTERS: &[(&str, Wrap)] = &[
        ("HttpClient", adapter::http_client),
        ("ReqwestAuthLayer", adapter::reqwest_auth),
    ];
}

const MIB: u64 = 1024 * 1024;

/// One download at a time: each looks at the memory of the whole process.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Lets the peak begin anew at what is in use now. Where that is not allowed, the downloads before
/// hide as much growth as they had themselves, which is far less than a download that is kept.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Lets `download` get a little, and then `size` bytes for no more memory than that.
async fn assert_constant_memory(name: &str, size: u64, download: impl AsyncFn(u64) -> u64) {
    forget_peak();
    download(size / 64).await;
    let before = Memory::of("self");
    assert_eq!(download(size).await, size, "{name}");
    let grown = Memory::of("self").peak_above(before) / 1024;
    println!("{name}: {} MiB in {grown} KiB more", size / MIB);
    assert!(grown < 8 * 1024, "{name}: {grown} KiB more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_of_1_gib_passes_in_constant_memory() {
    let _alone = alone().await;
    let wechat = MockWechat::start().await;
    let service = layer_of(&wechat).layer(hyper());
    assert_constant_memory("hyper", 1024 * MIB, async |size| {
        let uri = format!("{}/cgi-bin/media/get?media_id=m&size={size}", wechat.url());
        let reply = service.clone().oneshot(get(uri)).await.unwrap();
        let mut body = reply.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame.unwrap().data_ref().unwrap().len() as u64;
        }
        received
    })
    .await;
}
