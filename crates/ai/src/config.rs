//! Configuration of the AI proxy.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use rigbox_core::egress::Network;

/// Configuration of the AI proxy.
#[derive(Debug, Clone)]
pub struct Config {
    /// Socket on which the node hands over connections of VMs.
    pub bridge: Peer,
    /// Socket on which the operator's commands ask for tests of keys.
    pub operator: Peer,
    /// Control's socket for this role.
    pub control_socket: PathBuf,
    /// Control's socket for what a VM asks of the API.
    pub api_socket: PathBuf,
    /// Certificates (PEM) of authorities that are trusted besides the system's.
    pub extra_authorities: Option<PathBuf>,
    /// Proxy between this role and the providers.
    pub proxy: Option<Proxy>,
    /// Resolvers of the names of users' hosts.
    pub dns: Vec<SocketAddr>,
    /// Networks that have no host of a user's.
    pub blocked_networks: Vec<Network>,
    /// Limits of calls.
    pub limits: Limits,
}

/// Socket of this role, and who may connect to it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Path, as the role sees it.
    pub socket: PathBuf,
    /// Uid of the peer.
    pub uid: u32,
}

/// Proxy between this role and the providers, for upstreams by https.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Scheme (http), host and port.
    pub url: Uri,
    /// Source of user and password, as `user:password`.
    pub credentials: Option<SecretSource>,
}

/// Source of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// File, read before the role's root is changed.
    File(PathBuf),
    /// Environment variable.
    Env(String),
}

/// Calls per minute of one workspace that use nothing.
pub const FREE_CALLS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(120).unwrap();

/// Limits of calls.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of calls at once.
    pub calls: usize,
    /// Maximum number of calls of one workspace at once.
    pub calls_per_workspace: usize,
    /// Calls per minute of one workspace that use nothing, after a burst of ten times as many.
    pub free_calls_per_minute: NonZeroU32,
    /// Maximum size of a request's body in bytes, decoded.
    pub body_bytes: usize,
    /// Time for the rest of a request's body once it is a large one, of which there are few at once.
    pub upload: Duration,
    /// Time for a connection to a provider.
    pub connect: Duration,
    /// Time for the first byte of a response.
    pub first_byte: Duration,
    /// Time that a response may stand still.
    pub idle: Duration,
    /// Time for which a response is read on after its client has hung up.
    pub after_hang_up: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls: 4_000,
            calls_per_workspace: 256,
            free_calls_per_minute: FREE_CALLS_PER_MINUTE,
            body_bytes: 32 << 20,
            upload: Duration::from_secs(120),
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(600),
            idle: Duration::from_secs(300),
            after_hang_up: Duration::from_secs(600),
        }
    }
}
