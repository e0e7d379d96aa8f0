//! The node's side of the bridge: listens at 172.16.0.1:9090 in each VM's network and hands every connection over to the role that
//! serves it, together with the workspace whose network it came from. The node reads no byte of it. `net/vm.nft` limits the number of
//! connections per VM.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::handover;
use rustix::net::SocketType;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

const BRIDGE_PORT: u16 = 9090;
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Listener for the bridge of every VM. All of them share one connection to the serving role.
#[derive(Clone)]
pub(crate) struct BridgeListener {
    socket: PathBuf,
    sender: Arc<handover::Sender>,
}

impl BridgeListener {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, sender: Arc::default() }
    }

    /// Listens in the network of a VM until the returned handle is dropped.
    pub(crate) fn listen(&self, workspace: WorkspaceId, netns: PathBuf) -> AbortOnDropHandle<()> {
        let bridge = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                if let Err(error) = bridge.accept_connections(&workspace, &netns).await {
                    tracing::debug!(%workspace, %error, "bridge listener failed; retrying");
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }))
    }

    async fn accept_connections(
        &self,
        workspace: &WorkspaceId,
        netns: &std::path::Path,
    ) -> std::io::Result<()> {
        let netns = netns.to_owned();
        let bind = move || crate::net::service_socket(&netns, SocketType::STREAM, BRIDGE_PORT);
        let listener = tokio::task::spawn_blocking(bind).await?.map_err(std::io::Error::other)?;
        let listener = TcpListener::from_std(listener.into())?;
        loop {
            let stream = listener.accept().await?.0.into_std()?;
            let (bridge, workspace) = (self.clone(), workspace.to_string());
            let handed_over = tokio::task::spawn_blocking(move || {
                bridge.sender.send(&bridge.socket, &workspace, &stream.into())
            });
            if let Err(error) = handed_over.await? {
                // The connection is closed, and the guest retries.
                tracing::debug!(%error, "failed to hand over a bridge connection");
            }
        }
    }
}
