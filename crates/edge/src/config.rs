//! Configuration of the edge role.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Configuration of the edge role.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address that clients connect to.
    pub listen: SocketAddr,
    /// Apps domain: apps are at `<app>.<domain>`.
    pub domain: String,
    /// Control's socket for gateways.
    pub gateway_socket: PathBuf,
    /// The node's socket for gateways.
    pub dial_socket: PathBuf,
    /// Number of workers; `None` means one per core.
    pub workers: Option<NonZeroUsize>,
    /// Limits of clients and apps.
    pub limits: Limits,
    /// TLS towards clients. With it, `listen` only redirects there.
    pub tls: Option<Tls>,
}

/// TLS towards clients.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Address that clients connect to.
    pub listen: SocketAddr,
    /// Folder of certificates and keys in PEM: `0.crt`, `0.key`, `1.crt` and so on. Reloaded within seconds of a change.
    pub folder: PathBuf,
}

/// Limits of clients and apps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of client connections of all workers together.
    pub connections: usize,
    /// Maximum number of connections of one client (an IPv4 address or an IPv6 /64).
    pub connections_per_address: usize,
    /// Maximum number of WebSockets of one workspace's apps, which may be idle for long.
    pub websockets_per_workspace: usize,
    /// Timeout of a request's head, from its first byte to its last.
    pub head: Duration,
    /// Timeout of an idle client connection between two requests.
    pub keep_alive: Duration,
    /// Timeout of connecting to an app.
    pub connect: Duration,
    /// Timeout from the last byte of a request to the head of its response.
    pub response: Duration,
    /// Timeout between two bytes of a response.
    pub idle: Duration,
    /// Timeout between two bytes of a tunnel (WebSocket), in either direction.
    pub tunnel: Duration,
    /// Maximum time that a request waits for the lease on control's decisions.
    pub control: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 40_000,
            connections_per_address: 4_000,
            websockets_per_workspace: 12_000,
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            connect: Duration::from_secs(5),
            response: Duration::from_secs(120),
            idle: Duration::from_secs(600),
            tunnel: Duration::from_secs(4 * 3600),
            control: Duration::from_secs(5),
        }
    }
}
