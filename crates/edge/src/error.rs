//! Errors of the role.

use std::io;
use std::net::SocketAddr;

use rigbox_tls::TlsError;

/// Error of the role.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address for clients is unavailable.
    #[error("cannot listen on {address}: {source}; free the address, or change apps.listen")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// Cause.
        source: io::Error,
    },
    /// The certificates are unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The TLS library refuses its settings.
    #[error("TLS: {0}")]
    TlsSettings(String),
    /// A worker's thread failed.
    #[error("a worker failed: {0}")]
    Thread(String),
}

/// Connection that gives way to another, or has timed out: its client may send the request again.
#[derive(Debug, thiserror::Error)]
#[error("the connection is being closed")]
pub(crate) struct ConnectionClosed;
