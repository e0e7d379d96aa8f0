//! Addresses of the servers, in the benchmark's own network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Fake provider behind all proxies.
pub(super) const PROVIDER: SocketAddr = at(8001);
/// API of control.
pub(super) const CONTROL: SocketAddr = at(7070);
/// Node of the benchmark: connections of VMs to their bridge.
pub(super) const NODE: SocketAddr = at(9090);
/// nginx with buffers, for calls.
pub(super) const NGINX: SocketAddr = at(8081);
/// nginx without buffers, for streams.
pub(super) const NGINX_STREAMS: SocketAddr = at(8082);
pub(super) const LITELLM: SocketAddr = at(4000);

const fn at(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
