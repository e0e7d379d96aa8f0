//! Node of the benchmark `life`: the real tasks of workspaces above the machine, served to control over a socket as the node serves them.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;
use rigbox_node::{Host, Workspaces};
use rigbox_proto::node::node_server::{self, NodeServer};
use rigbox_proto::node::{
    DescribeRequest, NodeDescription, RefusalBatch, SetPausedRequest, SetTargetRequest, WatchEvent,
    WatchRefusalsRequest, WatchRequest, WorkspaceReport,
};
use rigbox_proto::transport::unix;
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::machine::Machine;

/// Id of the node.
pub(super) const NODE_ID: &str = "node-aaaaaaaa";
/// Memory and disk of the machine in MiB: enough for any number of VMs.
const CAPACITY_MB: u64 = 1 << 30;

/// Opens the machine, takes over what is in its journal, and serves control from then on.
pub(super) fn open(folder: &Path) -> Result<Arc<Machine>> {
    let machine = Arc::new(Machine::open(folder)?);
    let workspaces = Workspaces::new(Arc::clone(&machine));
    for (id, record) in machine.journal().load()? {
        workspaces.adopt(id, record);
    }
    let connections = unix::listen(&socket(folder), vec![rustix::process::geteuid().as_raw()])?;
    let service = NodeServer::new(Service { machine: Arc::clone(&machine), workspaces });
    tokio::spawn(async move {
        if let Err(error) = Server::builder().add_service(service).serve_with_incoming(connections).await {
            eprintln!("the node's socket failed: {error}");
        }
    });
    Ok(machine)
}

/// Returns the socket of the node.
pub(super) fn socket(folder: &Path) -> PathBuf {
    folder.join("node.sock")
}

struct Service {
    machine: Arc<Machine>,
    workspaces: Workspaces<Machine>,
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl node_server::Node for Service {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<NodeDescription>, Status> {
        Ok(Response::new(NodeDescription {
            node_id: NODE_ID.to_owned(),
            ram_mb: CAPACITY_MB,
            vcpus: 8,
            disk_total_mb: CAPACITY_MB,
            ..NodeDescription::default()
        }))
    }

    async fn set_target(
        &self,
        request: Request<SetTargetRequest>,
    ) -> Result<Response<WorkspaceReport>, Status> {
        Ok(Response::new(self.workspaces.set_target(request.into_inner()).await?))
    }

    async fn set_paused(
        &self,
        request: Request<SetPausedRequest>,
    ) -> Result<Response<WorkspaceReport>, Status> {
        Ok(Response::new(self.workspaces.set_paused(request.into_inner()).await?))
    }

    type WatchStream = Events<WatchEvent>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(self.machine.reports().subscribe().into_stream())))
    }

    type WatchRefusalsStream = Events<RefusalBatch>;

    async fn watch_refusals(
        &self,
        _: Request<WatchRefusalsRequest>,
    ) -> Result<Response<Self::WatchRefusalsStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}
