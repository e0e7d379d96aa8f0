//! All workspaces of a node: finds or creates the task of each, and passes targets to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rigbox_core::ids::{InvalidId, WorkspaceId};
use rigbox_core::lifecycle::Desired;
use rigbox_proto::node::{SetPausedRequest, SetTargetRequest, WorkspaceReport};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::error::Error;
use crate::host::Host;
use crate::record::{Record, TargetRequest};
use crate::workspace::{Change, Request, Workspace};

/// Requests that may be queued for one workspace's task.
const MAX_QUEUED_REQUESTS: usize = 16;

/// Tasks of all workspaces. Dropping the last clone ends them where they are, as the end of the process does. VMs keep running.
pub struct Workspaces<H: Host> {
    host: Arc<H>,
    tasks: Arc<Mutex<Tasks>>,
}

#[derive(Default)]
struct Tasks {
    /// Number of the last task.
    last: u64,
    running: BTreeMap<WorkspaceId, Task>,
}

/// Running task of a workspace.
struct Task {
    number: u64,
    slot: u32,
    requests: mpsc::Sender<Request>,
    _handle: AbortOnDropHandle<()>,
}

impl<H: Host> Clone for Workspaces<H> {
    fn clone(&self) -> Self {
        Self { host: Arc::clone(&self.host), tasks: Arc::clone(&self.tasks) }
    }
}

impl<H: Host> Workspaces<H> {
    /// Creates the tasks of a machine without workspaces.
    pub fn new(host: Arc<H>) -> Self {
        Self { host, tasks: Arc::default() }
    }

    /// Reports a recorded workspace and starts its task, which takes over what it has.
    pub fn adopt(&self, id: WorkspaceId, record: Record) {
        let mut tasks = self.lock();
        let slot = record.slot;
        let workspace = Workspace::from_record(Arc::clone(&self.host), id.clone(), record);
        self.spawn(&mut tasks, id, slot, workspace);
    }

    /// Returns whether there are no workspaces.
    pub fn is_empty(&self) -> bool {
        self.lock().running.is_empty()
    }

    /// Sets the target of a workspace, unless it has a later one. Returns its report once the target is in the journal and the network
    /// policy in force. The steps towards the target follow.
    ///
    /// # Errors
    /// `bad_request`, `node_full`, or [`Error::Retry`].
    pub async fn set_target(&self, request: SetTargetRequest) -> Result<WorkspaceReport, Error> {
        let id = parse_id(&request.workspace_id)?;
        let create = request.create;
        let request = TargetRequest::try_from(request)?;
        let requests = match self.requests_of(&id, create, &request)? {
            Ok(requests) => requests,
            Err(absent) => return Ok(absent),
        };
        ask(&id, &requests, Change::Target(Box::new(request))).await
    }

    /// Lets the guest of a boot stand still, or run on. Returns the report as it is now: the guest follows.
    ///
    /// # Errors
    /// `bad_request`, `other_boot`, `not_running`, or [`Error::Retry`].
    pub async fn set_paused(&self, request: SetPausedRequest) -> Result<WorkspaceReport, Error> {
        let SetPausedRequest { workspace_id, boot_id, paused } = request;
        let id = parse_id(&workspace_id)?;
        let requests = self.lock().running.get(&id).map(|task| task.requests.clone());
        let unknown = || Error::Refused("other_boot", format!("the node has no workspace {id}"));
        ask(&id, &requests.ok_or_else(unknown)?, Change::Paused { boot_id, paused }).await
    }

    /// Returns the queue of the workspace's task, which is started if the workspace is to be created, or else the answer that there is
    /// nothing of it.
    fn requests_of(
        &self,
        id: &WorkspaceId,
        create: bool,
        request: &TargetRequest,
    ) -> Result<Result<mpsc::Sender<Request>, WorkspaceReport>, Error> {
        let mut tasks = self.lock();
        if let Some(task) = tasks.running.get(id).filter(|task| !task.requests.is_closed()) {
            return Ok(Ok(task.requests.clone()));
        }
        if create && request.target.generation == 0 {
            // That of a record without a target.
            return Err(Error::Refused("bad_request", "the generation of a new workspace is 0".to_owned()));
        }
        let is_deletion = request.target.state == Desired::Deleted;
        if is_deletion || !create {
            let generation = if is_deletion { request.target.generation } else { 0 };
            // Numbered under the lock: a task that is created next reports later.
            return Ok(Err(self.host.reports().answer_absent(id, generation)));
        }
        let used = tasks.running.values().map(|task| task.slot).collect();
        let full = || {
            Error::Refused("node_full", "the node is full: it has no uid for another workspace".to_owned())
        };
        let slot = self.host.free_slot(&used).ok_or_else(full)?;
        let workspace = Workspace::new(Arc::clone(&self.host), id.clone(), slot);
        Ok(Ok(self.spawn(&mut tasks, id.clone(), slot, workspace)))
    }

    fn spawn(
        &self,
        tasks: &mut Tasks,
        id: WorkspaceId,
        slot: u32,
        workspace: Workspace<H>,
    ) -> mpsc::Sender<Request> {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: each workspace's own queue of control's requests; control waits"
        )]
        let (requests, receiver) = mpsc::channel(MAX_QUEUED_REQUESTS);
        tasks.last += 1;
        let number = tasks.last;
        // Weak: a task must not keep the others.
        let (all, own_id) = (Arc::downgrade(&self.tasks), id.clone());
        let handle = AbortOnDropHandle::new(tokio::spawn(async move {
            workspace.run(receiver).await;
            let Some(all) = all.upgrade() else { return };
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if all.running.get(&own_id).is_some_and(|task| task.number == number) {
                all.running.remove(&own_id);
            }
        }));
        tasks.running.insert(id, Task { number, slot, requests: requests.clone(), _handle: handle });
        requests
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse_id(text: &str) -> Result<WorkspaceId, Error> {
    text.parse().map_err(|error: InvalidId| Error::Refused("bad_request", error.to_string()))
}

/// Asks a workspace's task for a change, and waits for its report.
async fn ask(
    id: &WorkspaceId,
    requests: &mpsc::Sender<Request>,
    change: Change,
) -> Result<WorkspaceReport, Error> {
    let (reply, response) = oneshot::channel();
    let busy = || Error::Retry(format!("workspace {id} is being created or deleted"));
    requests.send(Request { change, reply }).await.map_err(|_| busy())?;
    response.await.map_err(|_| busy())?
}
