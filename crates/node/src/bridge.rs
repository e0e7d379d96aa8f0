//! The node's side of the bridge: listens at 172.16.0.1:9090 in each VM's network and hands every connection whole to the role that
//! answers, with the workspace whose network it was. Not a byte of it is read here. How many a VM may have is in `net/vm.nft`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::bridge::Handover;
use rigbox_sys::fdpass;
use rustix::net::SocketType;
use rustix::net::sockopt::Timeout;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::packets;

const PORT: u16 = 9090;
/// A role that does not take a connection for so long has it not.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The way to the role that answers: one connection for all VMs.
#[derive(Clone)]
pub(crate) struct Bridge {
    socket: PathBuf,
    connection: Arc<Mutex<Option<OwnedFd>>>,
}

impl Bridge {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, connection: Arc::default() }
    }

    /// Listens in the network of a VM for as long as the handle is kept.
    pub(crate) fn attend(&self, workspace: WorkspaceId, netns: PathBuf) -> AbortOnDropHandle<()> {
        let bridge = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                if let Err(error) = bridge.listen(&workspace, &netns).await {
                    tracing::debug!(%workspace, %error, "the bridge");
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }))
    }

    async fn listen(&self, workspace: &WorkspaceId, netns: &std::path::Path) -> std::io::Result<()> {
        let netns = netns.to_owned();
        let listening = move || crate::net::service_socket(&netns, SocketType::STREAM, PORT);
        let listener = tokio::task::spawn_blocking(listening).await?.map_err(std::io::Error::other)?;
        let listener = TcpListener::from_std(listener.into())?;
        loop {
            let stream = listener.accept().await?.0.into_std()?;
            let (bridge, workspace) = (self.clone(), workspace.clone());
            let handed = tokio::task::spawn_blocking(move || bridge.hand_over(&workspace, &stream.into()));
            if let Err(error) = handed.await? {
                // The connection closes; whoever made it comes again.
                tracing::debug!(%error, "the bridge's other side is away");
            }
        }
    }

    /// Sends one connection; with a new way when the old one is broken, as after a restart of the other side.
    fn hand_over(&self, workspace: &WorkspaceId, stream: &OwnedFd) -> std::io::Result<()> {
        let packet = Handover { workspace_id: workspace.to_string() }.encode_to_vec();
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = connection.take()
            && fdpass::send(&old, &packet, &[stream.as_fd()]).is_ok()
        {
            *connection = Some(old);
            return Ok(());
        }
        let new = fdpass::connect(&self.socket)?;
        packets::limit(&new, Timeout::Send, TAKEN_WITHIN)?;
        fdpass::send(&new, &packet, &[stream.as_fd()])?;
        *connection = Some(new);
        Ok(())
    }
}
