//! WebSockets: only from the app's own pages, in both directions, until their permission ends.

use std::sync::atomic::Ordering;

use futures_util::{SinkExt, StreamExt};
use rigbox_proto::gateway::Visibility;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{HOST, ORIGIN, SIBLING, World, eventually, http2, soon};
use rigbox_testkit::gateway::shown;

type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket. Returns the status if it is refused.
async fn open(world: &World, headers: &[(&'static str, &str)]) -> Result<Socket, u16> {
    let mut request = format!("ws://{HOST}:7080/ws").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(world.edge).await.unwrap();
    match soon("a WebSocket", tokio_tungstenite::client_async(request, stream)).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn echoes(socket: &mut Socket) {
    for message in [Message::text("hello"), Message::binary(vec![1; 300_000])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(soon("an echo", socket.next()).await.unwrap().unwrap(), message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_is_opened_by_the_apps_own_pages_only() {
    let world = World::new().await;
    let cookie = format!("rigbox_app={}", shown("cookie", "owner"));
    let key = shown("key", "owner");
    for (headers, refused) in [
        (vec![("cookie", cookie.as_str()), ("origin", ORIGIN)], None),
        (vec![("cookie", cookie.as_str()), ("origin", SIBLING)], Some(403)),
        (vec![("cookie", cookie.as_str())], Some(403)),
        (vec![("cookie", cookie.as_str()), ("sec-fetch-site", "same-origin")], Some(403)),
        (vec![("origin", ORIGIN)], Some(403)),
        (vec![("x-rigbox-key", key.as_str())], None),
    ] {
        let requests = world.backend.requests();
        match open(&world, &headers).await {
            Ok(mut socket) => {
                assert_eq!(refused, None, "{headers:?}");
                echoes(&mut socket).await;
            }
            Err(status) => {
                assert_eq!(Some(status), refused, "{headers:?}");
                assert_eq!(world.backend.requests(), requests);
            }
        }
    }
    assert!(!world.backend.take().contains(&shown("cookie", "owner")));
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_ends_with_its_grant() {
    let world = World::new().await;
    world.app(Visibility::Privileged);
    let (owner, friend) = (shown("key", "owner"), shown("key", "friend"));
    let mut owners = open(&world, &[("x-rigbox-key", &owner)]).await.unwrap();
    let mut friends = open(&world, &[("x-rigbox-key", &friend)]).await.unwrap();
    echoes(&mut owners).await;
    echoes(&mut friends).await;
    world.app(Visibility::Private);
    world.gateway.workspace_changed().await;
    assert!(!matches!(soon("the friend's ends", friends.next()).await, Some(Ok(_))));
    echoes(&mut owners).await;
    world.gateway.table().identities.remove(&owner);
    world.gateway.grants_changed().await;
    assert!(!matches!(soon("the owner's ends", owners.next()).await, Some(Ok(_))));
    eventually("the app's sides end", async || world.backend.seen.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_ends_when_either_side_closes() {
    let world = World::new().await;
    world.app(Visibility::Public);
    let mut socket = open(&world, &[]).await.unwrap();
    echoes(&mut socket).await;
    socket.close(None).await.unwrap();
    drop(socket);
    eventually("the app's side ends", async || world.backend.seen.open.load(Ordering::SeqCst) == 0).await;
    // A client that goes without a word has gone all the same.
    let silent = open(&world, &[]).await.unwrap();
    eventually("the app's side opens", async || world.backend.seen.open.load(Ordering::SeqCst) == 1).await;
    drop(silent);
    eventually("the app's side ends", async || world.backend.seen.open.load(Ordering::SeqCst) == 0).await;
    // What an app responds instead passes through.
    let reply = crate::support::http::get(
        world.edge,
        "/other",
        &[
            ("connection", "upgrade, close"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ],
    )
    .await;
    assert!(reply.status == 200 && reply.body.contains("upgrade: websocket"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_is_opened_over_http2() {
    let world = World::new().await;
    let mut client = http2::connect_for_websockets(world.edge).await;
    let cookie = format!("a=b; rigbox_app={}", shown("cookie", "owner"));
    let mut ask = async |origin| {
        http2::ask_websocket(&mut client, "/ws", &[("cookie", &cookie), ("origin", origin)]).await
    };
    assert_eq!(ask(SIBLING).await.status().as_u16(), 403);
    let response = ask(ORIGIN).await;
    assert!(response.headers().get("sec-websocket-accept").is_none());
    let mut socket = http2::websocket(response).await;
    for message in [Message::text("hello"), Message::binary(vec![1; 300_000])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(soon("an echo", socket.next()).await.unwrap().unwrap(), message);
    }
    world.gateway.table().identities.remove(&shown("cookie", "owner"));
    world.gateway.grants_changed().await;
    assert!(!matches!(soon("it ends", socket.next()).await, Some(Ok(_))));
    let got = world.backend.take();
    assert!(got.contains("cookie: a=b\r\n") && !got.contains("session-of-owner"), "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_workspace_leaves_websockets_to_others() {
    let limits = rigbox_edge::Limits { websockets_per_workspace: 2, ..rigbox_edge::Limits::default() };
    let world = World::with(limits).await;
    world.app(Visibility::Public);
    let mut held = vec![open(&world, &[]).await.unwrap(), open(&world, &[]).await.unwrap()];
    assert_eq!(open(&world, &[]).await.unwrap_err(), 503);
    soon("the end", held.pop().unwrap().close(None)).await.unwrap();
    eventually("there is room again", async || open(&world, &[]).await.is_ok()).await;
}
