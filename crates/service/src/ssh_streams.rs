//! SSH over the API's own port: connections to the SSH gateway for clients that cannot reach it. The key that they log in with decides there.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use rigbox_core::authz::{OpenSsh, Permit};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

/// Time in which the gateway accepts a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to the SSH gateway.
#[derive(Clone)]
pub struct SshStreams {
    socket: PathBuf,
}

impl SshStreams {
    /// Creates the service for a gateway that listens on `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Opens a connection for a client, whose address the gateway is told first: 16 bytes, IPv4 ones mapped.
    ///
    /// # Errors
    /// If the gateway does not run.
    pub async fn open(&self, permit: &Permit<OpenSsh>) -> io::Result<UnixStream> {
        // Without an address, clients share what one address may do.
        let address = permit.principal().from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let opened = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(&address.octets()).await?;
            Ok(stream)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, opened).await?
    }
}
