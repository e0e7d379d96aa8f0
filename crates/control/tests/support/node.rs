//! Node without VMs, speaking the real protocol: it keeps the node's promises (idempotent calls, refused old
//! generations, reports), and lets a test hold or fail each call.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt, stream};
use rigbox_proto::node::node_server::{Node as Service, NodeServer};
use rigbox_proto::node::*;
use rigbox_proto::{DATABASE_HEADER, fault};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::{BroadcastStream, UnixListenerStream};
use tonic::{Code, Request, Response, Status};

#[derive(Default)]
pub(crate) struct SimulatedWorkspace {
    pub(crate) generation: u64,
    pub(crate) state: State,
    pub(crate) boot: String,
    pub(crate) end: Option<End>,
    pub(crate) agent_lost: bool,
}

#[derive(Default)]
struct Inner {
    workspaces: BTreeMap<String, SimulatedWorkspace>,
    boots: u32,
    calls: Vec<(&'static str, String, u64)>,
    faults: HashMap<&'static str, (&'static str, &'static str)>,
    /// Revisions and policies.
    networks: HashMap<String, (u64, NetworkPolicy)>,
    starts: HashMap<String, StartRequest>,
    unfinished_boots: bool,
    /// Place in the queue of boots of whoever starts.
    queue_position: Option<u32>,
    /// Database whose workspaces these are.
    database: Option<String>,
    /// Calls for another database.
    refused_calls: usize,
}

impl Inner {
    /// Replaces a policy unless it is later. Returns the revision afterwards.
    fn set_network(&mut self, id: String, revision: u64, policy: Option<NetworkPolicy>) -> u64 {
        let has = self.networks.entry(id).or_default();
        if revision >= has.0 {
            *has = (revision, policy.unwrap());
        }
        has.0
    }
}

pub(crate) struct Node {
    inner: Mutex<Inner>,
    held: watch::Sender<HashSet<&'static str>>,
    events: broadcast::Sender<WorkspaceReport>,
    refused: broadcast::Sender<EgressRefused>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            held: watch::channel(HashSet::new()).0,
            events: broadcast::channel(1024).0,
            refused: broadcast::channel(16).0,
        }
    }
}

fn report(id: &str, workspace: &SimulatedWorkspace) -> WorkspaceReport {
    WorkspaceReport {
        workspace_id: id.to_owned(),
        generation: workspace.generation,
        state: workspace.state.into(),
        boot_id: workspace.boot.clone(),
        end: workspace.end.clone(),
        agent_lost: workspace.agent_lost,
        system: "running".to_owned(),
        disk_size_mb: 4096,
    }
}

impl Node {
    /// Makes a call respond only after `release`.
    pub(crate) fn hold(&self, call: &'static str) {
        self.held.send_modify(|held| {
            held.insert(call);
        });
    }

    pub(crate) fn release(&self, call: &'static str) {
        self.held.send_modify(|held| {
            held.remove(call);
        });
    }

    /// Returns the last network policy of a workspace.
    pub(crate) fn network(&self, id: &str) -> Option<NetworkPolicy> {
        self.inner.lock().unwrap().networks.get(id).map(|(_, policy)| policy.clone())
    }

    /// Makes the node have a policy that control has not sent.
    pub(crate) fn set_network(&self, id: &str, revision: u64, mode: egress::Mode) {
        let egress = Some(Egress { mode: mode.into(), ..Egress::default() });
        let policy = NetworkPolicy { egress, ..NetworkPolicy::default() };
        self.inner.lock().unwrap().networks.insert(id.to_owned(), (revision, policy));
    }

    /// Makes the node have a revision of a workspace's policy.
    pub(crate) fn set_network_revision(&self, id: &str, revision: u64) {
        self.inner.lock().unwrap().networks.get_mut(id).unwrap().0 = revision;
    }

    /// Returns the database whose workspaces the node has.
    pub(crate) fn database(&self) -> Option<String> {
        self.inner.lock().unwrap().database.clone()
    }

    /// Returns the number of calls for another database.
    pub(crate) fn refused_calls(&self) -> usize {
        self.inner.lock().unwrap().refused_calls
    }

    fn check_database(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let caller = request.metadata().get(DATABASE_HEADER).unwrap().to_str().unwrap().to_owned();
        let mut inner = self.inner.lock().unwrap();
        if inner.database.as_ref().is_some_and(|known| *known != caller) && !inner.workspaces.is_empty() {
            inner.refused_calls += 1;
            return Err(fault::status(Code::FailedPrecondition, "foreign_database", "another database"));
        }
        inner.database = Some(caller);
        drop(inner);
        Ok(request)
    }

    /// Returns the last request that started a workspace.
    pub(crate) fn start_request(&self, id: &str) -> Option<StartRequest> {
        self.inner.lock().unwrap().starts.get(id).cloned()
    }

    /// Returns whether control follows reports.
    pub(crate) fn is_watched(&self) -> bool {
        self.events.receiver_count() > 0
    }

    /// Returns whether control follows refusals.
    pub(crate) fn is_watched_for_refusals(&self) -> bool {
        self.refused.receiver_count() > 0
    }

    /// Reports to control that a workspace was refused network access.
    pub(crate) fn refuse(&self, refused: EgressRefused) {
        self.refused.send(refused).unwrap();
    }

    pub(crate) fn fail(&self, call: &'static str, code: &'static str, message: &'static str) {
        self.inner.lock().unwrap().faults.insert(call, (code, message));
    }

    pub(crate) fn recover(&self, call: &'static str) {
        self.inner.lock().unwrap().faults.remove(call);
    }

    /// Makes boots never reach their agent's hello.
    pub(crate) fn never_finish_boots(&self) {
        self.inner.lock().unwrap().unfinished_boots = true;
    }

    /// Makes starts wait in the queue of boots.
    pub(crate) fn queue_boots(&self, position: Option<u32>) {
        self.inner.lock().unwrap().queue_position = position;
    }

    pub(crate) fn calls(&self, call: &str) -> usize {
        self.inner.lock().unwrap().calls.iter().filter(|(called, ..)| *called == call).count()
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.inner.lock().unwrap().workspaces.contains_key(id)
    }

    pub(crate) fn boot(&self, id: &str) -> Option<String> {
        self.inner.lock().unwrap().workspaces.get(id).map(|workspace| workspace.boot.clone())
    }

    pub(crate) fn alive(&self, id: &str) -> bool {
        let inner = self.inner.lock().unwrap();
        inner.workspaces.get(id).is_some_and(|workspace| {
            matches!(workspace.state, State::Booting | State::Running | State::Stopping)
        })
    }

    /// Adds a workspace that no one requested.
    pub(crate) fn add_orphan(&self, id: &str, generation: u64, state: State, boot: &str) {
        let workspace =
            SimulatedWorkspace { generation, state, boot: boot.to_owned(), ..SimulatedWorkspace::default() };
        let _ = self.events.send(report(id, &workspace));
        self.inner.lock().unwrap().workspaces.insert(id.to_owned(), workspace);
    }

    /// Removes a workspace, as if the journal had been lost.
    pub(crate) fn forget(&self, id: &str) {
        self.inner.lock().unwrap().workspaces.remove(id);
    }

    /// Ends the VM.
    pub(crate) fn end(&self, id: &str, cause: Cause) {
        self.change(id, |workspace| {
            workspace.state = State::Stopped;
            workspace.end = Some(End { cause: cause.into(), detail: String::new() });
        });
    }

    pub(crate) fn lose_agent(&self, id: &str, lost: bool) {
        self.change(id, |workspace| workspace.agent_lost = lost);
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut SimulatedWorkspace)) {
        let mut inner = self.inner.lock().unwrap();
        let workspace = inner.workspaces.get_mut(id).unwrap();
        change(workspace);
        let _ = self.events.send(report(id, workspace));
    }

    async fn call(&self, call: &'static str, id: &str, generation: u64) -> Result<(), Status> {
        self.inner.lock().unwrap().calls.push((call, id.to_owned(), generation));
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held.contains(call)).await.unwrap();
        let mut inner = self.inner.lock().unwrap();
        if let Some((code, message)) = inner.faults.get(call) {
            return Err(fault::status(Code::FailedPrecondition, code, *message));
        }
        if let Some(workspace) = inner.workspaces.get_mut(id) {
            if generation < workspace.generation {
                return Err(fault::status(Code::Aborted, "stale_generation", "older generation"));
            }
            workspace.generation = generation;
        }
        Ok(())
    }
}

pub(crate) struct SimulatedService(Arc<Node>);

pub(crate) fn serve(runtime: &Runtime, node: Arc<Node>, socket: &Path) {
    let _ = std::fs::remove_file(socket);
    let _inside = runtime.enter();
    let listener = UnixListener::bind(socket).unwrap();
    let service = NodeServer::with_interceptor(SimulatedService(Arc::clone(&node)), move |request| {
        node.check_database(request)
    });
    let server = tonic::transport::Server::builder().add_service(service);
    runtime
        .spawn(async move { server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap() });
}

#[tonic::async_trait]
impl Service for SimulatedService {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<NodeDescription>, Status> {
        self.0.held.subscribe().wait_for(|held| !held.contains("describe")).await.unwrap();
        Ok(Response::new(NodeDescription {
            node_id: "node-aaaaaaaa".into(),
            driver: "qemu".into(),
            accelerator: "tcg".into(),
            reason: "simulated".into(),
            images: vec![Image { name: "base".into(), version: "base-1".into(), min_disk_mb: 2048 }],
            vcpus: 4,
            ram_mb: 8192,
            disk_total_mb: 100_000,
            disk_reserved_mb: 10_000,
            findings: vec![Finding {
                level: finding::Level::Warning.into(),
                subject: "kvm".into(),
                message: "not here".into(),
                remedy: "enable it".into(),
            }],
        }))
    }

    async fn provision(&self, r: Request<ProvisionRequest>) -> Result<Response<ProvisionResponse>, Status> {
        let r = r.into_inner();
        self.0.call("provision", &r.workspace_id, r.generation).await?;
        let mut inner = self.0.inner.lock().unwrap();
        let workspace = inner.workspaces.entry(r.workspace_id.clone()).or_default();
        if workspace.state == State::Unspecified {
            (workspace.state, workspace.generation) = (State::Stopped, r.generation);
        }
        let _ = self.0.events.send(report(&r.workspace_id, workspace));
        Ok(Response::new(ProvisionResponse { image_version: "base-1".into() }))
    }

    async fn start(&self, r: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let r = r.into_inner();
        self.0.call("start", &r.workspace_id, r.generation).await?;
        let mut inner = self.0.inner.lock().unwrap();
        if let Some(position) = inner.queue_position {
            let outcome = Some(start_response::Outcome::QueuePosition(position));
            return Ok(Response::new(StartResponse { outcome, network_revision: r.network_revision }));
        }
        inner.boots += 1;
        inner.starts.insert(r.workspace_id.clone(), r.clone());
        let network_revision =
            inner.set_network(r.workspace_id.clone(), r.network_revision, r.network.clone());
        let (boot, silent) = (format!("boot-{}", inner.boots), inner.unfinished_boots);
        let Some(workspace) = inner.workspaces.get_mut(&r.workspace_id) else {
            return Err(fault::status(Code::NotFound, "not_found", "no disk of that workspace"));
        };
        if workspace.state == State::Stopped {
            (workspace.state, workspace.boot, workspace.end) = (State::Booting, boot, None);
            let _ = self.0.events.send(report(&r.workspace_id, workspace));
            if !silent {
                workspace.state = State::Running;
                let _ = self.0.events.send(report(&r.workspace_id, workspace));
            }
        }
        let outcome = Some(start_response::Outcome::BootId(workspace.boot.clone()));
        Ok(Response::new(StartResponse { outcome, network_revision }))
    }

    async fn set_network(
        &self,
        request: Request<rigbox_proto::node::SetNetworkRequest>,
    ) -> Result<Response<rigbox_proto::node::SetNetworkResponse>, Status> {
        let SetNetworkRequest { workspace_id, network, revision } = request.into_inner();
        self.0.inner.lock().unwrap().calls.push(("set_network", workspace_id.clone(), revision));
        self.0.held.subscribe().wait_for(|held| !held.contains("set_network")).await.unwrap();
        let mut inner = self.0.inner.lock().unwrap();
        if !inner.workspaces.contains_key(&workspace_id) {
            return Err(fault::status(Code::NotFound, "not_found", "no such workspace"));
        }
        let revision = inner.set_network(workspace_id, revision, network);
        drop(inner);
        Ok(Response::new(rigbox_proto::node::SetNetworkResponse { revision }))
    }

    async fn stop(&self, r: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let r = r.into_inner();
        self.0.call("stop", &r.workspace_id, r.generation).await?;
        let alive = self.0.alive(&r.workspace_id);
        if !self.0.has(&r.workspace_id) {
            return Err(fault::status(Code::NotFound, "not_found", "no such workspace"));
        }
        if alive {
            self.0.change(&r.workspace_id, |workspace| workspace.state = State::Stopping);
            let (node, id) = (self.0.clone(), r.workspace_id);
            tokio::spawn(async move {
                let mut held = node.held.subscribe();
                held.wait_for(|held| !held.contains("end")).await.unwrap();
                if node.alive(&id) {
                    node.end(&id, Cause::Requested);
                }
            });
        }
        Ok(Response::new(StopResponse {}))
    }

    async fn delete(&self, r: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let r = r.into_inner();
        self.0.call("delete", &r.workspace_id, r.generation).await?;
        self.0.inner.lock().unwrap().workspaces.remove(&r.workspace_id);
        let gone = SimulatedWorkspace {
            generation: r.generation,
            state: State::Absent,
            ..SimulatedWorkspace::default()
        };
        let _ = self.0.events.send(report(&r.workspace_id, &gone));
        Ok(Response::new(DeleteResponse {}))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let inner = self.0.inner.lock().unwrap();
        let later = BroadcastStream::new(self.0.events.subscribe()).map(|report| {
            let report = report.map_err(|_| Status::data_loss("too slow"))?;
            Ok(WatchEvent { event: Some(watch_event::Event::Report(report)) })
        });
        let mut first: Vec<_> = inner
            .workspaces
            .iter()
            .map(|(id, workspace)| watch_event::Event::Report(report(id, workspace)))
            .chain([watch_event::Event::Synced(Synced {})])
            .map(|event| Ok(WatchEvent { event: Some(event) }))
            .collect();
        let mut held = self.0.held.subscribe();
        let released = async move { drop(held.wait_for(|held| !held.contains("watch")).await) };
        let reports = stream::once(released).flat_map(move |()| stream::iter(std::mem::take(&mut first)));
        Ok(Response::new(Box::pin(reports.chain(later))))
    }

    type WatchRefusalsStream = Pin<Box<dyn Stream<Item = Result<RefusalBatch, Status>> + Send>>;

    async fn watch_refusals(
        &self,
        _: Request<WatchRefusalsRequest>,
    ) -> Result<Response<Self::WatchRefusalsStream>, Status> {
        let refused = BroadcastStream::new(self.0.refused.subscribe()).map(|refused| {
            let refused = refused.map_err(|_| Status::data_loss("too slow"))?;
            Ok(RefusalBatch { refused: vec![refused] })
        });
        Ok(Response::new(Box::pin(refused)))
    }
}
