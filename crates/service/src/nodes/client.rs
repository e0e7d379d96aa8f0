//! Client of the node: each call with its timeout, and two kinds of errors: unreachable or refused.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use rigbox_core::ids::{DatabaseId, WorkspaceId};
use rigbox_core::lifecycle::{End, EndCause, ObservedState, Report};
use rigbox_core::system::SystemState;
use rigbox_core::time::Timestamp;
use rigbox_proto::node::node_client::NodeClient as Grpc;
use rigbox_proto::node::start_response::Outcome;
use rigbox_proto::node::{
    Cause, DeleteRequest, DescribeRequest, DiskLimits, EgressRefused, NetworkPolicy, NodeDescription,
    ProvisionRequest, RefusalBatch, SetNetworkRequest, StartRequest, StartResponse, State, StopRequest,
    WatchEvent, WatchRefusalsRequest, WatchRequest, WorkspaceReport, watch_event,
};
use rigbox_proto::transport::client::Channel;
use rigbox_proto::{DATABASE_HEADER, fault};
use rigbox_store::Workspace;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Status, Streaming};

use crate::rpc;

/// Timeout of calls that the node answers at once.
const QUICK_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of calls that wait for disks and processes.
const SLOW_TIMEOUT: Duration = Duration::from_secs(100);
/// Time for a guest to shut down in order.
const STOP_GRACE_PERIOD_MS: u32 = 30_000;
/// Age up to which the node's description is reused.
const DESCRIPTION_TTL: Duration = Duration::from_secs(3);
/// Age up to which a failure to read it is.
const FAILURE_TTL: Duration = Duration::from_millis(500);

/// Error of a call to the node.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// The node does not answer, or cannot now. Retrying is right.
    #[error("the node does not answer: {0}")]
    Unreachable(String),
    /// The node refuses, with a stable code.
    #[error("{message}")]
    Refused {
        /// Stable code.
        code: String,
        /// Message for people.
        message: String,
    },
}

impl From<Status> for NodeError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match fault::code(&status) {
            "unreachable" => Self::Unreachable(message),
            code => Self::Refused { code: code.to_owned(), message },
        }
    }
}

/// Client of the node.
#[derive(Clone)]
pub struct NodeClient {
    grpc: Grpc<Channel>,
    /// Database that the calls are made for.
    database: Option<AsciiMetadataValue>,
    cache: Arc<Mutex<Option<CachedDescription>>>,
    queue: Arc<std::sync::Mutex<HashMap<WorkspaceId, u32>>>,
}

/// Effect of a request to boot a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// Its VM boots, with this id of the boot.
    Booting(String),
    /// This many boots have to end before it begins.
    Queued(u32),
}

struct CachedDescription {
    read_at: Instant,
    /// A failure counts for a moment, so that callers who wait for each other do not wait for one each.
    description: Result<Arc<NodeDescription>, NodeError>,
    /// The last one that was read.
    last: Option<Arc<NodeDescription>>,
}

/// Event in the node's stream of reports.
#[derive(Debug)]
pub enum Event {
    /// State of a workspace, and the size of its disk in MiB.
    Report(WorkspaceId, Report, u32),
    /// All workspaces that the node has were reported.
    Synced,
}

impl NodeClient {
    /// Creates a client that connects to the node's socket on first use.
    pub fn new(socket: &Path, database: &DatabaseId) -> Self {
        // An id has no other characters than a header may have.
        let database = database.as_str().parse().ok();
        let grpc = Grpc::new(rpc::channel(socket));
        Self { grpc, database, cache: Arc::default(), queue: Arc::default() }
    }

    fn request<T>(&self, message: T, timeout: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(database) = &self.database {
            request.metadata_mut().insert(DATABASE_HEADER, database.clone());
        }
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }

    /// Returns the node's description, which is at most a few seconds old.
    pub async fn describe(&self) -> Result<Arc<NodeDescription>, NodeError> {
        let mut cache = self.cache.lock().await;
        if let Some(cached) = cache.as_ref() {
            let ttl = if cached.description.is_ok() { DESCRIPTION_TTL } else { FAILURE_TTL };
            if cached.read_at.elapsed() < ttl {
                return cached.description.clone();
            }
        }
        let request = self.request(DescribeRequest {}, Some(QUICK_TIMEOUT));
        let response = self.grpc.clone().describe(request).await;
        let description = response.map(|response| Arc::new(response.into_inner())).map_err(NodeError::from);
        let last = description.as_ref().ok().cloned().or_else(|| cache.take()?.last);
        *cache = Some(CachedDescription { read_at: Instant::now(), description: description.clone(), last });
        description
    }

    /// Returns the node's description, or the last one that is known while the node does not answer.
    pub async fn describe_or_last(&self) -> Result<Arc<NodeDescription>, NodeError> {
        match self.describe().await {
            Err(error) => {
                let cache = self.cache.lock().await;
                cache.as_ref().and_then(|cached| cached.last.clone()).ok_or(error)
            }
            described => described,
        }
    }

    /// Creates a workspace's disk.
    pub async fn provision(&self, workspace: &Workspace) -> Result<(), NodeError> {
        let request = ProvisionRequest {
            workspace_id: workspace.id.to_string(),
            generation: workspace.lifecycle.generation,
            image: workspace.image.clone(),
            disk_size_mb: workspace.resources.disk_size_mb(),
        };
        self.grpc.clone().provision(self.request(request, Some(SLOW_TIMEOUT))).await?;
        Ok(())
    }

    /// Boots a workspace, or asks for its place in the queue of boots again. Also returns the revision of the network policy that the node has.
    pub async fn start(
        &self,
        workspace: &Workspace,
        metadata_json: String,
        (network_revision, network): (u64, NetworkPolicy),
        disk: DiskLimits,
    ) -> Result<(Started, u64), NodeError> {
        let request = StartRequest {
            workspace_id: workspace.id.to_string(),
            generation: workspace.lifecycle.generation,
            ram_mb: workspace.resources.ram_mb(),
            vcpu_count: workspace.resources.vcpu_count(),
            name: workspace.name.to_string(),
            metadata_json,
            network: Some(network),
            network_revision,
            disk: Some(disk),
            owner: workspace.user_id.to_string(),
        };
        let response = self.grpc.clone().start(self.request(request, Some(SLOW_TIMEOUT))).await;
        let response = response.map(tonic::Response::into_inner);
        if let Ok(StartResponse { outcome: Some(Outcome::QueuePosition(position)), network_revision }) =
            response
        {
            self.queue().insert(workspace.id.clone(), position);
            return Ok((Started::Queued(position), network_revision));
        }
        self.queue().remove(&workspace.id);
        match response? {
            StartResponse { outcome: Some(Outcome::BootId(boot)), network_revision } => {
                Ok((Started::Booting(boot), network_revision))
            }
            StartResponse { .. } => {
                Err(NodeError::Unreachable("the node did not say which boot it began".to_owned()))
            }
        }
    }

    /// Returns how many boots have to end before that of a workspace begins. `None` if it is not in the queue.
    pub fn queue_position(&self, id: &WorkspaceId) -> Option<u32> {
        self.queue().get(id).copied()
    }

    fn queue(&self) -> MutexGuard<'_, HashMap<WorkspaceId, u32>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shuts a workspace down.
    pub async fn stop(&self, id: &WorkspaceId, generation: u64) -> Result<(), NodeError> {
        self.queue().remove(id);
        let request =
            StopRequest { workspace_id: id.to_string(), generation, grace_ms: STOP_GRACE_PERIOD_MS };
        self.grpc.clone().stop(self.request(request, Some(QUICK_TIMEOUT))).await?;
        Ok(())
    }

    /// Sets the network policy of a workspace, unless the node has a later revision. Returns the revision that it has.
    pub async fn set_network(
        &self,
        id: &WorkspaceId,
        revision: u64,
        network: NetworkPolicy,
    ) -> Result<u64, NodeError> {
        let request = SetNetworkRequest { workspace_id: id.to_string(), network: Some(network), revision };
        let response = self.grpc.clone().set_network(self.request(request, Some(QUICK_TIMEOUT))).await?;
        Ok(response.into_inner().revision)
    }

    /// Deletes a workspace and everything it left on the node.
    pub async fn delete(&self, id: &WorkspaceId, generation: u64) -> Result<(), NodeError> {
        self.queue().remove(id);
        let request = DeleteRequest { workspace_id: id.to_string(), generation };
        self.grpc.clone().delete(self.request(request, Some(SLOW_TIMEOUT))).await?;
        Ok(())
    }

    /// Opens the stream of reports.
    pub async fn watch(&self) -> Result<Reports, NodeError> {
        Ok(Reports(self.grpc.clone().watch(self.request(WatchRequest {}, None)).await?.into_inner()))
    }

    /// Opens the stream of refused network access.
    pub async fn watch_refusals(&self) -> Result<Refusals, NodeError> {
        Ok(Refusals(
            self.grpc.clone().watch_refusals(self.request(WatchRefusalsRequest {}, None)).await?.into_inner(),
        ))
    }

    /// Returns the current report about one workspace.
    pub async fn report_of(&self, id: &WorkspaceId) -> Result<Report, NodeError> {
        let query = async {
            let mut reports = self.watch().await?;
            let mut found = Report { generation: 0, observed: ObservedState::Absent };
            loop {
                match reports.next().await? {
                    Some(Event::Report(about, report, _)) if about == *id => found = report,
                    Some(Event::Report(..)) => {}
                    Some(Event::Synced) => return Ok(found),
                    None => return Err(NodeError::Unreachable("the stream of reports ended".to_owned())),
                }
            }
        };
        match tokio::time::timeout(QUICK_TIMEOUT, query).await {
            Ok(found) => found,
            Err(_) => Err(NodeError::Unreachable("the reports take too long".to_owned())),
        }
    }
}

/// Stream of reports from the node.
pub struct Reports(Streaming<WatchEvent>);

impl Reports {
    /// Returns the next event, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Event>, NodeError> {
        loop {
            match self.0.message().await? {
                None => return Ok(None),
                Some(WatchEvent { event: Some(watch_event::Event::Synced(_)) }) => {
                    return Ok(Some(Event::Synced));
                }
                Some(WatchEvent { event: Some(watch_event::Event::Report(report)) }) => {
                    let disk_size_mb = report.disk_size_mb;
                    if let Some((id, report)) = parse_report(report) {
                        return Ok(Some(Event::Report(id, report, disk_size_mb)));
                    }
                }
                Some(WatchEvent { event: None }) => {}
            }
        }
    }
}

/// Stream of refused network access.
pub struct Refusals(Streaming<RefusalBatch>);

impl Refusals {
    /// Returns the next refusals of one workspace with texts for its owner, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<(WorkspaceId, Timestamp, String)>>, NodeError> {
        let batch = self.0.message().await?;
        Ok(batch.map(|batch| batch.refused.iter().filter_map(parse_refusal).collect()))
    }
}

/// Returns a refusal as a text for the workspace's owner. The name in it comes from a guest, and the node has
/// bounded it.
fn parse_refusal(refused: &EgressRefused) -> Option<(WorkspaceId, Timestamp, String)> {
    let EgressRefused { workspace_id, unix_ms, protocol, address, port, name, count } = refused;
    let what = match (protocol.as_str(), port) {
        ("dns", _) => format!("a DNS query for {name}"),
        (protocol, 0) => format!("{protocol} to {address}"),
        (protocol, port) => format!("{protocol} to {address} port {port}"),
    };
    let times = if *count > 1 { format!(", {count} times") } else { String::new() };
    let text = format!("Network policy blocked {what}{times}.");
    Some((workspace_id.parse().ok()?, Timestamp::from_unix_ms(*unix_ms), text))
}

/// Parses a report. Returns `None` for a state that only a newer node knows.
fn parse_report(report: WorkspaceReport) -> Option<(WorkspaceId, Report)> {
    let id = report.workspace_id.parse().ok()?;
    let generation = report.generation;
    let boot = report.boot_id.clone();
    let observed = match report.state() {
        State::Unspecified => return None,
        State::Stopped => ObservedState::Resting {
            ended: report.end.map(|end| End { cause: cause(end.cause()), detail: end.detail, boot }),
        },
        State::Booting => ObservedState::Booting { boot },
        State::Running => ObservedState::Running {
            boot,
            agent_lost: report.agent_lost,
            // A word that only a newer node knows tells as little as none.
            system: report.system.parse().unwrap_or(SystemState::Starting),
        },
        State::Stopping => ObservedState::Stopping,
        State::Absent => ObservedState::Absent,
    };
    Some((id, Report { generation, observed }))
}

fn cause(cause: Cause) -> EndCause {
    match cause {
        Cause::Requested => EndCause::Requested,
        Cause::Poweroff => EndCause::Poweroff,
        Cause::Reboot => EndCause::Reboot,
        Cause::Halt => EndCause::Halt,
        Cause::KernelPanic => EndCause::KernelPanic,
        Cause::VmmDied => EndCause::VmmDied,
        Cause::AgentNeverAnswered => EndCause::AgentNeverAnswered,
        Cause::Unspecified | Cause::EndedUnobserved => EndCause::Unobserved,
        Cause::HostWentDown => EndCause::HostWentDown,
        Cause::StartFailed => EndCause::StartFailed,
    }
}
