//! The gRPC service for control: finds or makes the workspace's task and passes the request on.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::fault;
use rigbox_proto::node::node_server;
use rigbox_proto::node::{
    DeleteRequest, DeleteResponse, DescribeRequest, Image, NodeDescription, ProvisionRequest,
    ProvisionResponse, SetNetworkRequest, SetNetworkResponse, StartRequest, StartResponse, StopRequest,
    StopResponse, Synced, WatchEvent, WatchRequest, watch_event,
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Response, Status};

use crate::error::Error;
use crate::net::policy::Policy;
use crate::node::Node;
use crate::workspace::{Request, Workspace};

/// Requests that may wait for one workspace's task.
const QUEUE: usize = 16;

/// The service.
#[derive(Clone)]
pub(crate) struct Service {
    node: Arc<Node>,
    workspaces: Arc<Mutex<HashMap<WorkspaceId, Entry>>>,
}

struct Entry {
    slot: u32,
    requests: mpsc::Sender<Request>,
}

impl Service {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, workspaces: Arc::default() }
    }

    /// Starts the task of a workspace on record.
    pub(crate) fn adopt(&self, id: WorkspaceId, slot: u32, workspace: Workspace) {
        let mut workspaces = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        workspaces.insert(id.clone(), self.spawn(id, slot, workspace));
    }

    fn spawn(&self, id: WorkspaceId, slot: u32, workspace: Workspace) -> Entry {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let workspaces = Arc::clone(&self.workspaces);
        let own = requests.clone();
        tokio::spawn(async move {
            workspace.run(receiver).await;
            let mut workspaces = workspaces.lock().unwrap_or_else(PoisonError::into_inner);
            if workspaces.get(&id).is_some_and(|entry| entry.requests.same_channel(&own)) {
                workspaces.remove(&id);
            }
        });
        Entry { slot, requests }
    }

    /// The workspace's task; made when `create`.
    fn task(&self, id: &WorkspaceId, create: bool) -> Result<Option<mpsc::Sender<Request>>, Status> {
        let mut workspaces = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = workspaces.get(id).filter(|entry| !entry.requests.is_closed()) {
            return Ok(Some(entry.requests.clone()));
        }
        if !create {
            return Ok(None);
        }
        // Slot 0 is the probe's.
        let taken: std::collections::HashSet<u32> = workspaces.values().map(|entry| entry.slot).collect();
        let slot =
            (1..self.node.config.vm_uid_count).find(|slot| !taken.contains(slot)).ok_or_else(|| {
                fault::status(
                    Code::ResourceExhausted,
                    "node_full",
                    "the node has as many workspaces as it has uids for",
                )
            })?;
        let entry = self.spawn(id.clone(), slot, Workspace::new(Arc::clone(&self.node), id.clone(), slot));
        let requests = entry.requests.clone();
        workspaces.insert(id.clone(), entry);
        Ok(Some(requests))
    }

    async fn ask<T>(
        &self,
        workspace_id: &str,
        create: bool,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<Option<T>, Status> {
        let id: WorkspaceId = workspace_id.parse().map_err(|error: rigbox_core::ids::InvalidId| {
            fault::status(Code::InvalidArgument, "bad_request", error.to_string())
        })?;
        let Some(task) = self.task(&id, create)? else { return Ok(None) };
        let (answer, answered) = oneshot::channel();
        // Without a fault: control asks again.
        let busy = || Status::unavailable(format!("{id} is being deleted: ask again"));
        task.send(request(answer)).await.map_err(|_| busy())?;
        Ok(Some(answered.await.map_err(|_| busy())??))
    }
}

fn unknown(workspace_id: &str) -> Status {
    let message = format!("this node has nothing of {workspace_id}");
    fault::status(Code::NotFound, "not_found", message)
}

#[tonic::async_trait]
impl node_server::Node for Service {
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
            driver: "qemu".to_owned(),
            accelerator: self.node.accelerator.to_owned(),
            reason: self.node.reason.clone(),
            images: images.collect(),
            vcpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            ram_mb: memory >> 20,
            disk_total_mb,
            disk_reserved_mb,
            findings: self.node.findings(),
        }))
    }

    async fn provision(
        &self,
        request: tonic::Request<ProvisionRequest>,
    ) -> Result<Response<ProvisionResponse>, Status> {
        let request = request.into_inner();
        let id = request.workspace_id.clone();
        let image_version = self.ask(&id, true, |answer| Request::Provision(request, answer)).await?;
        let image_version = image_version.ok_or_else(|| unknown(&id))?;
        Ok(Response::new(ProvisionResponse { image_version }))
    }

    async fn start(&self, request: tonic::Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let request = request.into_inner();
        let id = request.workspace_id.clone();
        let boot_id = self.ask(&id, false, |answer| Request::Start(request, answer)).await?;
        Ok(Response::new(StartResponse { boot_id: boot_id.ok_or_else(|| unknown(&id))? }))
    }

    async fn stop(&self, request: tonic::Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let request = request.into_inner();
        let id = request.workspace_id.clone();
        let stopped = self.ask(&id, false, |answer| Request::Stop(request, answer)).await?;
        stopped.map(|()| Response::new(StopResponse {})).ok_or_else(|| unknown(&id))
    }

    async fn set_network(
        &self,
        request: tonic::Request<SetNetworkRequest>,
    ) -> Result<Response<SetNetworkResponse>, Status> {
        let SetNetworkRequest { workspace_id: id, network } = request.into_inner();
        let policy = Policy::try_from(network.unwrap_or_default())?;
        let set = self.ask(&id, false, |answer| Request::SetNetwork(policy, answer)).await?;
        set.map(|()| Response::new(SetNetworkResponse {})).ok_or_else(|| unknown(&id))
    }

    async fn delete(
        &self,
        request: tonic::Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let DeleteRequest { workspace_id, generation } = request.into_inner();
        // A workspace that is not known is gone already.
        self.ask(&workspace_id, false, |answer| Request::Delete(generation, answer)).await?;
        Ok(Response::new(DeleteResponse {}))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(&self, _: tonic::Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (known, changes) = self.node.reports.watch();
        let event = |event| Ok(WatchEvent { event: Some(event) });
        let synced = watch_event::Event::Synced(Synced {});
        let known = known.into_iter().map(watch_event::Event::Report).chain([synced]).map(event);
        let known = tokio_stream::iter(known.collect::<Vec<_>>());
        let changes = futures_changes(changes).map(move |change| change.and_then(event));
        Ok(Response::new(Box::pin(known.chain(changes))))
    }
}

fn futures_changes<T: Clone + Send + 'static>(
    changes: broadcast::Receiver<T>,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let changes = tokio_stream::wrappers::BroadcastStream::new(changes);
    changes.map(|change| change.map_err(|_| Status::data_loss("the listener was too slow: watch again")))
}
