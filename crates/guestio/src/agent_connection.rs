//! Connection to the agent of one VM: handshake, then gRPC. Two sessions use it: that of the agent, and that for commands and files.

mod vsock;

use std::os::fd::AsFd;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rigbox_proto::guest_stream;
use rigbox_proto::guestio::Vmm;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::transport::{client, unix};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::agent_client::{self, AgentClient};
use crate::descriptors::DescriptorError;
use crate::vm::Vm;

/// Interval of HTTP/2 pings, and the time without a response after which the connection is lost.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Reason why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    #[error(transparent)]
    Vsock(#[from] vsock::ConnectError),
    #[error(transparent)]
    Handshake(#[from] guest_stream::HandshakeError),
    #[error("failed to open a session with the agent: {0}")]
    Open(String),
    #[error("lost the session with the agent")]
    Lost,
}

/// Open connection to an agent. Ends when dropped.
pub(crate) struct Connection {
    pub(crate) client: AgentClient,
    pub(crate) _shutdown: ShutdownOnDrop,
}

impl Connection {
    /// Opens a connection on one of the VM's streams.
    pub(crate) async fn open(vm: &Vm, channel: Channel) -> Result<Self, SessionError> {
        let mut io = vm.context.descriptors.connect(&vm.boot_id, channel).await?;
        if vm.vmm == Vmm::Firecracker {
            vsock::connect(&mut io, channel).await?;
        }
        let copy = io.as_fd().try_clone_to_owned().map_err(DescriptorError::Node)?;
        let _shutdown = ShutdownOnDrop(copy.into());
        let mut nonce = [0; guest_stream::NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|error| SessionError::Open(error.to_string()))?;
        guest_stream::open(&mut io, nonce).await?;
        let client = connect(io).await.map_err(|error| SessionError::Open(error.to_string()))?;
        Ok(Self { client, _shutdown })
    }
}

/// Shuts the socket down at the end of the session. A call in flight would otherwise keep it open.
pub(crate) struct ShutdownOnDrop(std::os::unix::net::UnixStream);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

#[expect(clippy::disallowed_methods, reason = "filtered here")]
async fn connect<S>(io: S) -> Result<AgentClient, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut io = Some(TokioIo::new(io));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        // The stream can be used once. A lost session is reopened from the start.
        let io = io.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        async move { io }
    });
    let channel = unix::endpoint()
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await?;
    Ok(agent_client::new(client::filtered(channel)))
}

#[cfg(test)]
mod fuzz;
