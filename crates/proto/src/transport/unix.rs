//! gRPC over unix sockets between the roles of one machine. Access is decided by the peer's uid as reported by the kernel
//! (`SO_PEERCRED`), not by the file's mode.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tonic::transport::{Endpoint, Uri};

use super::client::{self, Channel};
use crate::guest_stream;

/// Listens at `path` and yields the connections of processes whose uid is in `allowed_uids`. Others are closed at once. Replaces a
/// stale socket file.
///
/// # Errors
/// As bind(2). The path of a socket is at most 107 bytes long.
pub fn listen(
    path: &Path,
    allowed_uids: Vec<u32>,
) -> io::Result<impl Stream<Item = io::Result<UnixStream>> + Send + use<>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(UnixListenerStream::new(listener).filter(move |connection| match connection {
        Ok(connection) => connection.peer_cred().is_ok_and(|peer| allowed_uids.contains(&peer.uid())),
        Err(_) => true,
    }))
}

/// Returns a channel to the role that listens at `path`. It connects on first use and reconnects after that role restarts.
pub fn channel(path: &Path) -> Channel {
    channel_with(path, &endpoint())
}

/// Returns a channel to the role that listens at `path`, with settings of its own.
#[expect(clippy::disallowed_methods, reason = "filtered here")]
pub fn channel_with(path: &Path, endpoint: &Endpoint) -> Channel {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    client::filtered(endpoint.connect_with_connector_lazy(connector))
}

/// Returns the settings of every HTTP/2 connection between roles, and to a guest. The address is never resolved.
pub fn endpoint() -> Endpoint {
    Endpoint::from_static("http://role.invalid")
        .initial_stream_window_size(guest_stream::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(guest_stream::CONNECTION_WINDOW_BYTES)
}
