//! Node without VMs, speaking the real protocol: it keeps the node's promises (idempotent targets, ignored old generations, whole reports
//! in order), and lets a test hold or fail each kind of target. The kinds are `provision` (a new disk), `start`, `stop`, `delete`, and
//! `set_network` for a target that the node has already.

use std::collections::HashSet;
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

mod state;

use state::{Inner, SimulatedWorkspace};

pub(crate) struct Node {
    inner: Mutex<Inner>,
    held: watch::Sender<HashSet<&'static str>>,
    events: broadcast::Sender<WorkspaceReport>,
    refused: broadcast::Sender<EgressRefused>,
}

impl Default for Node {
    fn default() -> Self {
        let events = broadcast::channel(1024).0;
        Self {
            inner: Mutex::new(Inner::new(events.clone())),
            held: watch::channel(HashSet::new()).0,
            events,
            refused: broadcast::channel(16).0,
        }
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
    pub(crate) fn start_request(&self, id: &str) -> Option<SetTargetRequest> {
        self.inner.lock().unwrap().starts.get(id).cloned()
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

    /// Makes starts wait in the queue of boots, or boots those that wait.
    pub(crate) fn queue_boots(&self, position: Option<u32>) {
        let mut inner = self.inner.lock().unwrap();
        inner.queue_position = position;
        let waiting = inner.workspaces.iter().filter(|(_, workspace)| workspace.queue_position.is_some());
        let waiting: Vec<_> = waiting.map(|(id, _)| id.clone()).collect();
        for id in waiting {
            inner.converge(&id, position);
        }
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
        self.inner.lock().unwrap().workspaces.get(id).is_some_and(SimulatedWorkspace::is_alive)
    }

    /// Adds a workspace that no one requested, with a VM if it has a boot.
    pub(crate) fn add_orphan(&self, id: &str, generation: u64, boot: Option<&str>) {
        let (desired, vm) = match boot {
            Some(_) => (Desired::Running, VmState::VmRunning),
            None => (Desired::Stopped, VmState::VmNone),
        };
        let (boot, boot_generation) = (boot.unwrap_or_default().to_owned(), generation);
        let workspace = SimulatedWorkspace {
            generation,
            desired,
            vm,
            boot,
            boot_generation,
            ..SimulatedWorkspace::default()
        };
        let mut inner = self.inner.lock().unwrap();
        inner.workspaces.insert(id.to_owned(), workspace);
        inner.announce(id);
    }

    /// Adds a workspace that no one requested, and whose disk was never completed.
    pub(crate) fn add_orphan_without_disk(&self, id: &str) {
        self.add_orphan(id, 1, None);
        let mut inner = self.inner.lock().unwrap();
        inner.workspaces.get_mut(id).unwrap().lacks_disk = true;
    }

    /// Removes a workspace, as if the journal had been lost.
    pub(crate) fn forget(&self, id: &str) {
        self.inner.lock().unwrap().workspaces.remove(id);
    }

    /// Ends the VM.
    pub(crate) fn end(&self, id: &str, cause: Cause) {
        let mut inner = self.inner.lock().unwrap();
        inner.workspaces.get_mut(id).unwrap().end(cause);
        inner.announce(id);
        inner.converge(id, None);
    }

    pub(crate) fn lose_agent(&self, id: &str, lost: bool) {
        let mut inner = self.inner.lock().unwrap();
        inner.workspaces.get_mut(id).unwrap().agent_lost = lost;
        inner.announce(id);
    }

    /// Ends the VM of a workspace that shuts down.
    async fn shut_down(self: Arc<Self>, id: String) {
        self.held.subscribe().wait_for(|held| !held.contains("end")).await.unwrap();
        let stopping = self
            .inner
            .lock()
            .unwrap()
            .workspaces
            .get(&id)
            .is_some_and(|workspace| workspace.vm == VmState::VmStopping);
        if stopping {
            self.end(&id, Cause::Requested);
        }
    }
}

pub(crate) struct SimulatedService(Arc<Node>);

pub(crate) fn serve(runtime: &Runtime, node: Arc<Node>, socket: &Path) {
    let _ = std::fs::remove_file(socket);
    let _inside = runtime.enter();
    let listener = UnixListener::bind(socket).unwrap();
    node.inner.lock().unwrap().session += 1;
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

    async fn set_paused(&self, _: Request<SetPausedRequest>) -> Result<Response<WorkspaceReport>, Status> {
        Err(Status::unimplemented("control pauses no VM"))
    }

    async fn set_target(&self, r: Request<SetTargetRequest>) -> Result<Response<WorkspaceReport>, Status> {
        let r = r.into_inner();
        let kind = {
            let mut inner = self.0.inner.lock().unwrap();
            let kind = inner.kind(&r);
            inner.calls.push((kind, r.workspace_id.clone(), r.generation));
            kind
        };
        self.0.held.subscribe().wait_for(|held| !held.contains(kind)).await.unwrap();
        let mut inner = self.0.inner.lock().unwrap();
        if let Some((code, message)) = inner.faults.get(kind) {
            return Err(fault::status(Code::FailedPrecondition, code, *message));
        }
        let report = inner.set_target(&r);
        if report.vm() == VmState::VmStopping {
            tokio::spawn(self.0.clone().shut_down(r.workspace_id));
        }
        Ok(Response::new(report))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut inner = self.0.inner.lock().unwrap();
        inner.calls.push(("watch", String::new(), 0));
        let later = BroadcastStream::new(self.0.events.subscribe()).map(|report| {
            let report = report.map_err(|_| Status::data_loss("too slow"))?;
            Ok(WatchEvent { event: Some(watch_event::Event::Report(report)) })
        });
        let ids: Vec<_> = inner.workspaces.keys().cloned().collect();
        let mut first: Vec<_> = ids.iter().map(|id| watch_event::Event::Report(inner.report(id))).collect();
        first.push(watch_event::Event::Synced(Synced { session: inner.session, sequence: inner.sequence }));
        let mut first: Vec<_> =
            first.into_iter().map(|event| Ok(WatchEvent { event: Some(event) })).collect();
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
