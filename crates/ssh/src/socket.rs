//! Sockets of the gateway: the one that listens, and options of those to clients and VMs.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::TcpStream;

/// Length of the queue of connections to be accepted.
const BACKLOG: i32 = 4096;
/// Idle time after which a connection is probed, so that one whose peer is gone ends.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Interval of probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Opens a listening socket.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Prepares a connection for keystrokes, and for a peer that vanishes.
pub(crate) fn prepare(stream: &TcpStream) {
    // Without them the connection works, but less well.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL);
}
