//! Accepting connections from a VM.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use rigbox_proto::guestio::fd_request::Channel;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::descriptors::DescriptorError;
use crate::vm::Vm;

/// Delay after a failed accept, for example without free descriptors.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Delay before a listener is requested again.
const RELISTEN_DELAY: Duration = Duration::from_secs(1);

/// Returns an accepted connection. After a failure it pauses instead: the listener is as good as before, and to give it up would take the
/// service from the VM.
pub(super) async fn accepted_or_pause(accepted: io::Result<(TcpStream, SocketAddr)>) -> Option<TcpStream> {
    match accepted {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::debug!(%error, "failed to accept a connection from a VM");
            tokio::time::sleep(RETRY_DELAY).await;
            None
        }
    }
}

/// Serves the connections that the VM's network redirects to `channel`, for as long as the VM is attached. `forward` gets each of them with
/// its destination before the redirect.
pub(super) async fn serve_redirected<F>(
    vm: Arc<Vm>,
    channel: Channel,
    forward: impl Fn(Arc<Vm>, TcpStream, SocketAddrV4) -> F,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        if let Err(error) = accept_redirected(&vm, channel, &forward).await {
            tracing::debug!(
                workspace = %vm.workspace_id, boot = %vm.boot_id, ?channel, %error,
                "check of connections failed; retrying"
            );
        }
        tokio::time::sleep(RELISTEN_DELAY).await;
    }
}

async fn accept_redirected<F>(
    vm: &Arc<Vm>,
    channel: Channel,
    forward: &impl Fn(Arc<Vm>, TcpStream, SocketAddrV4) -> F,
) -> Result<(), DescriptorError>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener: std::net::TcpListener = vm.context.descriptors.get(&vm.boot_id, channel).await?.into();
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Some(stream) = accepted_or_pause(accepted).await else { continue };
                let Ok(place) = vm.context.egress.checked_connections.take(vm.workspace_id.clone()) else { continue };
                // A connection that was not redirected has no business here.
                let Ok(target) = rustix::net::sockopt::ip_original_dst(&stream) else { continue };
                let (forwarded, workspace) = (forward(Arc::clone(vm), stream, target), vm.workspace_id.clone());
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = forwarded.await {
                        tracing::debug!(workspace, ?channel, %error, "checked connection failed");
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
