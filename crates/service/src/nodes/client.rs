//! Client of the node: parsed reports, the current session, and a cache of the node's description.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rigbox_core::ids::{DatabaseId, WorkspaceId};
use rigbox_core::time::Timestamp;
use rigbox_proto::node::{NodeDescription, RefusalBatch, SetTargetRequest, Synced, WatchEvent, watch_event};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::api::{CALL_TIMEOUT, NodeApi, NodeError, NodeStream};
use super::grpc::GrpcNode;
use super::report::{NodeReport, parse_refusal, parse_report};
use super::session::CurrentSession;

/// Age up to which the node's description is reused.
const DESCRIPTION_TTL: Duration = Duration::from_secs(3);
/// Age up to which a failure to read it is.
const FAILURE_TTL: Duration = Duration::from_millis(500);

/// Client of the node.
#[derive(Clone)]
pub struct NodeClient {
    api: Arc<dyn NodeApi>,
    cache: Arc<Mutex<Option<CachedDescription>>>,
    session: Arc<CurrentSession>,
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
    /// Record of a workspace.
    Report(NodeReport),
    /// All workspaces that the node has were reported: those until this position.
    Synced(Synced),
}

impl NodeClient {
    /// Creates a client that connects to the node's socket on first use.
    pub fn new(socket: &Path, database: &DatabaseId) -> Self {
        Self::over(Arc::new(GrpcNode::new(socket, database)))
    }

    /// Creates the client of any node.
    pub fn over(api: Arc<dyn NodeApi>) -> Self {
        Self { api, cache: Arc::default(), session: Arc::default() }
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
        let description = within(self.api.describe()).await.map(Arc::new);
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

    /// Sets the target of a workspace, unless the node has a later one. Returns its record, which may be of another session than the
    /// current one.
    pub async fn set_target(&self, request: SetTargetRequest) -> Result<NodeReport, NodeError> {
        let report = parse_report(within(self.api.set_target(request)).await?);
        report.ok_or_else(|| NodeError::Unreachable("its answer is not readable".to_owned()))
    }

    /// Opens the stream of reports.
    pub async fn watch(&self) -> Result<Reports, NodeError> {
        Ok(Reports(self.api.watch().await?))
    }

    /// Opens the stream of refused network access.
    pub async fn watch_refusals(&self) -> Result<Refusals, NodeError> {
        Ok(Refusals(self.api.watch_refusals().await?))
    }

    /// Returns the number of the node's current session. `None` before all of its workspaces were reported once.
    pub fn session(&self) -> Option<u64> {
        self.session.number()
    }

    /// Returns whether a report is one of the current session. Others have no order with it.
    pub fn is_current(&self, report: &NodeReport) -> bool {
        self.session() == Some(report.observed.order.session)
    }

    /// Begins a session.
    pub fn begin_session(&self, number: u64) {
        self.session.begin(number);
    }

    /// Remembers what a report of the current session tells beside the workspace's state.
    pub fn note(&self, report: &NodeReport) {
        self.session.note(report);
    }

    /// Returns how many boots have to end before that of a workspace begins. `None` if it is not in the queue.
    pub fn queue_position(&self, id: &WorkspaceId) -> Option<u32> {
        self.session.queue_position(id)
    }
}

/// Ends a call whose answer was lost.
async fn within<T>(call: impl Future<Output = Result<T, NodeError>>) -> Result<T, NodeError> {
    let lost = |_| NodeError::Unreachable("it takes too long".to_owned());
    tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(lost)?
}

/// Stream of reports from the node.
pub struct Reports(NodeStream<WatchEvent>);

impl Reports {
    /// Returns the next event, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Event>, NodeError> {
        loop {
            match self.0.next().await.transpose()? {
                None => return Ok(None),
                Some(WatchEvent { event: Some(watch_event::Event::Synced(synced)) }) => {
                    return Ok(Some(Event::Synced(synced)));
                }
                Some(WatchEvent { event: Some(watch_event::Event::Report(report)) }) => {
                    if let Some(report) = parse_report(report) {
                        return Ok(Some(Event::Report(report)));
                    }
                }
                Some(WatchEvent { event: None }) => {}
            }
        }
    }
}

/// Stream of refused network access.
pub struct Refusals(NodeStream<RefusalBatch>);

impl Refusals {
    /// Returns the next refusals of one workspace with texts for its owner, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<(WorkspaceId, Timestamp, String)>>, NodeError> {
        let batch = self.0.next().await.transpose()?;
        Ok(batch.map(|batch| batch.refused.iter().filter_map(parse_refusal).collect()))
    }
}
