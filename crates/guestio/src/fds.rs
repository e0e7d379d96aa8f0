//! Asks the node for a descriptor of a VM: a connection to its agent or VMM, or a socket in its network. One packet there, one back with the descriptor beside it.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::{FdRequest, FdResponse};
use rigbox_sys::fdpass;

/// Longest answer, bytes.
const LIMIT: usize = 4096;

/// The node's descriptor socket.
#[derive(Clone)]
pub(crate) struct Fds {
    path: Arc<PathBuf>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FdError {
    #[error("the node does not answer on its descriptor socket: {0}")]
    Node(#[from] std::io::Error),
    #[error("the node refused: {0}")]
    Refused(String),
}

impl Fds {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path) }
    }

    /// A fresh connection to `channel` of the VM of this boot.
    pub(crate) async fn connect(
        &self,
        boot_id: &str,
        channel: Channel,
    ) -> Result<tokio::net::UnixStream, FdError> {
        let stream = UnixStream::from(self.get(boot_id, channel).await?);
        stream.set_nonblocking(true)?;
        Ok(tokio::net::UnixStream::from_std(stream)?)
    }

    /// A fresh descriptor.
    pub(crate) async fn get(&self, boot_id: &str, channel: Channel) -> Result<OwnedFd, FdError> {
        self.ask(FdRequest { boot_id: boot_id.to_owned(), channel: channel.into(), address: 0 }).await
    }

    /// A socket of the VM's network on its way to port 443 of `address`.
    pub(crate) async fn towards(&self, boot_id: &str, address: Ipv4Addr) -> Result<OwnedFd, FdError> {
        let (boot_id, channel) = (boot_id.to_owned(), Channel::TlsUpstream.into());
        self.ask(FdRequest { boot_id, channel, address: address.to_bits() }).await
    }

    async fn ask(&self, request: FdRequest) -> Result<OwnedFd, FdError> {
        let path = Arc::clone(&self.path);
        let request = request.encode_to_vec();
        let asked = tokio::task::spawn_blocking(move || -> Result<OwnedFd, FdError> {
            let socket = fdpass::connect(&path)?;
            fdpass::send(&socket, &request, &[])?;
            let (message, mut fds) = fdpass::receive(&socket, LIMIT)?;
            let reply = FdResponse::decode(message.as_slice()).map_err(std::io::Error::other)?;
            match fds.pop() {
                Some(fd) if reply.error.is_empty() => Ok(fd),
                _ => Err(FdError::Refused(reply.error)),
            }
        });
        asked.await.map_err(std::io::Error::other)?
    }
}
