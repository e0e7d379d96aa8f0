//! gRPC on unix sockets between the roles of one machine. Who may connect is decided by the peer's uid as the kernel tells it
//! (`SO_PEERCRED`), not by the file's mode.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::stream;

/// Listens at `path` (replacing what a dead process left there) and yields the connections of processes whose uid is in `allowed`;
/// others are closed at once.
///
/// # Errors
/// As bind(2); a socket's path is at most 107 bytes long.
pub fn listen(
    path: &Path,
    allowed: Vec<u32>,
) -> io::Result<impl Stream<Item = io::Result<UnixStream>> + Send + use<>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(UnixListenerStream::new(listener).filter(move |connection| match connection {
        Ok(connection) => connection.peer_cred().is_ok_and(|peer| allowed.contains(&peer.uid())),
        Err(_) => true,
    }))
}

/// A channel to the role that listens at `path`: connects when first used, and anew after that role was restarted.
pub fn channel(path: &Path) -> Channel {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    endpoint().connect_with_connector_lazy(connector)
}

/// Settings of every HTTP/2 connection between roles, and to a guest. The address is never looked up.
pub fn endpoint() -> Endpoint {
    Endpoint::from_static("http://role.invalid")
        .initial_stream_window_size(stream::WINDOW)
        .initial_connection_window_size(stream::CONNECTION_WINDOW)
}
