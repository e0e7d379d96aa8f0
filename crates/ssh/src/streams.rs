//! Connections that control passes on, of clients that reach the API alone: SSH within a WebSocket. Each begins with the client's address,
//! and is from then on like one from the network: only the key that logs in counts.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rigbox_shares::AddressBlock;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};

use crate::session;
use crate::socket::ACCEPT_RETRY_DELAY;
use crate::state::Gateway;

/// Time in which control tells the client's address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// Binds the socket for control, which is `owner`'s alone.
pub(crate) fn bind(path: &Path, owner: u32) -> io::Result<StdListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(path, Some(owner), Some(owner))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts connections for as long as it is polled.
pub(crate) async fn accept(gateway: &Arc<Gateway>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let gateway = Arc::clone(gateway);
                tokio::spawn(async move {
                    if let Err(error) = serve(&gateway, stream).await {
                        tracing::warn!(%error, "control passed on a connection without an address");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection from control");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

async fn serve(gateway: &Arc<Gateway>, mut stream: UnixStream) -> io::Result<()> {
    let mut address = [0; 16];
    tokio::time::timeout(ADDRESS_TIMEOUT, stream.read_exact(&mut address)).await??;
    let client = IpAddr::from(Ipv6Addr::from(address)).to_canonical();
    if let Ok(place) = gateway.connections.open(AddressBlock::from(client)).await {
        session::spawn(gateway, stream, client, place);
    }
    Ok(())
}
