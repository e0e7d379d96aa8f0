//! `node`: the role that creates VMs and everything around them, and the only role that runs as root. It parses no byte from a guest or
//! from the internet: it talks to control (`control_rpc`), to the unprivileged roles of this machine (`sockets`) and to the kernel.
//!
//! Every resource is in the `journal` before it exists, so a node that was killed at any moment finds it again (`recovery`). Running VMs
//! are not children of the node and outlive it.

pub mod backup;
mod boot_queue;
mod cause;
mod command;
mod config;
mod control_rpc;
mod durable;
mod effect;
mod error;
mod host;
mod journal;
mod limits;
mod memory;
mod net;
mod node;
mod record;
mod recovery;
mod refusals;
mod reports;
mod sandbox;
mod sockets;
mod storage;
mod vmm;
mod workspace;
mod workspaces;

use std::future::Future;
use std::sync::Arc;

use rigbox_proto::guestio::node_session_server::NodeSessionServer;
use rigbox_proto::node::node_server::NodeServer;
use rigbox_proto::transport::unix;
use tonic::Request;
use tonic::transport::Server;

use crate::net::dialer::Dialer;

pub use boot_queue::BootQueue;
pub use config::{Config, NetworkConfig, UplinkMode};
pub use effect::Effect;
pub use error::Error;
pub use host::{Host, Launched, VmmProcess};
pub use journal::Journal;
pub use memory::{MemoryImage, MemoryKey};
pub use net::policy::Policy;
pub use record::{Boot, BootEnd, BootMemory, Phase, ProcessId, Record, Spec};
pub use recovery::purge;
pub use reports::{Reports, Subscription};
pub use sandbox::jail;
pub use storage::disks::clone_disk;
pub use vmm::config::VmmConfig;
pub use vmm::kind::VmmKind;
pub use workspaces::Workspaces;

/// Runs the role until `shutdown`. VMs keep running.
///
/// # Errors
/// [`Error`]: a prerequisite of the node is missing, or a socket cannot be created.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let opened = tokio::task::spawn_blocking({
        let config = config.clone();
        move || node::Node::open(config)
    });
    let node = opened.await.map_err(Error::system("open the node"))??;
    let workspaces = Workspaces::new(Arc::clone(&node));
    recovery::recover(&node, &workspaces)?;
    let control_service = control_rpc::ControlService::new(Arc::clone(&node), workspaces);

    node.attached_vms.serve_descriptors(&config.fd_socket, config.guestio_uid)?;
    node.dial_targets.serve(Dialer::Edge, &config.dial_socket, config.edge_uid)?;
    node.dial_targets.serve(Dialer::Ssh, &config.ssh_dial_socket, config.ssh_uid)?;
    let guestio_connections = unix::listen(&config.guestio_socket, vec![config.guestio_uid])
        .map_err(Error::at("listen at", &config.guestio_socket))?;
    let control_connections = unix::listen(&config.control_socket, vec![config.control_uid])
        .map_err(Error::at("listen at", &config.control_socket))?;
    let guestio_service = sockets::guestio::GuestioService {
        attached_vms: Arc::new(node.attached_vms.clone()),
        admission_pool: net::admitted_names::AdmissionPool::default(),
        refusals: node.refusals.clone(),
    };
    let serve_guestio = Server::builder()
        .add_service(NodeSessionServer::new(guestio_service))
        .serve_with_incoming(guestio_connections);
    let serve_control = Server::builder()
        .add_service(NodeServer::with_interceptor(control_service.clone(), move |request: Request<()>| {
            control_service.check_database(request)
        }))
        .serve_with_incoming(control_connections);
    tokio::select! {
        result = serve_guestio => result,
        result = serve_control => result,
        () = shutdown => Ok(()),
    }
    .map_err(|error| Error::System { action: "serve a socket", source: std::io::Error::other(error) })
}
