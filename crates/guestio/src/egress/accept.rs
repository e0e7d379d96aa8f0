//! Accepting connections from a VM.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

/// Delay after a failed accept, for example without free descriptors.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Returns an accepted connection. After a failure it pauses instead: the listener is as good as before, and to give it up would take the
/// service from the VM.
pub(super) async fn accepted_or_pause(accepted: io::Result<(TcpStream, SocketAddr)>) -> Option<TcpStream> {
    match accepted {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::debug!(%error, "failed to accept a connection from a VM");
            tokio::time::sleep(RETRY_DELAY).await;
            None
        }
    }
}
