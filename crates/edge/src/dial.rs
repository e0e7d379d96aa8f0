//! Connections to ports of VMs: the node makes the socket inside the VM's network and hands it over. A permit is what lets one ask.

use std::net::TcpStream as StdStream;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use rigbox_core::app_access::AppPermit;
use rigbox_proto::dial::{DialRequest, DialResponse};
use rigbox_sys::fdpass;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::net::TcpStream;

use crate::route::Upstream;

/// Longest answer, bytes.
const LIMIT: usize = 4096;

/// The node's socket for this role.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) socket: PathBuf,
    /// From the question to the connection.
    pub(crate) patience: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The VM of this boot does not run.
    #[error("the workspace's VM is not there")]
    NoVm,
    /// Control has not told the node of the app's port yet.
    #[error("the port is not open for apps")]
    NotListed,
    /// Nothing listens there.
    #[error("nothing listens on the port")]
    NotListening,
    /// The VM does not answer.
    #[error("the VM did not take the connection in time")]
    TimedOut,
    /// The permit is for another workspace.
    #[error("the permit is not for this workspace")]
    NotPermitted,
    /// The node does not answer, or failed.
    #[error("the node does not answer on its socket for gateways: {0}")]
    Node(String),
}

impl Dial {
    /// A fresh connection to `upstream`, whose workspace `permit` opens.
    pub(crate) async fn dial(&self, permit: &AppPermit, upstream: &Upstream) -> Result<TcpStream, DialError> {
        if permit.workspace().as_str() != upstream.workspace {
            return Err(DialError::NotPermitted);
        }
        let connected = async {
            let stream = self.ask(upstream).await?;
            stream.writable().await.map_err(refused)?;
            match stream.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Err(refused(error)),
            }
            // Small answers must not wait for one another.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        };
        tokio::time::timeout(self.patience, connected).await.map_err(|_| DialError::TimedOut)?
    }

    async fn ask(&self, upstream: &Upstream) -> Result<TcpStream, DialError> {
        let path = self.socket.clone();
        let patience = self.patience;
        let request = DialRequest {
            workspace_id: upstream.workspace.clone(),
            boot_id: upstream.boot.clone(),
            port: upstream.port.into(),
        }
        .encode_to_vec();
        let asked = tokio::task::spawn_blocking(move || -> Result<StdStream, DialError> {
            let socket = fdpass::connect(&path).map_err(node)?;
            set_socket_timeout(&socket, Timeout::Recv, Some(patience)).map_err(node)?;
            fdpass::send(&socket, &request, &[]).map_err(node)?;
            let (message, mut fds) = fdpass::receive(&socket, LIMIT).map_err(node)?;
            let reply = DialResponse::decode(message.as_slice()).map_err(node)?;
            match (reply.code.as_str(), fds.pop()) {
                ("", Some(fd)) => Ok(StdStream::from(fd)),
                ("no_vm" | "stale_boot", _) => Err(DialError::NoVm),
                ("port_not_listed", _) => Err(DialError::NotListed),
                (code, _) => Err(DialError::Node(format!("{code} {}", reply.message))),
            }
        });
        let stream = asked.await.map_err(node)??;
        stream.set_nonblocking(true).map_err(node)?;
        TcpStream::from_std(stream).map_err(node)
    }
}

fn node(error: impl std::fmt::Display) -> DialError {
    DialError::Node(error.to_string())
}

fn refused(error: std::io::Error) -> DialError {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset => {
            DialError::NotListening
        }
        _ => DialError::TimedOut,
    }
}
