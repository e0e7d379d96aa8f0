//! `guestio`: the role that talks to guests and their VMMs, so that no root process parses a byte of them. It owns nothing: the node
//! hands it connected sockets ([`fds`]), tells it which VMs there are and hears what became of them ([`attendance`]); control
//! calls the guests through it ([`proxy`]). Each VM has an agent session ([`agent`]) and a QMP connection ([`qmp`],
//! [`qmp_task`]), a forwarder for names ([`dns`]) and a reader of what its network refused ([`refusals`]), all
//! hostile: bounded and timed out.

mod agent;
mod attendance;
mod dns;
mod fds;
mod names;
mod proxy;
mod qmp;
mod qmp_task;
mod refusals;
mod text;
mod tls;
mod vm;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;

use rigbox_proto::guest::guest_server::GuestServer;
use rigbox_proto::guest_stream;
use rigbox_proto::guestio::node_session_client::NodeSessionClient;
use rigbox_proto::transport::unix;

/// Where the role finds its neighbours.
#[derive(Debug, Clone)]
pub struct Config {
    /// Socket of the node's gRPC service.
    pub node_socket: PathBuf,
    /// The node's descriptor socket.
    pub fd_socket: PathBuf,
    /// Where this role listens for control.
    pub guest_socket: PathBuf,
    /// Uid of control, the only caller.
    pub control_uid: u32,
    /// Who knows names: the host's resolvers.
    pub resolvers: Vec<SocketAddr>,
}

/// Why the role ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket for control cannot be made.
    #[error("cannot listen at {}: {source}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error("the guest service failed: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs the role until `shutdown`. VMs and their guests are not touched by its end.
///
/// # Errors
/// [`Error`]
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let incoming = unix::listen(&config.guest_socket, vec![config.control_uid])
        .map_err(|source| Error::Listen { path: config.guest_socket.clone(), source })?;
    let node = NodeSessionClient::new(unix::channel(&config.node_socket));
    let fds = fds::Fds::new(config.fd_socket.clone());
    let vms = vm::Vms::new(vm::Surroundings { fds, node, resolvers: config.resolvers.clone().into() });
    let attendance = tokio::spawn(attendance::attend(config.node_socket.clone(), vms.clone()));
    let service = GuestServer::new(proxy::Proxy::new(vms))
        .max_decoding_message_size(guest_stream::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(guest_stream::MAX_MESSAGE_BYTES);
    let result = tonic::transport::Server::builder()
        .initial_stream_window_size(guest_stream::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(guest_stream::CONNECTION_WINDOW_BYTES)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await;
    attendance.abort();
    Ok(result?)
}
