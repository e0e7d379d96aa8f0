//! Connections that VMs made to their bridge, as the node hands them over. Who is at the other end is what the node says, never what
//! comes over the connection.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream as Blocking;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::bridge::Handover;
use rigbox_sys::fdpass;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Connections of one workspace at one time; more are closed at once.
const MOST: usize = 128;
/// Longest packet of the node, bytes.
const LIMIT: usize = 1024;
/// Connections that wait to be served.
const QUEUE: usize = 256;

/// The workspace at the other end of a connection, in the extensions of every request that comes over it.
#[derive(Debug, Clone)]
pub(crate) struct Bridged {
    pub(crate) workspace: WorkspaceId,
    /// Given back when the connection ends.
    _place: Arc<OwnedSemaphorePermit>,
}

/// Takes connections at `path` from a node of this `uid`.
pub(crate) fn listen(path: &Path, uid: u32) -> io::Result<mpsc::Receiver<(TcpStream, Bridged)>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (runtime, places) = (tokio::runtime::Handle::current(), Arc::new(Places::default()));
    fdpass::serve(path, uid, "bridge", move |node| {
        let (sender, places, runtime) = (sender.clone(), Arc::clone(&places), runtime.clone());
        // A thread per node that calls: there is one.
        let take = move || take(&node, &places, &sender, &runtime);
        if std::thread::Builder::new().name("bridge".into()).spawn(take).is_err() {
            tracing::error!("no thread for the node's connections to the bridge");
        }
    })?;
    Ok(receiver)
}

/// Takes connections from one node until it goes.
fn take(
    node: &OwnedFd,
    places: &Places,
    sender: &mpsc::Sender<(TcpStream, Bridged)>,
    runtime: &tokio::runtime::Handle,
) {
    loop {
        let (packet, fds) = match fdpass::receive(node, LIMIT) {
            Ok((packet, fds)) if !packet.is_empty() || !fds.is_empty() => (packet, fds),
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "the node's connections to the bridge broke off");
                return;
            }
        };
        let connection = || -> Option<(TcpStream, Bridged)> {
            let workspace: WorkspaceId =
                Handover::decode(packet.as_slice()).ok()?.workspace_id.parse().ok()?;
            let place = places.take(&workspace)?;
            let stream = Blocking::from(fds.into_iter().next()?);
            stream.set_nonblocking(true).ok()?;
            let _inside = runtime.enter();
            Some((TcpStream::from_std(stream).ok()?, Bridged { workspace, _place: Arc::new(place) }))
        };
        // One too many is closed by being dropped.
        let Some(connection) = connection() else { continue };
        if sender.blocking_send(connection).is_err() {
            return;
        }
    }
}

/// How many connections each workspace has.
#[derive(Default)]
struct Places(Mutex<HashMap<WorkspaceId, Arc<Semaphore>>>);

impl Places {
    fn take(&self, workspace: &WorkspaceId) -> Option<OwnedSemaphorePermit> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > 4096 {
            all.retain(|_, places| places.available_permits() < MOST);
        }
        let places = all.entry(workspace.clone()).or_insert_with(|| Arc::new(Semaphore::new(MOST)));
        Arc::clone(places).try_acquire_owned().ok()
    }
}
