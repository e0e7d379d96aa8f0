//! Second session with the agent of one VM, for commands and files: whatever their bytes wait for, those of the first session do not wait
//! behind them. It is reopened for as long as the VM is attached.

use std::sync::Arc;

use rigbox_proto::guest::WatchSystemRequest;
use rigbox_proto::guestio::fd_request::Channel;

use crate::agent_connection::{Connection, SessionError};
use crate::agent_session::RECONNECT_DELAY;
use crate::vm::Vm;

/// Keeps a session for as long as the VM is attached.
pub(crate) async fn run(vm: Arc<Vm>) {
    loop {
        let epoch = vm.running().await;
        let result = tokio::select! {
            result = session(&vm) => result,
            () = vm.left(epoch) => Err(SessionError::Lost),
        };
        vm.streams.send_replace(None);
        if let Err(error) = result {
            tracing::debug!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "streams session ended; reconnecting");
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

async fn session(vm: &Vm) -> Result<(), SessionError> {
    let Connection { mut client, _shutdown } = Connection::open(vm, Channel::Streams).await?;
    vm.streams.send_replace(Some(client.clone()));
    // A call that lasts as long as the connection tells its end.
    let mut events = client
        .watch_system(WatchSystemRequest {})
        .await
        .map_err(|status| SessionError::Open(crate::sanitize::sanitize(status.message())))?
        .into_inner();
    while let Ok(Some(_)) = events.message().await {}
    Err(SessionError::Lost)
}
