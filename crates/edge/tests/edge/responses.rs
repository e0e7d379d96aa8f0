//! What an app answers reaches the client with one meaning.

use std::time::Duration;

use rigbox_edge::Limits;

use crate::support::World;
use crate::support::http::get;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn response_with_two_lengths_has_that_of_its_chunks() {
    let (world, app) = World::scripted(Limits::default(), LONG, |_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            .to_vec()
    })
    .await;
    for _ in 0..3 {
        let reply = get(world.edge, "/", &[]).await;
        assert_eq!((reply.status, reply.header("content-length")), (200, ""), "{reply:?}");
        assert!(reply.body.contains("hello"), "{reply:?}");
    }
    let connections: Vec<usize> = app.heads.lock().unwrap().iter().map(|(number, _)| *number).collect();
    assert_eq!(connections, [1, 2, 3], "the connection is not used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_required_says_to_what() {
    let (world, _) = World::scripted(Limits::default(), LONG, |_| {
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n".to_vec()
    })
    .await;
    let reply = get(world.edge, "/", &[]).await;
    assert_eq!((reply.status, reply.header("upgrade")), (426, "websocket"), "{reply:?}");
    assert!(reply.all("connection").iter().any(|value| value.contains("upgrade")), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_headers_of_an_app_pass() {
    let (world, _) = World::scripted(Limits::default(), LONG, |_| {
        let cookies: String = (0..200).map(|number| format!("Set-Cookie: c{number}=x\r\n")).collect();
        format!("HTTP/1.1 200 OK\r\n{cookies}Content-Length: 0\r\n\r\n").into_bytes()
    })
    .await;
    let reply = get(world.edge, "/", &[]).await;
    assert_eq!((reply.status, reply.all("set-cookie").len()), (200, 200));
}
