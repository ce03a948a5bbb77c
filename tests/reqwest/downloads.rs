//! Large downloads through each adapter.

use super::super::*;
use super::ADAPTERS;
use super::adapter::Setup;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_of_64_mib_pass_in_constant_memory() {
    let _alone = alone().await;
    for (name, wrap) in ADAPTERS {
        let setup = Setup::new().await;
        let adapter = setup.wrapped(wrap);
        let name = format!("{} {name}", module_path!());
        assert_constant_memory(&name, 64 * MIB, async |size| {
            let path = format!("/cgi-bin/media/get?media_id=m&size={size}");
            let mut reply = adapter.send(setup.get(&path)).await.unwrap();
            let mut received = 0;
            while let Some(piece) = reply.chunk().await.unwrap() {
                received += piece.len() as u64;
            }
            received
        })
        .await;
    }
}
