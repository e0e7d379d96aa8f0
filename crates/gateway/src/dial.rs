//! Dialing into VMs: the node creates the socket inside the VM's network namespace and passes it over. Dialing takes a permit.

use std::net::TcpStream as StdStream;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use rigbox_core::dialing::DialPermit;
use rigbox_proto::dial::{DialRequest, DialResponse};
use rigbox_sys::fdpass;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::net::TcpStream;

/// Maximum size of a reply in bytes.
const MAX_REPLY_BYTES: usize = 4096;

/// Destination of a connection: a port of one boot of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Id of the workspace.
    pub workspace: String,
    /// Id of the boot.
    pub boot: String,
    /// Port in the VM.
    pub port: u16,
}

/// Dialer through the node's socket for gateways.
#[derive(Debug)]
pub struct Dialer {
    /// Path of the node's socket.
    pub socket: PathBuf,
    /// Timeout from the request to the established connection.
    pub timeout: Duration,
}

/// Error of dialing a VM.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The VM of this boot is not running.
    #[error("the workspace's VM is not running")]
    NoVm,
    /// The node has not been told about the port yet.
    #[error("the port is not open for apps")]
    NotListed,
    /// The VM refuses the connection.
    #[error("nothing is listening on the port")]
    NotListening,
    /// The VM does not respond.
    #[error("the VM did not accept the connection in time")]
    TimedOut,
    /// The permit is for another workspace.
    #[error("the permit is for another workspace")]
    NotPermitted,
    /// The node failed or does not respond.
    #[error("the node does not respond on its socket for gateways: {0}")]
    Node(String),
}

impl Dialer {
    /// Opens a connection to `upstream`, whose workspace `permit` has to be for.
    ///
    /// # Errors
    /// [`DialError`]
    pub async fn dial(&self, permit: &impl DialPermit, upstream: &Upstream) -> Result<TcpStream, DialError> {
        if permit.workspace().as_str() != upstream.workspace {
            return Err(DialError::NotPermitted);
        }
        let connected = async {
            let stream = self.request_socket(upstream).await?;
            stream.writable().await.map_err(connect_error)?;
            match stream.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Err(connect_error(error)),
            }
            // Small responses must not be delayed to be coalesced.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        };
        tokio::time::timeout(self.timeout, connected).await.map_err(|_| DialError::TimedOut)?
    }

    async fn request_socket(&self, upstream: &Upstream) -> Result<TcpStream, DialError> {
        let path = self.socket.clone();
        let timeout = self.timeout;
        let request = DialRequest {
            workspace_id: upstream.workspace.clone(),
            boot_id: upstream.boot.clone(),
            port: upstream.port.into(),
        }
        .encode_to_vec();
        let reply = tokio::task::spawn_blocking(move || -> Result<StdStream, DialError> {
            let socket = fdpass::connect(&path).map_err(node_error)?;
            set_socket_timeout(&socket, Timeout::Recv, Some(timeout)).map_err(node_error)?;
            fdpass::send(&socket, &request, &[]).map_err(node_error)?;
            let (message, mut fds) = fdpass::receive(&socket, MAX_REPLY_BYTES).map_err(node_error)?;
            let reply = DialResponse::decode(message.as_slice()).map_err(node_error)?;
            match (reply.code.as_str(), fds.pop()) {
                ("", Some(fd)) => Ok(StdStream::from(fd)),
                ("no_vm" | "stale_boot", _) => Err(DialError::NoVm),
                ("port_not_listed", _) => Err(DialError::NotListed),
                (code, _) => Err(DialError::Node(format!("{code} {}", reply.message))),
            }
        });
        let stream = reply.await.map_err(node_error)??;
        stream.set_nonblocking(true).map_err(node_error)?;
        TcpStream::from_std(stream).map_err(node_error)
    }
}

fn node_error(error: impl std::fmt::Display) -> DialError {
    DialError::Node(error.to_string())
}

fn connect_error(error: std::io::Error) -> DialError {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset => {
            DialError::NotListening
        }
        _ => DialError::TimedOut,
    }
}
