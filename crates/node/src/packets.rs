//! Packet sockets (`SOCK_SEQPACKET`) on which the node hands out descriptors: one role each, known by its uid.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rigbox_sys::fdpass;
use rustix::net::SocketFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};

use crate::error::Error;

/// Listens at `path` on a thread of its own, and gives each connection of a process of `uid` to `serve`; others are closed at once.
pub(crate) fn listen(
    path: &Path,
    uid: u32,
    name: &str,
    serve: impl Fn(OwnedFd) + Send + 'static,
) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::at("cannot be removed", path)(error));
        }
        _ => {}
    }
    let listener = fdpass::listen_at(path).map_err(Error::at("cannot listen", path))?;
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(path, everyone).map_err(Error::at("cannot be opened to its peer", path))?;
    let accept = move || {
        loop {
            let Ok(peer) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) else {
                // Out of descriptors, perhaps: they come back.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            if socket_peercred(&peer).is_ok_and(|cred| cred.uid.as_raw() == uid) {
                serve(peer);
            }
        }
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(accept);
    thread.map(drop).map_err(Error::system("a thread for descriptors"))
}

/// How long the node waits for a peer that is in the middle of something: one that does not go on must not stop it.
pub(crate) fn limit(peer: &OwnedFd, what: Timeout, limit: Duration) -> std::io::Result<()> {
    Ok(set_socket_timeout(peer, what, Some(limit))?)
}
