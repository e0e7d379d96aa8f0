//! Receiving connections that VMs opened to their bridge, as the node hands them over. The node says which workspace is at the other end;
//! nothing that arrives on the connection can change that.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream as StdStream;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use rigbox_sys::fdpass;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::bridge::Handover;

/// Maximum number of open connections per workspace; further ones are closed at once.
const MAX_CONNECTIONS_PER_WORKSPACE: usize = 128;
/// Maximum size of a packet from the node in bytes.
const MAX_PACKET_BYTES: usize = 1024;
/// Number of connections that may wait to be served.
const QUEUE_LEN: usize = 256;
/// Number of workspaces beyond which the permits of idle ones are dropped.
const MAX_TRACKED_WORKSPACES: usize = 4096;

/// Workspace at the other end of a connection.
#[derive(Debug, Clone)]
pub struct GuestPeer {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Returned when the connection ends.
    _permit: Arc<OwnedSemaphorePermit>,
}

/// Receives connections on a socket at `path`, from a node with this `uid`.
///
/// # Errors
/// The socket cannot be created.
pub fn listen(path: &Path, uid: u32) -> io::Result<mpsc::Receiver<(TcpStream, GuestPeer)>> {
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let (runtime, permits) = (tokio::runtime::Handle::current(), Arc::new(ConnectionPermits::default()));
    fdpass::serve(path, uid, "bridge", move |node| {
        let (sender, permits, runtime) = (sender.clone(), Arc::clone(&permits), runtime.clone());
        // One thread per connected node, of which there is one.
        let receive = move || receive(&node, &permits, &sender, &runtime);
        if std::thread::Builder::new().name("bridge".into()).spawn(receive).is_err() {
            tracing::error!("failed to start a thread for the node's connections to the bridge");
        }
    })?;
    Ok(receiver)
}

/// Receives connections from one node until it disconnects.
fn receive(
    node: &OwnedFd,
    permits: &ConnectionPermits,
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
            let permit = permits.acquire(&workspace_id)?;
            let stream = StdStream::from(fds.into_iter().next()?);
            stream.set_nonblocking(true).ok()?;
            let _inside = runtime.enter();
            let peer = GuestPeer { workspace_id, _permit: Arc::new(permit) };
            Some((TcpStream::from_std(stream).ok()?, peer))
        };
        // One too many is dropped, which closes it.
        let Some(connection) = connection() else { continue };
        if sender.blocking_send(connection).is_err() {
            return;
        }
    }
}

/// Connection permits of each workspace.
#[derive(Default)]
struct ConnectionPermits(Mutex<HashMap<String, Arc<Semaphore>>>);

impl ConnectionPermits {
    fn acquire(&self, workspace_id: &str) -> Option<OwnedSemaphorePermit> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > MAX_TRACKED_WORKSPACES {
            all.retain(|_, permits| permits.available_permits() < MAX_CONNECTIONS_PER_WORKSPACE);
        }
        let permits = all
            .entry(workspace_id.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(MAX_CONNECTIONS_PER_WORKSPACE)));
        Arc::clone(permits).try_acquire_owned().ok()
    }
}
