//! Responses of apps reach the client with one meaning.

use std::time::Duration;

use rigbox_edge::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::get;
use crate::support::{HOST, NEVER_IDLE, World, soon};

#[tokio::test(flavor = "multi_thread")]
async fn response_with_two_lengths_has_that_of_its_chunks() {
    let (world, app) = World::scripted(Limits::default(), NEVER_IDLE, |_| {
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
async fn body_that_starts_with_an_error_is_answered_in_words() {
    let (world, _) = World::scripted(Limits::default(), NEVER_IDLE, |_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n".to_vec()
    })
    .await;
    let reply = get(world.edge, "/", &[]).await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "app_failed"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_required_says_to_what() {
    let (world, _) = World::scripted(Limits::default(), NEVER_IDLE, |_| {
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n".to_vec()
    })
    .await;
    let reply = get(world.edge, "/", &[]).await;
    assert_eq!((reply.status, reply.header("upgrade")), (426, "websocket"), "{reply:?}");
    assert!(reply.all("connection").iter().any(|value| value.contains("upgrade")), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_headers_of_an_app_pass() {
    let (world, _) = World::scripted(Limits::default(), NEVER_IDLE, |_| {
        let cookies: String = (0..200).map(|number| format!("Set-Cookie: c{number}=x\r\n")).collect();
        format!("HTTP/1.1 200 OK\r\n{cookies}Content-Length: 0\r\n\r\n").into_bytes()
    })
    .await;
    let reply = get(world.edge, "/", &[]).await;
    assert_eq!((reply.status, reply.all("set-cookie").len()), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn request_behind_an_upgrade_that_is_not_taken_is_answered() {
    let (world, _) = World::scripted(Limits::default(), NEVER_IDLE, |head| {
        assert!(!head.contains("h2c"), "{head}");
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    })
    .await;
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for upgrade in [websocket, "Connection: Upgrade\r\nUpgrade: h2c\r\n"] {
        let mut stream = TcpStream::connect(world.edge).await.unwrap();
        let one = format!("GET /one HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}\r\n");
        let both = format!("{one}{one}GET /two HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        stream.write_all(both.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon("three responses", stream.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{upgrade}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_has_said_all_gets_its_response() {
    let (world, _) = World::scripted(Limits::default(), NEVER_IDLE, |_| {
        // A slow app: the client's side has ended long before this response.
        std::thread::sleep(Duration::from_millis(500));
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    })
    .await;
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), 200),
        (format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nab"), 200),
        (format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nbad\r\n\r\n"), 400),
    ] {
        let mut stream = TcpStream::connect(world.edge).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        soon("the response and the end", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
}
