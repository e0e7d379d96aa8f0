//! `guestio`: the role that talks to guests and their VMMs, so that no root process parses a byte of them. It owns no resources: the node
//! passes it connected sockets ([`descriptors`]), tells it which VMs run and receives reports about them ([`node_session`]). Control calls
//! the guests through it ([`proxy`]). Each VM has an agent session ([`agent_session`]), a connection to its VMM ([`monitor`]), and the
//! checks of its outbound traffic ([`egress`]). All of these peers are hostile, so everything is bounded and times out.

mod agent_client;
mod agent_connection;
mod agent_session;
mod allow_list;
mod descriptors;
mod egress;
mod monitor;
mod node_session;
mod proxy;
mod refusal_counter;
mod registry;
mod sanitize;
mod streams_session;
mod vm;

use std::future::Future;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;

use rigbox_core::egress::{BlockedNetworks, InternalZones};
use rigbox_core::vm_limits::NetworkLimits;
use rigbox_proto::guest::guest_server::GuestServer;
use rigbox_proto::guestio::node_session_client::NodeSessionClient;
use rigbox_proto::transport::unix;
use rigbox_proto::{guest_calls, guest_stream};

use crate::descriptors::Descriptors;
use crate::egress::EgressBudget;
use crate::proxy::Proxy;
use crate::registry::VmRegistry;
use crate::vm::{ReportSender, VmContext};

/// Settings of the role.
#[derive(Debug, Clone)]
pub struct Config {
    /// Socket of the node's gRPC service.
    pub node_socket: PathBuf,
    /// The node's descriptor socket.
    pub fd_socket: PathBuf,
    /// Socket on which this role serves control.
    pub guest_socket: PathBuf,
    /// Uid of control, the only caller.
    pub control_uid: u32,
    /// The host's DNS resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// Networks that no VM reaches.
    pub blocked_networks: BlockedNetworks,
    /// Zones of which no VM gets a record.
    pub internal_zones: InternalZones,
    /// Limits of one VM's DNS queries, where the node names no lower ones.
    pub dns: DnsLimits,
}

/// Limits of one VM's DNS queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsLimits {
    /// Queries in flight.
    pub queries: NonZeroU16,
    /// Queries per second that its cache does not answer, after a burst of ten times as many.
    pub queries_per_s: NonZeroU32,
}

impl Default for DnsLimits {
    fn default() -> Self {
        let NetworkLimits { dns_queries, dns_queries_per_s, .. } = NetworkLimits::DEFAULT;
        Self { queries: dns_queries, queries_per_s: dns_queries_per_s }
    }
}

/// Reason why the role stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket for control cannot be created.
    #[error("failed to listen at {}: {source}", path.display())]
    Listen {
        /// Path of the socket.
        path: PathBuf,
        /// Cause of the failure.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error("the guest service failed: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs the role until `shutdown`. VMs keep running.
///
/// # Errors
/// [`Error`]
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let incoming = unix::listen(&config.guest_socket, vec![config.control_uid])
        .map_err(|source| Error::Listen { path: config.guest_socket.clone(), source })?;
    let registry = VmRegistry::new(VmContext {
        descriptors: Descriptors::new(config.fd_socket.clone()),
        node: NodeSessionClient::new(unix::channel(&config.node_socket)),
        resolvers: config.resolvers.clone().into(),
        blocked_networks: Arc::new(config.blocked_networks),
        internal_zones: Arc::new(config.internal_zones),
        egress: EgressBudget::new(config.dns),
        reports: ReportSender::default(),
    });
    let session = tokio::spawn(node_session::run(config.node_socket.clone(), registry.clone()));
    let service = GuestServer::new(Proxy::new(registry))
        .max_decoding_message_size(guest_stream::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(guest_stream::MAX_MESSAGE_BYTES);
    let result = tonic::transport::Server::builder()
        .max_concurrent_streams(guest_calls::MAX_CONCURRENT_STREAMS)
        .initial_stream_window_size(guest_calls::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(guest_calls::CONNECTION_WINDOW_BYTES)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await;
    session.abort();
    Ok(result?)
}
