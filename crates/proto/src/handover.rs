//! Handover of connections that VMs opened to their bridge: from the node to the AI proxy, and what is for the API from there to control.
//! The sender says which workspace is at the other end; nothing that arrives on the connection can change that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use rigbox_shares::{Bounds, Place, Shares};
use rigbox_sys::fdpass;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::bridge::Handover;

/// Open connections. Further ones are closed at once.
const CONNECTIONS: Bounds = Bounds { total: 4_000, per_key: 128 };
/// Maximum size of a packet in bytes.
const MAX_PACKET_BYTES: usize = 1024;
/// Time within which the receiver has to take a connection.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);
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

/// Connection to the role that serves connections of VMs, made when it is used and again when that role has restarted.
#[derive(Debug, Default)]
pub struct Sender {
    connection: Mutex<Option<OwnedFd>>,
}

impl Sender {
    /// Hands over a connection of a workspace's VM. Blocks for as long as the receiver has no room, a second at most.
    ///
    /// # Errors
    /// Nobody takes it on the socket at `path`. The connection is closed, and the guest tries again.
    pub fn send(&self, path: &Path, workspace_id: &str, stream: &OwnedFd) -> io::Result<()> {
        let packet = Handover { workspace_id: workspace_id.to_owned() }.encode_to_vec();
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(existing) = connection.take()
            && fdpass::send(&existing, &packet, &[stream.as_fd()]).is_ok()
        {
            *connection = Some(existing);
            return Ok(());
        }
        let new = fdpass::connect(path)?;
        set_socket_timeout(&new, Timeout::Send, Some(HANDOVER_TIMEOUT))?;
        fdpass::send(&new, &packet, &[stream.as_fd()])?;
        *connection = Some(new);
        Ok(())
    }
}

/// Connection as it is handed over.
pub trait Stream: Send + Sized + 'static {
    /// Takes the descriptor, inside a runtime.
    ///
    /// # Errors
    /// It cannot be registered with the runtime.
    fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self>;
}

impl Stream for TcpStream {
    fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let stream = std::net::TcpStream::from(descriptor);
        stream.set_nonblocking(true)?;
        Self::from_std(stream)
    }
}

impl Stream for UnixStream {
    fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let stream = std::os::unix::net::UnixStream::from(descriptor);
        stream.set_nonblocking(true)?;
        Self::from_std(stream)
    }
}

/// Receives connections on a socket at `path`, from a sender with this `uid`.
///
/// # Errors
/// The socket cannot be created.
pub fn listen<S: Stream>(path: &Path, uid: u32) -> io::Result<mpsc::Receiver<(S, GuestPeer)>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "bound: connections of VMs on their way to the bridge; each holds a place of a share already"
    )]
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let (runtime, connections) = (tokio::runtime::Handle::current(), Shares::new(CONNECTIONS));
    fdpass::serve(path, uid, "bridge", move |node| {
        let (sender, connections, runtime) = (sender.clone(), connections.clone(), runtime.clone());
        // One thread per connected sender, of which there is one.
        let receive = move || receive(&node, &connections, &sender, &runtime);
        if std::thread::Builder::new().name("bridge".into()).spawn(receive).is_err() {
            tracing::error!("failed to start a thread for connections to the bridge");
        }
    })?;
    Ok(receiver)
}

/// Receives connections from one sender until it disconnects.
fn receive<S: Stream>(
    node: &OwnedFd,
    connections: &Shares<String>,
    sender: &mpsc::Sender<(S, GuestPeer)>,
    runtime: &tokio::runtime::Handle,
) {
    loop {
        let (packet, fds) = match fdpass::receive(node, MAX_PACKET_BYTES) {
            Ok((packet, fds)) if !packet.is_empty() || !fds.is_empty() => (packet, fds),
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "failed to receive connections to the bridge");
                return;
            }
        };
        let connection = || -> Option<(S, GuestPeer)> {
            let workspace_id = Handover::decode(packet.as_slice()).ok()?.workspace_id;
            let place = connections.take(workspace_id.clone()).ok()?;
            let _inside = runtime.enter();
            let stream = S::from_descriptor(fds.into_iter().next()?).ok()?;
            let peer = GuestPeer { workspace_id, _place: Arc::new(place) };
            Some((stream, peer))
        };
        // One too many is dropped, which closes it.
        let Some(connection) = connection() else { continue };
        if sender.blocking_send(connection).is_err() {
            return;
        }
    }
}
