use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};

use super::*;

async fn bytes_of(body: Body) -> Vec<u8> {
    body.collect().await.unwrap().to_bytes().into()
}

async fn captured(body: Body, limit: usize) -> (Body, Replay<Body>) {
    let mut captured = body.capture(&Keep::up_to(limit)).into_result();
    loop {
        match captured {
            Ok(sendable) => return (sendable.body, sendable.again),
            Err(collecting) => captured = collecting.await.unwrap().into_result(),
        }
    }
}

async fn replayed(mut again: Replay<Body>) -> Option<Body> {
    std::future::poll_fn(|cx| again.poll_body(cx)).await
}

#[tokio::test]
async fn a_body_in_memory_stays_one_that_reqwest_can_send_again() {
    for text in ["", "a message"] {
        let (body, again) = captured(Body::from(text), 0).await;
        assert_eq!(body.as_bytes(), Some(text.as_bytes()));
        assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
        let again = replayed(again).await.unwrap();
        assert_eq!(again.as_bytes(), Some(text.as_bytes()));
    }
}

#[tokio::test]
async fn a_body_in_memory_is_not_copied() {
    let text = Bytes::from(vec![7; 1024]);
    let (body, again) = captured(Body::from(text.clone()), 0).await;
    assert_eq!(body.as_bytes().unwrap().as_ptr(), text.as_ptr());
    let again = replayed(again).await.unwrap();
    assert_eq!(again.as_bytes().unwrap().as_ptr(), text.as_ptr());
}

#[tokio::test]
async fn a_wrapped_body_that_is_there_already_is_captured_whatever_its_size() {
    let (body, again) = captured(Body::wrap(Full::new(Bytes::from("a picture"))), 1).await;
    assert_eq!(body.size_hint().exact(), Some(9));
    assert_eq!(bytes_of(body).await, b"a picture");
    assert_eq!(bytes_of(replayed(again).await.unwrap()).await, b"a picture");
}

#[tokio::test]
async fn r11_a_body_that_streams_is_collected_up_to_the_limit_and_has_a_length_then() {
    for (limit, kept) in [(9, true), (8, false)] {
        let (mut sender, body) = Channel::<Bytes>::new(1);
        tokio::spawn(async move {
            for piece in ["a ", "pict", "ure"] {
                sender.send_data(Bytes::from(piece)).await.unwrap();
            }
        });
        let (body, again) = captured(Body::wrap(body), limit).await;
        assert_eq!(body.size_hint().exact(), kept.then_some(9));
        assert_eq!(bytes_of(body).await, b"a picture");
        let again = replayed(again).await;
        assert_eq!(again.is_some(), kept);
        if let Some(again) = again {
            assert_eq!(again.size_hint().exact(), Some(9));
            assert_eq!(bytes_of(again).await, b"a picture");
        }
    }
}
