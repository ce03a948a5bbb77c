//! A large download through the layer takes no memory. In a file of its own, since it looks at the
//! memory of the whole process.
#![cfg(target_os = "linux")]

mod support;

use http_body_util::BodyExt;
use support::*;
use tower::{Layer, ServiceExt};
use tower_wechat::mock::MockWechat;

/// The most memory that this process ever had, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_of_1_gib_passes_in_constant_memory() {
    const GIB: u64 = 1024 * 1024 * 1024;

    let wechat = MockWechat::start().await;
    let service = layer_of(&wechat).layer(hyper());
    let download = async |size| {
        let uri = format!("{}/cgi-bin/media/get?media_id=m&size={size}", wechat.url());
        let reply = service.clone().oneshot(get(uri)).await.unwrap();
        let mut body = reply.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame.unwrap().data_ref().unwrap().len() as u64;
        }
        received
    };
    download(GIB / 64).await;
    let before = peak_memory();
    assert_eq!(download(GIB).await, GIB);
    let grown = peak_memory() - before;
    assert!(grown < 8 * 1024, "{grown} KiB more");
}
