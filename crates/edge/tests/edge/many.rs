//! Ten thousand idle WebSockets. They arrive over HTTP/2, and their server is a process of its own, so that
//! no process needs more than some ten thousand descriptors.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use futures_util::stream::{self, FuturesUnordered};
use futures_util::{SinkExt, StreamExt};
use rigbox_proto::gateway::Visibility;
use tokio_tungstenite::tungstenite::Message;

use crate::clients::FOLDER;
use crate::support::http2::{Client, Socket};
use crate::support::{BOOT, PORT, WORKSPACE, World, eventually, http, http2, skipped, soon};
use rigbox_testkit::gateway::shown;

const MANY: usize = 10_000;
/// Descriptors beside those of the WebSockets.
const DESCRIPTORS: u64 = 1_000;
/// WebSockets per connection; edge allows 128.
const OF_ONE: usize = 125;
const CONCURRENCY: usize = 64;

/// The app, which ends when this is dropped.
struct App {
    process: Child,
    address: SocketAddr,
}

impl App {
    fn start(folder: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/edge/clients/server.py");
        let mut command = Command::new(folder.join("venv/bin/python"));
        let mut process = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { process, address: SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap())) }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

async fn open(mut client: Client, key: String) -> Socket {
    http2::websocket(http2::ask_websocket(&mut client, "/", &[("x-rigbox-key", &key)]).await).await
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_websockets_are_kept_and_all_end_with_what_allowed_them() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        skipped(&format!("{FOLDER} is not set"));
        return;
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if limit.is_some_and(|limit| limit < MANY as u64 + DESCRIPTORS) {
        skipped(&format!("a process may have {} descriptors only", limit.unwrap_or_default()));
        return;
    }
    let app = App::start(&folder);
    let world = World::new().await;
    world.node.listens(WORKSPACE, BOOT, PORT, app.address);
    world.app(Visibility::Privileged);
    let before = descriptors();

    let began = Instant::now();
    let friend = shown("key", "friend");
    let clients: Vec<Client> =
        stream::iter(0..MANY / OF_ONE).then(|_| http2::connect_for_websockets(world.edge)).collect().await;
    let opening = clients.iter().flat_map(|client| std::iter::repeat_n(client, OF_ONE));
    let mut sockets: Vec<Socket> = stream::iter(opening.cloned().map(|client| open(client, friend.clone())))
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    assert_eq!(sockets.len(), MANY);
    eprintln!("{MANY} were opened in {:?}", began.elapsed());

    // Others are served as ever, and each WebSocket still works.
    let key = [("x-rigbox-key", friend.as_str())];
    assert_eq!(soon("a page", http::get(world.edge, "/", &key)).await.status, 426);
    for socket in sockets.iter_mut().step_by(100) {
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(soon("an echo", socket.next()).await.unwrap().unwrap(), Message::text("hello"));
    }

    let began = Instant::now();
    world.app(Visibility::Private);
    world.gateway.workspace_changed().await;
    let mut ends: FuturesUnordered<_> = sockets.iter_mut().map(StreamExt::next).collect();
    while let Some(end) = soon("an end", ends.next()).await {
        assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    }
    drop(ends);
    eprintln!("{MANY} were ended in {:?}", began.elapsed());
    assert_eq!(soon("a page", http::get(world.edge, "/", &key)).await.status, 403);
    drop((sockets, clients));
    eventually("the descriptors are free", async || descriptors() < before + 100).await;
}
