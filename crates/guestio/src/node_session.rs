//! Session with the node: commands come in, reports go out. While the node is away, the sessions with the VMs continue.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rigbox_proto::guestio::command::Command;
use rigbox_proto::guestio::node_session_client::NodeSessionClient;
use rigbox_proto::transport::unix;
use tokio_stream::wrappers::ReceiverStream;

use crate::registry::VmRegistry;

const RECONNECT_DELAY: Duration = Duration::from_millis(200);

/// Keeps a session with the node for as long as this role runs.
pub(crate) async fn run(socket: PathBuf, registry: VmRegistry) {
    let mut was_connected = true;
    loop {
        match session(&socket, &registry).await {
            Ok(()) => was_connected = true,
            Err(status) => {
                // Logged once per outage, which may be long.
                if was_connected {
                    tracing::warn!(%status, "lost the session with the node; VMs stay attached");
                }
                was_connected = false;
            }
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

async fn session(socket: &Path, registry: &VmRegistry) -> Result<(), tonic::Status> {
    let mut client = NodeSessionClient::new(unix::channel(socket));
    let reports = ReceiverStream::new(registry.subscribe());
    let mut commands = client.open(reports).await?.into_inner();
    // A restarted node has heard of nothing that was reported to its predecessor.
    let mut told = HashSet::new();
    while let Some(message) = commands.message().await? {
        match message.command {
            Some(Command::Vms(list)) => registry.set_vms(list, &mut told),
            Some(Command::ShutDown(command)) => {
                if let Some(vm) = registry.by_boot(&command.boot_id) {
                    vm.shut_down.send_replace(Some(command.grace_ms));
                }
            }
            None => {}
        }
    }
    Ok(())
}
