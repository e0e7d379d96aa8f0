//! Client of the node's descriptor socket: connections to a VM's agent or VMM, and sockets in its network. One request packet, one
//! response packet with the descriptor attached.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::{FdRequest, FdResponse};
use rigbox_sys::fdpass;

const MAX_RESPONSE_BYTES: usize = 4096;

/// Client of the node's descriptor socket.
#[derive(Clone)]
pub(crate) struct Descriptors {
    path: Arc<PathBuf>,
}

/// Reason why a descriptor could not be obtained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DescriptorError {
    #[error("no response from the node's descriptor socket: {0}")]
    Node(#[from] std::io::Error),
    #[error("the node refused: {0}")]
    Refused(String),
}

impl Descriptors {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path) }
    }

    /// Opens a new connection to `channel` of the VM of this boot.
    pub(crate) async fn connect(
        &self,
        boot_id: &str,
        channel: Channel,
    ) -> Result<tokio::net::UnixStream, DescriptorError> {
        let stream = UnixStream::from(self.get(boot_id, channel).await?);
        stream.set_nonblocking(true)?;
        Ok(tokio::net::UnixStream::from_std(stream)?)
    }

    /// Requests a new descriptor.
    pub(crate) async fn get(&self, boot_id: &str, channel: Channel) -> Result<OwnedFd, DescriptorError> {
        let (boot_id, channel) = (boot_id.to_owned(), channel.into());
        self.request(FdRequest { boot_id, channel, ..FdRequest::default() }).await
    }

    /// Requests a socket in the VM's network that is connecting to a checked port.
    pub(crate) async fn connect_checked(
        &self,
        boot_id: &str,
        target: SocketAddrV4,
    ) -> Result<OwnedFd, DescriptorError> {
        let (boot_id, channel) = (boot_id.to_owned(), Channel::CheckedUpstream.into());
        let (address, port) = (target.ip().to_bits(), target.port().into());
        self.request(FdRequest { boot_id, channel, address, port }).await
    }

    async fn request(&self, request: FdRequest) -> Result<OwnedFd, DescriptorError> {
        let path = Arc::clone(&self.path);
        let request = request.encode_to_vec();
        let result = tokio::task::spawn_blocking(move || -> Result<OwnedFd, DescriptorError> {
            let socket = fdpass::connect(&path)?;
            fdpass::send(&socket, &request, &[])?;
            let (message, mut fds) = fdpass::receive(&socket, MAX_RESPONSE_BYTES)?;
            let response = FdResponse::decode(message.as_slice()).map_err(std::io::Error::other)?;
            match fds.pop() {
                Some(fd) if response.error.is_empty() => Ok(fd),
                _ => Err(DescriptorError::Refused(response.error)),
            }
        });
        result.await.map_err(std::io::Error::other)?
    }
}
