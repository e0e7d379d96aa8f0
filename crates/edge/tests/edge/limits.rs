//! Slow and silent clients do not hold up the others.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rigbox_edge::Limits;
use rigbox_proto::gateway::Visibility;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::http::{get, raw};
use crate::support::{HOST, World, backend, eventually, soon};
use rigbox_testkit::gateway::shown;

async fn public(limits: Limits) -> World {
    let world = World::with(limits).await;
    world.app(Visibility::Public);
    assert_eq!(get(world.edge, "/", &[]).await.status, 200);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_head_times_out() {
    let limits = Limits { head: Duration::from_secs(1), ..Limits::default() };
    let world = public(limits).await;
    for start in ["", "G", "PRI * HTTP/2", "GET / HTTP/1.1\r\nHost: web.rigbox.localhost\r\nX: "] {
        let (mut read, mut write) = TcpStream::connect(world.edge).await.unwrap().into_split();
        write.write_all(start.as_bytes()).await.unwrap();
        let began = Instant::now();
        let drops = tokio::spawn(async move {
            while write.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let mut answer = Vec::new();
        let _ = soon("the connection is closed", read.read_to_end(&mut answer)).await;
        drops.abort();
        assert!(began.elapsed() < Duration::from_secs(4), "{start:?}");
        // A client may be told what is wrong from its first byte.
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{start:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_idle_connection_times_out() {
    let limits = Limits { keep_alive: Duration::from_millis(500), ..Limits::default() };
    let world = public(limits).await;
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    stream.write_all(format!("GET /sse HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let began = Instant::now();
    let mut room = [0; 4096];
    while began.elapsed() < Duration::from_secs(2) {
        assert!(soon("the stream", stream.read(&mut room)).await.unwrap() > 0, "closed midway");
    }
    drop(stream);
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("it is closed", stream.read_to_end(&mut answer)).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unresponsive_app_times_out() {
    let limits = Limits { response: Duration::from_secs(1), ..Limits::default() };
    let world = public(limits).await;
    let reply = get(world.edge, "/hang", &[]).await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "app_timeout"));
    for (says, status) in [
        (&b"SSH-2.0-OpenSSH\r\n"[..], 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 502),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502),
        (b"", 502),
    ] {
        let address = backend::saying(says).await;
        world.node.listens(crate::support::WORKSPACE, crate::support::BOOT, crate::support::PORT, address);
        world.gateway.workspace_changed().await;
        let reply = get(world.edge, "/", &[]).await;
        assert!(reply.status == status || (says.is_empty() && reply.status == 504), "{says:?} {reply:?}");
    }
}

/// Timeouts longer than a test: only giving way frees a place.
fn full_at(connections: usize) -> Limits {
    let long = Duration::from_secs(600);
    Limits { connections, head: long, keep_alive: long, ..Limits::default() }
}

/// Connects and sends this. What has given way already takes no more.
async fn send(world: &World, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    let _ = stream.write_all(text.as_bytes()).await;
    stream
}

/// Makes a request on an open connection and reads its small response. Returns whether there was one.
async fn answers(stream: &mut TcpStream, text: &str) -> bool {
    let mut room = [0; 4096];
    stream.write_all(text.as_bytes()).await.is_ok()
        && soon("a response", stream.read(&mut room))
            .await
            .is_ok_and(|count| room[..count].starts_with(b"HTTP/1.1 200"))
}

/// Reads to the end of a connection.
async fn ends(stream: &mut TcpStream) {
    let _ = soon("the connection is closed", stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_idle_longest_gives_way_to_a_new_one() {
    let world = World::with_one_worker(full_at(4)).await;
    world.app(Visibility::Public);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let (start, rest) = request.split_at(request.len() - 4);
    let mut stream = send(&world, &format!("GET /sse HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    soon("the stream", stream.read_u8()).await.unwrap();
    let mut kept = send(&world, "").await;
    assert!(answers(&mut kept, &request).await);
    let (mut silent, mut slow) = (send(&world, "").await, send(&world, start).await);
    // A request restarts the wait: now the silent one has waited longest, then the slow one.
    assert!(answers(&mut kept, &request).await);
    let mut first = send(&world, "").await;
    assert!(answers(&mut first, &request).await);
    ends(&mut silent).await;
    assert!(answers(&mut slow, rest).await);
    let mut second = send(&world, "").await;
    assert!(answers(&mut second, &request).await);
    ends(&mut kept).await;
    for open in [&mut first, &mut second, &mut slow] {
        assert!(answers(open, &request).await);
    }
    // What is being served goes on.
    for _ in 0..2_000 {
        soon("the stream", stream.read_u8()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_serve_requests_never_give_way() {
    let world = World::with(full_at(3)).await;
    world.app(Visibility::Public);
    let mut stream = send(&world, &format!("GET /sse HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    soon("the stream", stream.read_u8()).await.unwrap();
    let upload = format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\n1");
    let mut upload = send(&world, &upload).await;
    eventually("the upload arrives", async || world.backend.seen.uploaded.load(Ordering::SeqCst) == 1).await;
    let url = format!("ws://{HOST}:7080/ws");
    let socket = TcpStream::connect(world.edge).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(url, socket).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for _ in 0..8 {
        ends(&mut send(&world, &request).await).await;
    }
    soon("the stream", stream.read_u8()).await.unwrap();
    assert!(answers(&mut upload, "2").await);
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(soon("an echo", socket.next()).await.unwrap().unwrap(), Message::text("hello"));
    // The upload has ended, and its connection is idle.
    assert!(answers(&mut send(&world, "").await, &request).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_idle_connections_keeps_nobody_out() {
    const MAX_CONNECTIONS: usize = 16;
    let world = World::with(full_at(MAX_CONNECTIONS)).await;
    world.app(Visibility::Public);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let whole = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let starts = ["", "GET / HT", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &request];
    let mut held = Vec::new();
    for start in starts.iter().cycle().take(8 * MAX_CONNECTIONS) {
        held.push(send(&world, start).await);
        let reply = raw(world.edge, whole.as_bytes()).await;
        assert!(reply.is_some_and(|reply| reply.status == 200), "after {} connections", held.len());
    }
}

/// Sends a request from the loopback address with this last byte. Returns the connection and the start of the response, or `None` if the
/// connection was turned away.
async fn request_from(world: &World, last: u8, headers: &str) -> Option<(TcpStream, String)> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((std::net::Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    let mut stream = socket.connect(world.edge).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    let mut start = vec![0; 12];
    soon("a response or the end", stream.read_exact(&mut start)).await.ok()?;
    Some((stream, String::from_utf8(start).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_leaves_connections_to_others() {
    let limits = Limits { connections: 16, connections_per_address: 4, ..Limits::default() };
    let world = World::with(limits).await;
    world.app(Visibility::Public);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(request_from(&world, 2, "").await.expect("within the share"));
    }
    assert!(request_from(&world, 2, "").await.is_none());
    assert_eq!(request_from(&world, 3, "").await.unwrap().1, "HTTP/1.1 200");
    drop(held);
    eventually("there is room again", async || request_from(&world, 2, "").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_guesses_credentials_is_refused_and_others_are_not() {
    let world = World::with(Limits::default()).await;
    let guess = async |last: u8, number: u32| {
        let key = format!("X-Rigbox-Key: {}\r\n", shown("key", &format!("nobody{number}")));
        request_from(&world, last, &key).await.unwrap().1
    };
    let mut guesses = 0;
    while guess(2, guesses).await == "HTTP/1.1 403" {
        guesses += 1;
        assert!(guesses < 1_000, "guesses are not limited");
    }
    assert!(guesses >= 200, "{guesses}");
    assert_eq!(guess(2, guesses + 1).await, "HTTP/1.1 429");
    assert_eq!(guess(3, guesses + 2).await, "HTTP/1.1 403");
    // What is not a guess goes on.
    assert_eq!(request_from(&world, 2, "").await.unwrap().1, "HTTP/1.1 403");
}
