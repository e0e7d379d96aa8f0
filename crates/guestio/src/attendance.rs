//! The session with the node: its orders come in, reports go out. While the node is away the VMs' sessions go on.

use std::path::PathBuf;
use std::time::Duration;

use rigbox_proto::guestio::command::Command as Kind;
use rigbox_proto::guestio::node_session_client::NodeSessionClient;
use rigbox_proto::transport::unix;
use tokio_stream::wrappers::ReceiverStream;

use crate::vm::Vms;

const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Keeps a session with the node for as long as this role runs.
pub(crate) async fn attend(socket: PathBuf, vms: Vms) {
    let mut node_was_there = true;
    loop {
        match session(&socket, &vms).await {
            Ok(()) => node_was_there = true,
            Err(status) => {
                // Once per absence: the node may be away for long.
                if node_was_there {
                    tracing::warn!(%status, "the node is away; VMs stay attended");
                }
                node_was_there = false;
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn session(socket: &std::path::Path, vms: &Vms) -> Result<(), tonic::Status> {
    let mut client = NodeSessionClient::new(unix::channel(socket));
    let reports = ReceiverStream::new(vms.subscribe());
    let mut orders = client.open(reports).await?.into_inner();
    let mut first = true;
    while let Some(order) = orders.message().await? {
        match order.command {
            Some(Kind::Vms(roster)) => vms.set_roster(roster.vms, std::mem::take(&mut first)),
            Some(Kind::ShutDown(order)) => {
                if let Some(vm) = vms.of_boot(&order.boot_id) {
                    vm.shut_down.send_replace(Some(order.grace_ms));
                }
            }
            None => {}
        }
    }
    Ok(())
}
