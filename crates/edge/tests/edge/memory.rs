//! Memory of edge after many connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rigbox_proto::gateway::Visibility;
use rigbox_testkit::in_own_process;

use crate::support::{HOST, World, eventually, skipped};

const CONNECTIONS: usize = 3_000;
/// Descriptors of both ends of the connections, and others.
const DESCRIPTORS: u64 = 2 * CONNECTIONS as u64 + 500;
/// Growth while the connections are open, at least. Each takes more than 16 KiB.
const MIN_GROWTH_KB: u64 = 32 << 10;
/// Growth that may stay: caches, and parts of pages.
const MAX_KEPT_KB: u64 = 16 << 10;

fn memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Opens many connections, each with a request that has been answered.
fn open_many(edge: SocketAddr) -> Vec<TcpStream> {
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let connect = |_| {
        let mut stream = TcpStream::connect(edge).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream
    };
    (0..CONNECTIONS).map(connect).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_many_connections_is_returned_when_they_close() {
    if !in_own_process("memory::memory_of_many_connections_is_returned_when_they_close") {
        return;
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if limit.is_some_and(|limit| limit < DESCRIPTORS) {
        skipped(&format!("a process may have {} descriptors only", limit.unwrap_or_default()));
        return;
    }
    let world = World::new().await;
    world.app(Visibility::Public);
    let before = memory_kb();
    let edge = world.edge;
    let held = tokio::task::spawn_blocking(move || open_many(edge)).await.unwrap();
    let during = memory_kb();
    assert!(during > before + MIN_GROWTH_KB, "{before} KiB before, {during} KiB while they are open");
    drop(held);
    let what = format!("the memory is returned: {before} KiB before, {during} KiB while they were open");
    eventually(&what, async || memory_kb() < before + MAX_KEPT_KB).await;
}
