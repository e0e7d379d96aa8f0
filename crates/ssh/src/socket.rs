//! Sockets of the gateway: the one that listens, and options of those to clients and VMs.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// Delay after a failure to accept, e.g. for lack of descriptors.
pub(crate) const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// Length of the queue of connections to be accepted.
const BACKLOG: i32 = 4096;
/// Idle time after which a connection is probed, so that one whose peer is gone ends.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Interval of probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Opens a listening socket.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    // Again, for a longer queue than that of the library.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Prepares a connection for keystrokes, and for a peer that vanishes.
pub(crate) fn prepare(stream: &TcpStream) {
    // Without them the connection works, but less well.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL);
}
