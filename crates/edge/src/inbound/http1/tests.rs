//! Tests of the reader as a stream.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::FutureExt;
use rigbox_gateway::clock::Clock;
use rigbox_gateway::connections::{ConnectionGuard, ConnectionTimeouts, Connections};
use rigbox_shares::{AddressBlock, Bounds};
use rigbox_testkit::Pieces;
use tokio::io::AsyncReadExt;

use super::*;

/// Returns the slot of a client's connection.
pub(super) fn client() -> ConnectionGuard {
    let timeouts = ConnectionTimeouts { head: Duration::from_secs(60), keep_alive: Duration::from_secs(60) };
    let bounds = Bounds { total: 1, per_key: 1 };
    let address = AddressBlock::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)));
    let connections = Connections::new(Clock::new(), timeouts, bounds);
    // There is a free place, so nothing is waited for.
    connections.open(address).now_or_never().unwrap().unwrap()
}

#[tokio::test]
async fn too_large_head_is_refused_in_one_read_as_in_many() {
    for (fields, passes) in [(1, true), (60, true), (70, false)] {
        let field = format!("X: {}\r\n", "x".repeat(1000));
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", field.repeat(fields));
        for stream in [Pieces::whole(head.as_bytes()), Pieces::split(head.as_bytes())] {
            let client = client();
            let mut guard = Guard::new(stream, &[], Arc::default(), Arc::clone(client.connection()));
            let mut read = vec![0; 2 * MAX_HEAD_BYTES];
            let length = guard.read(&mut read).await.unwrap();
            assert_eq!(&read[..length] == head.as_bytes(), passes, "{fields} fields");
            assert_eq!(String::from_utf8_lossy(&read[..length]).contains(MALFORMED), !passes);
        }
    }
}
