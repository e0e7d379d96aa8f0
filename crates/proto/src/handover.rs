//! Receiving connections that VMs opened to their bridge, as the node hands them over. The node says which workspace is at the other end;
//! nothing that arrives on the connection can change that.

use std::io;
use std::net::TcpStream as StdStream;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use rigbox_shares::{Bounds, Place, Shares};
use rigbox_sys::fdpass;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::bridge::Handover;

/// Open connections. Further ones are closed at once.
const CONNECTIONS: Bounds = Bounds { total: 4_000, per_key: 128 };
/// Maximum size of a packet from the node in bytes.
const MAX_PACKET_BYTES: usize = 1024;
/// Number of connections that may wait to be served.
const QUEUE_LEN: usize = 256;

/// Workspace at the other end of a connection.
#[derive(Debug, Clone)]
pub struct GuestPeer {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Free again when the connection ends.
    _place: Arc<Place<String>>,
}

/// Receives connections on a socket at `path`, from a node with this `uid`.
///
/// # Errors
/// The socket cannot be created.
pub fn listen(path: &Path, uid: u32) -> io::Result<mpsc::Receiver<(TcpStream, GuestPeer)>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "bound: connections of VMs on their way to the bridge; each holds a place of a share already"
    )]
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let (runtime, connections) = (tokio::runtime::Handle::current(), Shares::new(CONNECTIONS));
    fdpass::serve(path, uid, "bridge", move |node| {
        let (sender, connections, runtime) = (sender.clone(), connections.clone(), runtime.clone());
        // One thread per connected node, of which there is one.
        let receive = move || receive(&node, &connections, &sender, &runtime);
        if std::thread::Builder::new().name("bridge".into()).spawn(receive).is_err() {
            tracing::error!("failed to start a thread for the node's connections to the bridge");
        }
    })?;
    Ok(receiver)
}

/// Receives connections from one node until it disconnects.
fn receive(
    node: &OwnedFd,
    connections: &Shares<String>,
    sender: &mpsc::Sender<(TcpStream, GuestPeer)>,
    runtime: &tokio::runtime::Handle,
) {
    loop {
        let (packet, fds) = match fdpass::receive(node, MAX_PACKET_BYTES) {
            Ok((packet, fds)) if !packet.is_empty() || !fds.is_empty() => (packet, fds),
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "failed to receive the node's connections to the bridge");
                return;
            }
        };
        let connection = || -> Option<(TcpStream, GuestPeer)> {
            let workspace_id = Handover::decode(packet.as_slice()).ok()?.workspace_id;
            let place = connections.take(workspace_id.clone()).ok()?;
            let stream = StdStream::from(fds.into_iter().next()?);
            stream.set_nonblocking(true).ok()?;
            let _inside = runtime.enter();
            let peer = GuestPeer { workspace_id, _place: Arc::new(place) };
            Some((TcpStream::from_std(stream).ok()?, peer))
        };
        // One too many is dropped, which closes it.
        let Some(connection) = connection() else { continue };
        if sender.blocking_send(connection).is_err() {
            return;
        }
    }
}
