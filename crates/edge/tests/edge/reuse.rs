//! Connections to an app are used again only when nothing of an earlier request is on them, and the app has not closed them.

use std::time::Duration;

use rigbox_edge::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::{ask, get};
use crate::support::{HOST, NEVER_IDLE, World};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_upload_holds_up_no_other_visitor() {
    let (world, app) = World::scripted(Limits::default(), NEVER_IDLE, |_| OK.to_vec()).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(world.edge).await.unwrap();
        let head = format!("POST /slow HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The app answers before it has the body.
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        held.push(stream);
    }
    for number in 0..8 {
        let asked = tokio::time::timeout(Duration::from_secs(3), get(world.edge, "/other", &[])).await;
        assert_eq!(
            asked.map(|reply| reply.status).ok(),
            Some(200),
            "visitor {number} waits for a stranger's body"
        );
    }
    // Not even the rest of a body that looks like a request is one.
    for mut stream in held {
        let rest = format!("GET /smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n{:0>1000}", "");
        let _ = stream.write_all(&rest.as_bytes()[..1000]).await;
    }
    assert_eq!(get(world.edge, "/last", &[]).await.status, 200);
    let heads = app.heads.lock().unwrap();
    let slow: Vec<usize> =
        heads.iter().filter(|(_, head)| head.starts_with("POST /slow")).map(|(n, _)| *n).collect();
    let shared = heads
        .iter()
        .find(|(n, head)| slow.contains(n) && !head.contains(" /slow ") && !head.contains("/smuggled"));
    assert_eq!(shared, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn post_goes_on_a_connection_known_to_be_fresh() {
    // Between two requests this app waits 2 s, as gunicorn does.
    let (world, app) = World::scripted(Limits::default(), Duration::from_secs(2), |_| OK.to_vec()).await;
    for pause in [0, 1_600, 1_900, 2_000, 2_100] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        for path in ["/a", "/b", "/c"] {
            let reply = ask(world.edge, "POST", path, &[("content-length", "0")]).await;
            assert_eq!(reply.status, 200, "{pause} ms: {reply:?}");
        }
    }
    let heads = app.heads.lock().unwrap();
    assert_eq!(heads.len(), 15, "no request is made twice");
    let old = heads.chunks(3).map(|three| three[0].0).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(old.len(), 5, "after a pause the connection is new: {heads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_that_the_app_has_closed_is_not_used() {
    let (world, _) = World::scripted(Limits::default(), Duration::ZERO, |_| OK.to_vec()).await;
    for number in 0..60 {
        // Until the end of the app's side has arrived.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let method = if number % 2 == 0 { "POST" } else { "GET" };
        assert_eq!(ask(world.edge, method, "/", &[("content-length", "0")]).await.status, 200, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn get_is_sent_again_when_the_app_closes_its_connection() {
    // About when the next request arrives.
    let (world, _) = World::scripted(Limits::default(), Duration::from_millis(1), |_| OK.to_vec()).await;
    for number in 0..60 {
        assert_eq!(get(world.edge, "/", &[]).await.status, 200, "{number}");
    }
}
