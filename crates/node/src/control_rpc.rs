//! gRPC service for control.

use std::pin::Pin;
use std::sync::Arc;

use rigbox_proto::node::node_server;
use rigbox_proto::node::{
    DescribeRequest, Image, NodeDescription, RefusalBatch, SetPausedRequest, SetTargetRequest, WatchEvent,
    WatchRefusalsRequest, WatchRequest, WorkspaceReport,
};
use rigbox_proto::{DATABASE_HEADER, fault};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Response, Status};

use crate::node::Node;
use crate::workspaces::Workspaces;

/// gRPC service for control.
#[derive(Clone)]
pub(crate) struct ControlService {
    node: Arc<Node>,
    workspaces: Workspaces<Node>,
}

impl ControlService {
    pub(crate) fn new(node: Arc<Node>, workspaces: Workspaces<Node>) -> Self {
        Self { node, workspaces }
    }

    /// Checks which database a call is made for.
    pub(crate) fn check_database(&self, request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let database = request.metadata().get(DATABASE_HEADER).and_then(|id| id.to_str().ok());
        let database = database.and_then(|id| id.parse().ok()).ok_or_else(|| {
            let message = format!("{DATABASE_HEADER}: the id of the caller's database is missing or invalid");
            fault::status(Code::InvalidArgument, "bad_request", message)
        })?;
        self.node.owner.check(&database, || self.workspaces.is_empty())?;
        Ok(request)
    }
}

#[tonic::async_trait]
impl node_server::Node for ControlService {
    async fn describe(
        &self,
        _: tonic::Request<DescribeRequest>,
    ) -> Result<Response<NodeDescription>, Status> {
        let (disk_total_mb, disk_reserved_mb) = self.node.disks.space_mb()?;
        let images = self.node.images.all().map(|image| Image {
            name: image.name.clone(),
            version: image.version.clone(),
            min_disk_mb: image.min_disk_mb,
        });
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let memory = nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total());
        Ok(Response::new(NodeDescription {
            node_id: self.node.id(),
            driver: self.node.driver.name.to_owned(),
            accelerator: self.node.driver.accelerator.to_owned(),
            reason: self.node.driver.reason.clone(),
            images: images.collect(),
            vcpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            ram_mb: memory >> 20,
            disk_total_mb,
            disk_reserved_mb,
            findings: self.node.findings(),
        }))
    }

    async fn set_target(
        &self,
        request: tonic::Request<SetTargetRequest>,
    ) -> Result<Response<WorkspaceReport>, Status> {
        Ok(Response::new(self.workspaces.set_target(request.into_inner()).await?))
    }

    async fn set_paused(
        &self,
        request: tonic::Request<SetPausedRequest>,
    ) -> Result<Response<WorkspaceReport>, Status> {
        Ok(Response::new(self.workspaces.set_paused(request.into_inner()).await?))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(&self, _: tonic::Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(self.node.reports.subscribe().into_stream())))
    }

    type WatchRefusalsStream = Pin<Box<dyn Stream<Item = Result<RefusalBatch, Status>> + Send>>;

    async fn watch_refusals(
        &self,
        _: tonic::Request<WatchRefusalsRequest>,
    ) -> Result<Response<Self::WatchRefusalsStream>, Status> {
        Ok(Response::new(Box::pin(self.node.refusals.subscribe().map(Ok))))
    }
}
