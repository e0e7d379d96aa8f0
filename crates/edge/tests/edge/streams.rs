//! Bodies of any length flow in both directions, and end with their permission.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use rigbox_edge::Limits;
use rigbox_proto::gateway::{AppState, Visibility};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::get;
use crate::support::{BOOT, HOST, OWNER, PORT, WORKSPACE, World, eventually, route, soon};
use rigbox_testkit::gateway::{shown, user};

/// Opens a stream of events.
async fn stream(world: &World, headers: &str) -> TcpStream {
    let before = world.backend.seen.open.load(Ordering::SeqCst);
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    let request = format!("GET /sse HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut room = [0; 1024];
    let mut text = String::new();
    while text.matches("data: tick").count() < 2 {
        let count = soon("events as they come", stream.read(&mut room)).await.unwrap();
        assert!(count > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&room[..count]));
    }
    assert!(world.backend.seen.open.load(Ordering::SeqCst) > before);
    stream
}

async fn ends(mut stream: TcpStream, world: &World) {
    let mut rest = Vec::new();
    let _ = soon("the stream ends", stream.read_to_end(&mut rest)).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it ends like one that was cut off");
    eventually("the app's side ends", async || world.backend.seen.open.load(Ordering::SeqCst) == 0).await;
}

async fn goes_on(stream: &mut TcpStream) {
    // More than what may have been in flight.
    let mut room = [0; 64];
    for _ in 0..20 {
        assert!(soon("the stream goes on", stream.read(&mut room)).await.unwrap() > 0);
    }
}

fn by_key(name: &str) -> String {
    format!("x-rigbox-key: {}\r\n", shown("key", name))
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_ends_when_its_visibility_does_and_others_go_on() {
    let world = World::new().await;
    world.app(Visibility::Privileged);
    let friends = stream(&world, &by_key("friend")).await;
    let mut owners = stream(&world, &by_key("owner")).await;
    world.app(Visibility::Private);
    world.gateway.workspace_changed().await;
    let mut rest = Vec::new();
    let mut friends = friends;
    let _ = soon("the friend's stream ends", friends.read_to_end(&mut rest)).await;
    goes_on(&mut owners).await;
    world.app(Visibility::Public);
    world.gateway.workspace_changed().await;
    goes_on(&mut owners).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_stream_ends_when_the_app_stops_being_public() {
    let world = World::new().await;
    world.app(Visibility::Public);
    let open = stream(&world, "").await;
    world.app(Visibility::Private);
    world.gateway.workspace_changed().await;
    ends(open, &world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_ends_when_its_key_is_revoked() {
    let world = World::new().await;
    let open = stream(&world, &by_key("owner")).await;
    world.gateway.table().identities.remove(&shown("key", "owner"));
    world.gateway.grants_changed().await;
    ends(open, &world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_ends_when_its_key_expires() {
    let world = World::new().await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64;
    let mut short = user(OWNER, "owner");
    short.expires_unix_ms = now + 2_000;
    let key = shown("key", "owner");
    world.gateway.table().identities.insert(key.clone(), short);
    let open = stream(&world, &by_key("owner")).await;
    // Control's response once access was revoked, without a notification.
    world.gateway.table().identities.remove(&key);
    ends(open, &world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_boot_is_another_machine() {
    let world = World::new().await;
    let open = stream(&world, &by_key("owner")).await;
    let mut next = route(Visibility::Private);
    next.boot_id = "boot-2".to_owned();
    world.gateway.set_route(HOST, Some(next));
    world.node.forget();
    world.node.listens(WORKSPACE, "boot-2", PORT, world.backend.address);
    world.gateway.workspace_changed().await;
    ends(open, &world).await;
    let key = shown("key", "owner");
    assert_eq!(get(world.edge, "/", &[("x-rigbox-key", &key)]).await.status, 200);
    let dialled = world.node.dialled.lock().unwrap().last().cloned().unwrap();
    assert_eq!(dialled.boot_id, "boot-2");
    assert_ne!(dialled.boot_id, BOOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_ends_with_its_workspace() {
    let world = World::new().await;
    let open = stream(&world, &by_key("owner")).await;
    let mut down = route(Visibility::Private);
    (down.state, down.boot_id) = (AppState::WorkspaceNotRunning.into(), String::new());
    world.gateway.set_route(HOST, Some(down));
    world.gateway.workspace_changed().await;
    ends(open, &world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_from_control_nothing_goes_on() {
    let limits = Limits { control: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(limits).await;
    let open = stream(&world, &by_key("owner")).await;
    let key = shown("key", "owner");
    let headers = [("x-rigbox-key", key.as_str())];
    world.gateway.fall_silent();
    ends(open, &world).await;
    let before = world.backend.requests();
    let reply = get(world.edge, "/", &headers).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "control_unavailable"));
    assert_eq!((reply.header("retry-after"), world.backend.requests()), ("5", before));
    // What changed meanwhile takes effect with the first request.
    world.gateway.table().identities.remove(&key);
    world.gateway.speak();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let reply = get(world.edge, "/", &headers).await;
        assert_ne!(reply.status, 200);
        if reply.status == 403 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "control responds again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn word_that_took_longer_than_a_lease_counts_for_nothing() {
    let limits = Limits { control: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(limits).await;
    let open = stream(&world, &by_key("owner")).await;
    world.gateway.delay(Duration::from_secs(60));
    ends(open, &world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_response_waits_for_its_reader() {
    let world = World::new().await;
    world.app(Visibility::Public);
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    let request = format!("GET /big HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // Until nothing moves anymore.
    let sent = || world.backend.seen.uploaded.load(Ordering::SeqCst);
    let before = std::cell::Cell::new(u64::MAX);
    eventually("nothing moves anymore", || async {
        before.set(sent());
        tokio::time::sleep(Duration::from_millis(300)).await;
        before.get() > 0 && sent() == before.get()
    })
    .await;
    let before = before.get();
    assert!(before < 32 * 1024 * 1024, "{before} bytes are in flight to no one");
    let mut count = 0;
    let mut room = vec![0; 256 * 1024];
    loop {
        let read = soon("the rest", stream.read(&mut room)).await.unwrap();
        if read == 0 {
            break;
        }
        count += read;
    }
    assert!(count > 1024 * 64 * 1024, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_upload_is_complete_with_and_without_a_length() {
    let world = World::new().await;
    world.app(Visibility::Public);
    const SIZE: usize = 32 * 1024 * 1024;
    let body = vec![b'x'; 1024 * 1024];
    for chunked in [false, true] {
        world.backend.seen.uploaded.store(0, Ordering::SeqCst);
        let mut stream = TcpStream::connect(world.edge).await.unwrap();
        let framing =
            if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {SIZE}") };
        let head = format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..SIZE / body.len() {
            if chunked {
                stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await.unwrap();
            }
            soon("the upload", stream.write_all(&body)).await.unwrap();
            if chunked {
                stream.write_all(b"\r\n").await.unwrap();
            }
        }
        if chunked {
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
        let mut answer = String::new();
        soon("the response", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.ends_with(&SIZE.to_string()), "chunked {chunked}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_an_app_are_used_again() {
    let world = World::new().await;
    world.app(Visibility::Public);
    for _ in 0..40 {
        assert_eq!(get(world.edge, "/", &[]).await.status, 200);
    }
    let connections = world.backend.seen.connections.load(Ordering::SeqCst);
    assert!(connections <= 4, "{connections}");
}
