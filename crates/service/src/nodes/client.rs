//! The node as control sees it: each verb with its time-out, and its faults in two kinds: not there, or refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{End, EndCause, ObservedState, Report};
use rigbox_core::time::Timestamp;
use rigbox_proto::fault;
use rigbox_proto::node::node_client::NodeClient as Grpc;
use rigbox_proto::node::{
    Cause, DeleteRequest, DescribeRequest, EgressRefused, NetworkPolicy, NodeDescription, ProvisionRequest,
    SetNetworkRequest, StartRequest, State, StopRequest, WatchEvent, WatchRequest, WorkspaceReport,
    watch_event,
};
use rigbox_store::Workspace;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::rpc;

/// For verbs that the node answers at once.
const QUICK_TIMEOUT: Duration = Duration::from_secs(10);
/// For verbs that wait for disks and processes.
const SLOW_TIMEOUT: Duration = Duration::from_secs(100);
/// How long a guest may take to shut down in order.
const STOP_GRACE_PERIOD_MS: u32 = 30_000;
/// How old a description of the node may be.
const DESCRIPTION_TTL: Duration = Duration::from_secs(3);

/// Why the node did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It does not answer, or cannot now: trying again is right.
    #[error("the node does not answer: {0}")]
    Unreachable(String),
    /// It will not, with a stable code.
    #[error("{message}")]
    Refused { code: String, message: String },
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

#[derive(Clone)]
pub struct NodeClient {
    grpc: Grpc<Channel>,
    described: Arc<Mutex<Option<Described>>>,
}

struct Described {
    when: Instant,
    description: Arc<NodeDescription>,
}

/// What the node's stream of reports says.
#[derive(Debug)]
pub enum Event {
    Report(WorkspaceId, Report),
    Synced,
    /// The network of a workspace refused it something, in words for its owner.
    Refused(WorkspaceId, Timestamp, String),
}

impl NodeClient {
    pub fn new(socket: &Path) -> Self {
        Self { grpc: Grpc::new(rpc::channel(socket)), described: Arc::default() }
    }

    /// What the node is and can hold; a few seconds old at most.
    pub async fn describe(&self) -> Result<Arc<NodeDescription>, NodeError> {
        let mut described = self.described.lock().await;
        if let Some(known) = described.as_ref()
            && known.when.elapsed() < DESCRIPTION_TTL
        {
            return Ok(known.description.clone());
        }
        let answer = self.grpc.clone().describe(timed(DescribeRequest {}, QUICK_TIMEOUT)).await?.into_inner();
        let description = Arc::new(answer);
        *described = Some(Described { when: Instant::now(), description: description.clone() });
        Ok(description)
    }

    pub async fn provision(&self, workspace: &Workspace) -> Result<(), NodeError> {
        let request = ProvisionRequest {
            workspace_id: workspace.id.to_string(),
            generation: workspace.lifecycle.generation,
            image: workspace.image.clone(),
            disk_size_mb: workspace.resources.disk_size_mb(),
        };
        self.grpc.clone().provision(timed(request, SLOW_TIMEOUT)).await?;
        Ok(())
    }

    /// Answers the boot's id.
    pub async fn start(
        &self,
        workspace: &Workspace,
        metadata_json: String,
        network: NetworkPolicy,
    ) -> Result<String, NodeError> {
        let request = StartRequest {
            workspace_id: workspace.id.to_string(),
            generation: workspace.lifecycle.generation,
            ram_mb: workspace.resources.ram_mb(),
            vcpu_count: workspace.resources.vcpu_count(),
            name: workspace.name.to_string(),
            metadata_json,
            network: Some(network),
        };
        Ok(self.grpc.clone().start(timed(request, SLOW_TIMEOUT)).await?.into_inner().boot_id)
    }

    pub async fn stop(&self, workspace: &Workspace) -> Result<(), NodeError> {
        let request = StopRequest {
            workspace_id: workspace.id.to_string(),
            generation: workspace.lifecycle.generation,
            grace_ms: STOP_GRACE_PERIOD_MS,
        };
        self.grpc.clone().stop(timed(request, QUICK_TIMEOUT)).await?;
        Ok(())
    }

    /// What a workspace lets through from now on.
    pub async fn set_network(&self, id: &WorkspaceId, network: NetworkPolicy) -> Result<(), NodeError> {
        let request = SetNetworkRequest { workspace_id: id.to_string(), network: Some(network) };
        self.grpc.clone().set_network(timed(request, QUICK_TIMEOUT)).await?;
        Ok(())
    }

    pub async fn delete(&self, id: &WorkspaceId, generation: u64) -> Result<(), NodeError> {
        let request = DeleteRequest { workspace_id: id.to_string(), generation };
        self.grpc.clone().delete(timed(request, SLOW_TIMEOUT)).await?;
        Ok(())
    }

    pub async fn watch(&self) -> Result<Reports, NodeError> {
        Ok(Reports(self.grpc.clone().watch(WatchRequest {}).await?.into_inner()))
    }

    /// What the node knows of one workspace now.
    pub async fn look(&self, id: &WorkspaceId) -> Result<Report, NodeError> {
        let look = async {
            let mut reports = self.watch().await?;
            let mut found = Report { generation: 0, observed: ObservedState::Absent };
            loop {
                match reports.next().await? {
                    Some(Event::Report(about, report)) if about == *id => found = report,
                    Some(Event::Report(..) | Event::Refused(..)) => {}
                    Some(Event::Synced) => return Ok(found),
                    None => return Err(NodeError::Unreachable("its reports ended".to_owned())),
                }
            }
        };
        match tokio::time::timeout(QUICK_TIMEOUT, look).await {
            Ok(found) => found,
            Err(_) => Err(NodeError::Unreachable("its reports take too long".to_owned())),
        }
    }
}

/// The node's stream of reports.
pub struct Reports(Streaming<WatchEvent>);

impl Reports {
    pub async fn next(&mut self) -> Result<Option<Event>, NodeError> {
        loop {
            match self.0.message().await? {
                None => return Ok(None),
                Some(WatchEvent { event: Some(watch_event::Event::Synced(_)) }) => {
                    return Ok(Some(Event::Synced));
                }
                Some(WatchEvent { event: Some(watch_event::Event::Report(report)) }) => {
                    if let Some((id, report)) = understood(report) {
                        return Ok(Some(Event::Report(id, report)));
                    }
                }
                Some(WatchEvent { event: Some(watch_event::Event::EgressRefused(refused)) }) => {
                    if let Some((id, at, text)) = told(&refused) {
                        return Ok(Some(Event::Refused(id, at, text)));
                    }
                }
                Some(WatchEvent { event: None }) => {}
            }
        }
    }
}

/// A refusal in words for the workspace's owner. The name in it comes from a guest, and the node has bounded it.
fn told(refused: &EgressRefused) -> Option<(WorkspaceId, Timestamp, String)> {
    let EgressRefused { workspace_id, unix_ms, protocol, address, port, name, count } = refused;
    let what = match (protocol.as_str(), port) {
        ("dns", _) => format!("to look up {name}"),
        (protocol, 0) => format!("{protocol} to {address}"),
        (protocol, port) => format!("{protocol} to {address} port {port}"),
    };
    let times = if *count > 1 { format!(", {count} times") } else { String::new() };
    let text = format!("the network refused {what}{times}");
    Some((workspace_id.parse().ok()?, Timestamp::from_unix_ms(*unix_ms), text))
}

/// A report in the terms of the rules; `None` for one that a newer node may send.
fn understood(report: WorkspaceReport) -> Option<(WorkspaceId, Report)> {
    let id = report.workspace_id.parse().ok()?;
    let generation = report.generation;
    let boot = report.boot_id.clone();
    let seen = match report.state() {
        State::Unspecified => return None,
        State::Stopped => ObservedState::Resting {
            ended: report.end.map(|end| End { cause: cause(end.cause()), detail: end.detail, boot }),
        },
        State::Booting => ObservedState::Booting { boot },
        State::Running => ObservedState::Running { boot, agent_lost: report.agent_lost },
        State::Stopping => ObservedState::Stopping,
        State::Absent => ObservedState::Absent,
    };
    Some((id, Report { generation, observed: seen }))
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

fn timed<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}
