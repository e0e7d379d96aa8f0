//! gRPC service for control: finds or creates the workspace's task and forwards the request to it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::node_server;
use rigbox_proto::node::{
    DeleteRequest, DeleteResponse, DescribeRequest, Image, NodeDescription, ProvisionRequest,
    ProvisionResponse, RefusalBatch, SetNetworkRequest, SetNetworkResponse, StartRequest, StartResponse,
    StopRequest, StopResponse, Synced, WatchEvent, WatchRefusalsRequest, WatchRequest, watch_event,
};
use rigbox_proto::{DATABASE_HEADER, fault};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Response, Status};

use crate::error::Error;
use crate::net::policy::Policy;
use crate::node::Node;
use crate::workspace::{Request, Workspace};

/// Requests that may be queued for one workspace's task.
const MAX_QUEUED_REQUESTS: usize = 16;

/// gRPC service for control.
#[derive(Clone)]
pub(crate) struct ControlService {
    node: Arc<Node>,
    tasks: Arc<Mutex<HashMap<WorkspaceId, Task>>>,
}

/// Running task of a workspace.
struct Task {
    slot: u32,
    requests: mpsc::Sender<Request>,
}

impl ControlService {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, tasks: Arc::default() }
    }

    /// Starts the task of a recorded workspace.
    pub(crate) fn adopt(&self, id: WorkspaceId, slot: u32, workspace: Workspace) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.insert(id.clone(), self.spawn(id, slot, workspace));
    }

    /// Checks which database a call is made for.
    pub(crate) fn check_database(&self, request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let database = request.metadata().get(DATABASE_HEADER).and_then(|id| id.to_str().ok());
        let database = database.and_then(|id| id.parse().ok()).ok_or_else(|| {
            let message = format!("{DATABASE_HEADER}: the id of the caller's database is missing or invalid");
            fault::status(Code::InvalidArgument, "bad_request", message)
        })?;
        let is_empty = || self.tasks.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        self.node.owner.check(&database, is_empty)?;
        Ok(request)
    }

    fn spawn(&self, id: WorkspaceId, slot: u32, workspace: Workspace) -> Task {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: each workspace's own queue of control's requests; control waits"
        )]
        let (requests, receiver) = mpsc::channel(MAX_QUEUED_REQUESTS);
        let tasks = Arc::clone(&self.tasks);
        let own_requests = requests.clone();
        tokio::spawn(async move {
            workspace.run(receiver).await;
            let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
            if tasks.get(&id).is_some_and(|task| task.requests.same_channel(&own_requests)) {
                tasks.remove(&id);
            }
        });
        Task { slot, requests }
    }

    /// Returns the queue of the workspace's task. With `create`, starts a task if there is none.
    fn requests_of(&self, id: &WorkspaceId, create: bool) -> Result<Option<mpsc::Sender<Request>>, Status> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = tasks.get(id).filter(|task| !task.requests.is_closed()) {
            return Ok(Some(task.requests.clone()));
        }
        if !create {
            return Ok(None);
        }
        let used_slots = tasks.values().map(|task| task.slot).collect();
        let slot = self.node.config.free_slot(&used_slots).ok_or_else(|| {
            let message = "the node is full: it has no uid for another workspace";
            fault::status(Code::ResourceExhausted, "node_full", message)
        })?;
        let task = self.spawn(id.clone(), slot, Workspace::new(Arc::clone(&self.node), id.clone(), slot));
        let requests = task.requests.clone();
        tasks.insert(id.clone(), task);
        Ok(Some(requests))
    }

    /// Sends a request to the workspace's task and waits for the response. `None`: the node has no such workspace.
    async fn call<T>(
        &self,
        workspace_id: &str,
        create: bool,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<Option<T>, Status> {
        let id: WorkspaceId = workspace_id.parse().map_err(|error: rigbox_core::ids::InvalidId| {
            fault::status(Code::InvalidArgument, "bad_request", error.to_string())
        })?;
        let Some(requests) = self.requests_of(&id, create)? else { return Ok(None) };
        let (reply, response) = oneshot::channel();
        // Without a fault code, control retries.
        let busy = || Status::unavailable(format!("workspace {id} is being deleted; try again later"));
        requests.send(request(reply)).await.map_err(|_| busy())?;
        Ok(Some(response.await.map_err(|_| busy())??))
    }
}

fn not_found(workspace_id: &str) -> Status {
    let message = format!("workspace {workspace_id} not found on this node");
    fault::status(Code::NotFound, "not_found", message)
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

    async fn provision(
        &self,
        request: tonic::Request<ProvisionRequest>,
    ) -> Result<Response<ProvisionResponse>, Status> {
        let request = request.into_inner();
        let id = request.workspace_id.clone();
        let image_version = self.call(&id, true, |reply| Request::Provision(request, reply)).await?;
        let image_version = image_version.ok_or_else(|| not_found(&id))?;
        Ok(Response::new(ProvisionResponse { image_version }))
    }

    async fn start(&self, request: tonic::Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let request = request.into_inner();
        let id = request.workspace_id.clone();
        let response = self.call(&id, false, |reply| Request::Start(request, reply)).await?;
        Ok(Response::new(response.ok_or_else(|| not_found(&id))?))
    }

    async fn stop(&self, request: tonic::Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let request = request.into_inner();
        let id = request.workspace_id.clone();
        let stopped = self.call(&id, false, |reply| Request::Stop(request, reply)).await?;
        stopped.map(|()| Response::new(StopResponse {})).ok_or_else(|| not_found(&id))
    }

    async fn set_network(
        &self,
        request: tonic::Request<SetNetworkRequest>,
    ) -> Result<Response<SetNetworkResponse>, Status> {
        let SetNetworkRequest { workspace_id: id, network, revision } = request.into_inner();
        let policy = Policy::try_from(network.unwrap_or_default())?;
        let set = self.call(&id, false, |reply| Request::SetNetwork(policy, revision, reply)).await?;
        set.map(|revision| Response::new(SetNetworkResponse { revision })).ok_or_else(|| not_found(&id))
    }

    async fn delete(
        &self,
        request: tonic::Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let DeleteRequest { workspace_id, generation } = request.into_inner();
        // An unknown workspace has already been deleted.
        self.call(&workspace_id, false, |reply| Request::Delete(generation, reply)).await?;
        Ok(Response::new(DeleteResponse {}))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(&self, _: tonic::Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (current, events) = self.node.reports.subscribe();
        let wrap = |event| Ok(WatchEvent { event: Some(event) });
        let synced = watch_event::Event::Synced(Synced {});
        let current = current.into_iter().map(watch_event::Event::Report).chain([synced]).map(wrap);
        let current = tokio_stream::iter(current.collect::<Vec<_>>());
        let events = event_stream(events).map(move |event| event.and_then(wrap));
        Ok(Response::new(Box::pin(current.chain(events))))
    }

    type WatchRefusalsStream = Pin<Box<dyn Stream<Item = Result<RefusalBatch, Status>> + Send>>;

    async fn watch_refusals(
        &self,
        _: tonic::Request<WatchRefusalsRequest>,
    ) -> Result<Response<Self::WatchRefusalsStream>, Status> {
        Ok(Response::new(Box::pin(self.node.refusals.subscribe().map(Ok))))
    }
}

fn event_stream<T: Clone + Send + 'static>(
    events: broadcast::Receiver<T>,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let events = tokio_stream::wrappers::BroadcastStream::new(events);
    events.map(|event| event.map_err(|_| Status::data_loss("the subscriber was too slow; watch again")))
}
