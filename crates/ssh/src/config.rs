//! Configuration of the SSH gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Configuration of the SSH gateway.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address that clients connect to.
    pub listen: SocketAddr,
    /// Control's socket for this role.
    pub control_socket: PathBuf,
    /// The node's socket for this role.
    pub dial_socket: PathBuf,
    /// Socket for connections that control passes on.
    pub streams: Option<Streams>,
    /// Limits of clients.
    pub limits: Limits,
}

/// Socket for connections that control passes on.
#[derive(Debug, Clone)]
pub struct Streams {
    /// Path of the socket, as [`crate::bind`] sees it.
    pub socket: PathBuf,
    /// Uid of control.
    pub owner: u32,
}

/// Limits of clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of connections.
    pub connections: usize,
    /// Maximum number of connections of one client (an IPv4 address or an IPv6 /64).
    pub connections_per_address: usize,
    /// Maximum number of sessions of one workspace.
    pub sessions_per_workspace: usize,
    /// Timeout of a log-in, from the connection to the beginning of the session.
    pub log_in: Duration,
    /// Time for which the VM's SSH server is waited for.
    pub vm: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 1_000,
            sessions_per_workspace: 500,
            log_in: Duration::from_secs(120),
            vm: Duration::from_secs(30),
        }
    }
}
