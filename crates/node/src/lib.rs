//! `node`: the role that makes VMs and everything around them, and the only one that is root. It parses no byte from a guest or from
//! the internet: it speaks with control (`service`), with guestio (`attend`) and with the kernel.
//!
//! What it makes is on record before it exists (`journal`), so a node that was killed at any moment finds it again (`recovery`).
//! Running VMs are no children of the node and outlive it.

mod attend;
mod bridge;
mod cgroup;
mod command;
mod config;
mod dial;
mod disks;
mod error;
mod images;
pub mod jail;
mod journal;
mod launch;
mod net;
mod node;
mod packets;
mod process;
mod recovery;
mod reports;
mod service;
mod vmm;
mod volume;
mod workspace;

use std::future::Future;
use std::sync::Arc;

use rigbox_proto::guestio::node_session_server::NodeSessionServer;
use rigbox_proto::node::node_server::NodeServer;
use rigbox_proto::transport::unix;
use tonic::transport::Server;

pub use config::{Config, UplinkMode};
pub use disks::clone_disk;
pub use error::Error;
pub use recovery::purge;

/// Runs the role until `shutdown`. Running VMs stay.
///
/// # Errors
/// [`Error`]: what the node needs is not there, or a socket cannot be made.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let opened = tokio::task::spawn_blocking({
        let config = config.clone();
        move || node::Node::open(config)
    });
    let node = opened.await.map_err(Error::system("opening the node"))??;
    let service = service::Service::new(Arc::clone(&node));
    recovery::recover(&node, &service)?;

    node.attendees.serve_descriptors(&config.fd_socket, config.guestio_uid)?;
    node.doors.serve(&config.dial_socket, config.edge_uid)?;
    let attend = unix::listen(&config.attend_socket, vec![config.guestio_uid])
        .map_err(Error::at("cannot listen", &config.attend_socket))?;
    let control = unix::listen(&config.node_socket, vec![config.control_uid])
        .map_err(Error::at("cannot listen", &config.node_socket))?;
    let attendance = attend::Service { attendees: Arc::new(node.attendees.clone()) };
    let for_guestio =
        Server::builder().add_service(NodeSessionServer::new(attendance)).serve_with_incoming(attend);
    let for_control = Server::builder().add_service(NodeServer::new(service)).serve_with_incoming(control);
    tokio::select! {
        result = for_guestio => result,
        result = for_control => result,
        () = shutdown => Ok(()),
    }
    .map_err(|error| Error::System { what: "a socket of the node", source: std::io::Error::other(error) })
}
