//! `SOCK_SEQPACKET` sockets on which the node hands out descriptors. Each is for one role, which is identified by its uid.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rigbox_sys::fdpass;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::error::Error;

/// Listens at `path` on a thread of its own and passes each connection of a process of `uid` to `serve`. Connections of other users are
/// closed at once.
pub(super) fn listen(
    path: &Path,
    uid: u32,
    thread_name: &str,
    serve: impl Fn(OwnedFd) + Send + 'static,
) -> Result<(), Error> {
    fdpass::serve(path, uid, thread_name, serve).map_err(Error::at("listen at", path))
}

/// Sets a timeout on a peer, so that one that stalls in the middle of an exchange does not block the node.
pub(super) fn set_timeout(peer: &OwnedFd, direction: Timeout, timeout: Duration) -> std::io::Result<()> {
    Ok(set_socket_timeout(peer, direction, Some(timeout))?)
}
