//! Dialing for gateways: creates a TCP socket inside a VM's network namespace, connecting to a port that the gateway may dial, and passes it
//! to the gateway. The node never sees the traffic. Most of the cost of a dial is the two changes of namespace, so a connection of the
//! gateway serves any number of dials, on a thread of its own.

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use prost::Message;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::dial::{DialRequest, DialResponse};
use rigbox_sys::fdpass;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::seqpacket;
use crate::error::Error;
use crate::net::dialer::{Dialer, SSH_PORT};
use crate::net::policy::Policy;

const MAX_REQUEST_BYTES: usize = 256;
/// Concurrent connections of one gateway. Each has a thread.
const MAX_PEERS: usize = 64;
/// Time within which the gateway has to take a response, else its connection is closed.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Running VM that gateways may dial.
struct DialTarget {
    boot_id: String,
    netns: PathBuf,
    policy: Policy,
}

/// All dial targets, by workspace. The lock is held during a dial, so once a target has been removed no dial to it is in progress.
#[derive(Clone, Default)]
pub(crate) struct DialTargets {
    targets: Arc<RwLock<HashMap<String, DialTarget>>>,
}

/// Refusal of a dial: the code for the gateway and a message for its log.
#[derive(Debug)]
struct Refusal(&'static str, String);

/// Reason why a gateway's connection ends.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error("connection to the gateway failed: {0}")]
    Peer(std::io::Error),
    /// The thread is stuck in a VM's namespace and has to end there.
    #[error("failed to return to the host's network namespace: {0}")]
    Namespace(std::io::Error),
}

impl DialTargets {
    /// Adds the target of a boot, or replaces it.
    pub(crate) fn insert(&self, workspace: &WorkspaceId, boot_id: &str, netns: PathBuf, policy: Policy) {
        let target = DialTarget { boot_id: boot_id.to_owned(), netns, policy };
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        targets.insert(workspace.to_string(), target);
    }

    /// Removes a target. No socket to it is created after the return.
    pub(crate) fn remove(&self, workspace: &WorkspaceId) {
        self.targets.write().unwrap_or_else(PoisonError::into_inner).remove(workspace.as_str());
    }

    /// Serves a gateway, whose uid is `uid`, at `path`.
    pub(crate) fn serve(&self, dialer: Dialer, path: &Path, uid: u32) -> Result<(), Error> {
        let targets = self.clone();
        let peers = Arc::new(AtomicUsize::new(0));
        seqpacket::listen(path, uid, "dial", move |peer| {
            let (targets, permit) = (targets.clone(), PeerPermit::acquire(&peers));
            let Some(permit) = permit else { return };
            // Without a thread the connection closes, and the gateway retries.
            let _ = std::thread::Builder::new().name("dial".into()).spawn(move || {
                let _permit = permit;
                match targets.serve_peer(dialer, &peer) {
                    Err(error @ PeerError::Namespace(_)) => tracing::error!(%error, "dial connection failed"),
                    Err(error) => tracing::debug!(%error, "dial connection failed"),
                    Ok(()) => {}
                }
            });
        })
    }

    /// Serves one connection of the gateway until it is closed.
    fn serve_peer(&self, dialer: Dialer, peer: &OwnedFd) -> Result<(), PeerError> {
        seqpacket::set_timeout(peer, Timeout::Send, SEND_TIMEOUT).map_err(PeerError::Peer)?;
        let host_netns = File::open("/proc/thread-self/ns/net").map_err(PeerError::Namespace)?;
        loop {
            let (message, _) = fdpass::receive(peer, MAX_REQUEST_BYTES).map_err(PeerError::Peer)?;
            if message.is_empty() {
                return Ok(());
            }
            let result = match DialRequest::decode(message.as_slice()) {
                Ok(request) => self.dial(dialer, &request, &host_netns)?,
                Err(_) => Err(Refusal("internal", "malformed dial request".to_owned())),
            };
            let sent = match result {
                Ok(socket) => fdpass::send(peer, &[], &[socket.as_fd()]),
                Err(Refusal(code, message)) => {
                    let response = DialResponse { code: code.to_owned(), message };
                    fdpass::send(peer, &response.encode_to_vec(), &[])
                }
            };
            sent.map_err(PeerError::Peer)?;
        }
    }

    fn dial(
        &self,
        dialer: Dialer,
        request: &DialRequest,
        host_netns: &File,
    ) -> Result<Result<OwnedFd, Refusal>, PeerError> {
        let targets = self.targets.read().unwrap_or_else(PoisonError::into_inner);
        let workspace = &request.workspace_id;
        let Some(target) = targets.get(workspace) else {
            return Ok(Err(Refusal("no_vm", format!("workspace {workspace:?} has no running VM here"))));
        };
        if target.boot_id != request.boot_id {
            return Ok(Err(Refusal("stale_boot", format!("{workspace} has booted again"))));
        }
        let port = match dialer {
            Dialer::Edge => target.policy.dial_port(request.port),
            Dialer::Ssh => Some(SSH_PORT).filter(|port| request.port == u32::from(*port)),
        };
        let Some(port) = port else {
            return Ok(Err(Refusal("port_not_listed", format!("port {} is not listed", request.port))));
        };
        let failed =
            |error: std::io::Error| Refusal("internal", format!("network namespace of the VM: {error}"));
        if let Err(error) = crate::net::enter(&target.netns) {
            return Ok(Err(failed(error)));
        }
        // A socket belongs to the namespace that it was created in, wherever it is connected from.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
        setns(host_netns, CloneFlags::CLONE_NEWNET).map_err(|errno| PeerError::Namespace(errno.into()))?;
        let marked = socket.and_then(|socket| {
            let mark = dialer.mark();
            setsockopt(&socket, sockopt::Mark, &mark)
                .map_err(|errno| rustix::io::Errno::from_raw_os_error(errno as i32))?;
            Ok(socket)
        });
        let connecting = marked.and_then(|socket| {
            match connect(&socket, &SocketAddrV4::new(crate::net::VM_ADDRESS, port)) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
                Err(errno) => Err(errno),
            }
        });
        Ok(connecting.map_err(|errno| failed(errno.into())))
    }
}

/// Permit for one connection of the gateway, returned on drop.
struct PeerPermit(Arc<AtomicUsize>);

impl PeerPermit {
    fn acquire(peers: &Arc<AtomicUsize>) -> Option<Self> {
        let permit = Self(Arc::clone(peers));
        (peers.fetch_add(1, Ordering::Relaxed) < MAX_PEERS).then_some(permit)
    }
}

impl Drop for PeerPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
