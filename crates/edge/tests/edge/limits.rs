//! Slow and silent clients do not hold up the others.

use std::time::{Duration, Instant};

use rigbox_edge::Limits;
use rigbox_proto::gateway::Visibility;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_there_may_be_are_turned_away() {
    const MAX_CONNECTIONS: usize = 16;
    let limits = Limits { connections: MAX_CONNECTIONS, head: Duration::from_secs(60), ..Limits::default() };
    let world = World::with(limits).await;
    world.app(Visibility::Public);
    let mut held = Vec::new();
    // However the kernel spreads them over the workers: those that get a response are in.
    for number in 0..MAX_CONNECTIONS + 8 {
        let mut stream = TcpStream::connect(world.edge).await.unwrap();
        let _ = stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
        let answered = soon("a response or the end", stream.read_u8()).await;
        assert_eq!(answered.is_ok(), number < MAX_CONNECTIONS, "{number}");
        held.push(stream);
    }
    drop(held);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    eventually("there is room again", async || {
        raw(world.edge, request.as_bytes()).await.is_some_and(|reply| reply.status == 200)
    })
    .await;
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
