//! Packet sockets (`SOCK_SEQPACKET`) on which the node hands out descriptors: one role each, known by its uid.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rigbox_sys::fdpass;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::error::Error;

/// Listens at `path` on a thread of its own, and gives each connection of a process of `uid` to `serve`; others are closed at once.
pub(crate) fn listen(
    path: &Path,
    uid: u32,
    name: &str,
    serve: impl Fn(OwnedFd) + Send + 'static,
) -> Result<(), Error> {
    fdpass::serve(path, uid, name, serve).map_err(Error::at("cannot listen", path))
}

/// How long the node waits for a peer that is in the middle of something: one that does not go on must not stop it.
pub(crate) fn limit(peer: &OwnedFd, what: Timeout, limit: Duration) -> std::io::Result<()> {
    Ok(set_socket_timeout(peer, what, Some(limit))?)
}
