//! Connections for gateways: a TCP socket made inside a VM's network namespace, on its way to a port that control listed. The gateway
//! uses it like any other; the node never sees what passes. Most of a dial is the two changes of namespace, so a connection of the
//! gateway serves any number of them, on a thread of its own.

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use prost::Message;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::dial::{DialRequest, DialResponse};
use rigbox_sys::fdpass;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use crate::error::Error;
use crate::net::policy::Policy;
use crate::packets;

/// Longest request, bytes.
const LIMIT: usize = 256;
/// Connections of the gateway at a time, each with a thread here.
const MOST_PEERS: usize = 64;
/// A gateway that does not take its answer is let go.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// A VM that runs, as gateways may reach it.
struct Door {
    boot_id: String,
    netns: PathBuf,
    policy: Policy,
}

/// All of them. While one is being dialled none changes, so a door that was closed has no dial under way.
#[derive(Clone, Default)]
pub(crate) struct Doors {
    doors: Arc<RwLock<HashMap<String, Door>>>,
}

/// Why there is no connection: the code for the gateway, and a text for its log.
#[derive(Debug)]
struct Refusal(&'static str, String);

/// Why a gateway's connection ends.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error("the gateway: {0}")]
    Peer(std::io::Error),
    /// The thread is in a VM's namespace and has to end there.
    #[error("the way back into the host's namespace: {0}")]
    Lost(std::io::Error),
}

impl Doors {
    /// Opens the ways into a boot, or changes them.
    pub(crate) fn open(&self, workspace: &WorkspaceId, boot_id: &str, netns: PathBuf, policy: Policy) {
        let door = Door { boot_id: boot_id.to_owned(), netns, policy };
        let mut doors = self.doors.write().unwrap_or_else(PoisonError::into_inner);
        doors.insert(workspace.to_string(), door);
    }

    /// After this no socket of the workspace is made any more.
    pub(crate) fn close(&self, workspace: &WorkspaceId) {
        self.doors.write().unwrap_or_else(PoisonError::into_inner).remove(workspace.as_str());
    }

    /// Serves gateways at `path`, to `uid` only.
    pub(crate) fn serve(&self, path: &Path, uid: u32) -> Result<(), Error> {
        let doors = self.clone();
        let peers = Arc::new(AtomicUsize::new(0));
        packets::listen(path, uid, "dial", move |peer| {
            let (doors, place) = (doors.clone(), Place::take(&peers));
            let Some(place) = place else { return };
            // Without a thread the connection closes, and the gateway comes again.
            let _ = std::thread::Builder::new().name("dial".into()).spawn(move || {
                let _place = place;
                match doors.attend(&peer) {
                    Err(error @ PeerError::Lost(_)) => tracing::error!(%error, "dial"),
                    Err(error) => tracing::debug!(%error, "dial"),
                    Ok(()) => {}
                }
            });
        })
    }

    /// Answers one connection of the gateway until it goes.
    fn attend(&self, peer: &OwnedFd) -> Result<(), PeerError> {
        packets::limit(peer, Timeout::Send, TAKEN_WITHIN).map_err(PeerError::Peer)?;
        let home = File::open("/proc/thread-self/ns/net").map_err(PeerError::Lost)?;
        loop {
            let (message, _) = fdpass::receive(peer, LIMIT).map_err(PeerError::Peer)?;
            if message.is_empty() {
                return Ok(());
            }
            let answer = match DialRequest::decode(message.as_slice()) {
                Ok(request) => self.dial(&request, &home)?,
                Err(_) => Err(Refusal("internal", "this is no dial request".to_owned())),
            };
            let sent = match answer {
                Ok(socket) => fdpass::send(peer, &[], &[socket.as_fd()]),
                Err(Refusal(code, message)) => {
                    fdpass::send(peer, &DialResponse { code: code.to_owned(), message }.encode_to_vec(), &[])
                }
            };
            sent.map_err(PeerError::Peer)?;
        }
    }

    fn dial(&self, request: &DialRequest, home: &File) -> Result<Result<OwnedFd, Refusal>, PeerError> {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        let Some(door) = doors.get(&request.workspace_id) else {
            return Ok(Err(Refusal("no_vm", format!("no VM of {:?} runs here", request.workspace_id))));
        };
        if door.boot_id != request.boot_id {
            return Ok(Err(Refusal("stale_boot", format!("{} runs in a later boot", request.workspace_id))));
        }
        let Some(port) = door.policy.allows_dial(request.port) else {
            return Ok(Err(Refusal("port_not_listed", format!("port {} is not listed", request.port))));
        };
        let failed = |error: std::io::Error| Refusal("internal", format!("the VM's namespace: {error}"));
        if let Err(error) = crate::net::enter(&door.netns) {
            return Ok(Err(failed(error)));
        }
        // A socket belongs to the namespace it was made in, wherever it is connected from.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
        setns(home, CloneFlags::CLONE_NEWNET).map_err(|errno| PeerError::Lost(errno.into()))?;
        let aimed = socket.and_then(|socket| {
            match connect(&socket, &SocketAddrV4::new(crate::net::VM_ADDRESS, port)) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
                Err(errno) => Err(errno),
            }
        });
        Ok(aimed.map_err(|errno| failed(errno.into())))
    }
}

/// One of the places for gateways' connections, given back when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::Relaxed) < MOST_PEERS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
