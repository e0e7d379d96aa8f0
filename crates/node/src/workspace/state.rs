//! State of a workspace's task: the record, the VM while it runs, and what the task waits for.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Step;
use rigbox_core::system::SystemState;
use rigbox_proto::guestio::{Report, report};
use rigbox_proto::node::WorkspaceReport;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::boot_queue::BootPermit;
use crate::error::Error;
use crate::host::{Host, VmmProcess};
use crate::memory::MemoryKey;
use crate::record::{BootEnd, Phase, Record, TargetRequest};

/// Time after which a step that failed is taken again.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Request to a workspace's task, with the sender for its response.
pub(crate) struct Request {
    pub(crate) change: Change,
    pub(crate) reply: oneshot::Sender<Result<WorkspaceReport, Error>>,
}

/// Change that a request asks for.
pub(crate) enum Change {
    Target(Box<TargetRequest>),
    /// The guest of this boot is to stand still, or to run on.
    Paused {
        boot_id: String,
        paused: bool,
    },
}

/// Workspace, owned by its task.
pub(crate) struct Workspace<H: Host> {
    pub(super) host: Arc<H>,
    pub(super) id: WorkspaceId,
    pub(super) record: Record,
    /// The journal has the record.
    pub(super) is_recorded: bool,
    /// It is known whether the recorded VM runs.
    pub(super) is_recovered: bool,
    pub(super) vm: Option<RunningVm<H>>,
    pub(super) cleanup: Option<PendingCleanup>,
    /// Present while the boot waits for its turn.
    pub(super) queue_place: Option<QueuePlace>,
    pub(super) queue_changes: watch::Receiver<()>,
    /// Time at which the step that failed is taken again.
    pub(super) retry_at: Option<Instant>,
    /// Time at which the recorded network policy, which is not in force, is applied.
    pub(super) network_due: Option<Instant>,
    /// Last error, which is not logged again.
    pub(super) logged_error: String,
    /// Key that came with the target: of the memory image that a stop is to make, or that a boot is to go on from. It is in no record.
    pub(super) memory_key: Option<MemoryKey>,
}

/// Running VM.
pub(super) struct RunningVm<H: Host> {
    pub(super) process: H::Process,
    pub(super) reports: mpsc::Receiver<Report>,
    /// Standard error of the VMM. `None` for a VM that was taken over from an earlier node.
    pub(super) stderr: Option<File>,
    /// Time by which the boot, or the stop, has to finish.
    pub(super) deadline: Option<Instant>,
    pub(super) agent_lost: bool,
    /// The guest stands still, as guestio has told.
    pub(super) is_standing: bool,
    /// The agent has acknowledged the epoch.
    pub(super) is_acknowledged: bool,
    pub(super) system: SystemState,
    /// Held while the VM boots.
    pub(super) boot_permit: Option<BootPermit>,
    /// Its network is as this process of the node creates it.
    pub(super) is_network_restored: bool,
    /// Serves the VM until dropped.
    pub(super) _attachment: H::Attachment,
}

/// Cleanup after a boot that did not succeed yet.
pub(super) struct PendingCleanup {
    pub(super) end: Option<BootEnd>,
    pub(super) retry_at: Instant,
}

/// Place in the queue of boots.
#[derive(Clone, Copy)]
pub(super) struct QueuePlace {
    /// Number of boots that have to end first.
    pub(super) position: u32,
    /// Time by which to ask again.
    pub(super) ask_at: Instant,
}

/// Work that the task does by itself.
pub(super) enum Work {
    /// Find out whether the recorded VM runs.
    Recover,
    /// Clean up after a VM that was killed.
    CleanUp,
    Step(Step),
}

/// Reason for which the task's loop goes on.
pub(super) enum Wake {
    Request(Request),
    /// Nobody can send requests any more.
    Closed,
    Work(Work),
    Event(Event),
    CleanUp,
    Network,
    Retry,
    /// The queue of boots has changed, or it is time to ask it again.
    Ask,
}

/// Event of a running VM.
pub(super) enum Event {
    Report(report::Report),
    VmmExited,
    DeadlinePassed,
}

impl<H: Host> Workspace<H> {
    /// Creates a workspace that is new to the node.
    pub(crate) fn new(host: Arc<H>, id: WorkspaceId, slot: u32) -> Self {
        let record = Record::new(&id, slot);
        Self::of(host, id, record, false)
    }

    /// Restores a recorded workspace. Reserves its disk space and reports it to control at once; everything else is left to the task.
    pub(crate) fn from_record(host: Arc<H>, id: WorkspaceId, record: Record) -> Self {
        if record.phase == Phase::Provisioned {
            host.adopt_disk(&id, record.disk_size_mb);
        }
        if let Some(image) = &record.memory {
            host.adopt_memory(&id, image.reserved_mb);
        }
        if let Some(boot) = &record.boot {
            host.recover_vm(&boot.boot_id);
        }
        let workspace = Self::of(host, id, record, true);
        workspace.publish();
        workspace
    }

    fn of(host: Arc<H>, id: WorkspaceId, record: Record, is_recorded: bool) -> Self {
        let has_boot = record.boot.is_some();
        Self {
            queue_changes: host.boot_queue().changes(),
            host,
            id,
            record,
            is_recorded,
            is_recovered: !has_boot,
            vm: None,
            cleanup: None,
            queue_place: None,
            retry_at: None,
            network_due: has_boot.then(Instant::now),
            logged_error: String::new(),
            memory_key: None,
        }
    }

    /// Changes the record, in the journal first: what could not be written does not count.
    pub(super) async fn update(&mut self, change: impl FnOnce(&mut Record) + Send) -> Result<(), Error> {
        let mut record = self.record.clone();
        change(&mut record);
        self.host.save(&record).await?;
        self.record = record;
        self.is_recorded = true;
        Ok(())
    }

    /// Takes the step again later.
    pub(super) fn retry(&mut self, action: &'static str, error: &Error) {
        self.retry_at = Some(Instant::now() + RETRY_DELAY);
        self.log_retried(action, error);
    }

    /// Logs the error of an action that is taken again, when it changes.
    pub(super) fn log_retried(&mut self, action: &'static str, error: &Error) {
        let error = error.to_string();
        if self.logged_error != error {
            tracing::error!(workspace = %self.id, error, "failed to {action}; retrying");
            self.logged_error = error;
        }
    }

    /// Gives up the target, because the node refuses it, or takes the step again if it may succeed later.
    pub(super) async fn refuse(&mut self, action: &'static str, error: &Error) {
        let Some(code) = error.code() else { return self.retry(action, error) };
        let end = BootEnd::refusal(self.record.target.generation, code, &error.to_string());
        match self.update(|record| record.end(end)).await {
            Ok(()) => tracing::warn!(workspace = %self.id, %error, code, "refused to {action}"),
            Err(error) => self.retry("write the journal", &error),
        }
    }

    /// Waits until there is something to do.
    pub(super) async fn wait(&mut self, requests: &mut mpsc::Receiver<Request>) -> Wake {
        let network_due = self.network_due.filter(|_| self.vm.is_some());
        tokio::select! {
            biased;
            request = requests.recv() => request.map_or(Wake::Closed, Wake::Request),
            event = next_event(&mut self.vm) => Wake::Event(event),
            () = reached(self.cleanup.as_ref().map(|pending| pending.retry_at)) => Wake::CleanUp,
            () = reached(network_due) => Wake::Network,
            () = reached(self.retry_at) => Wake::Retry,
            () = queue_changed(self.queue_place, &mut self.queue_changes) => Wake::Ask,
        }
    }
}

/// Waits for the next event of a running VM.
async fn next_event<H: Host>(vm: &mut Option<RunningVm<H>>) -> Event {
    let Some(vm) = vm else { return std::future::pending().await };
    let deadline = vm.deadline;
    tokio::select! {
        // In this order, because a report tells more than the exit of the process.
        biased;
        Some(Report { report: Some(report), .. }) = vm.reports.recv() => Event::Report(report),
        () = vm.process.wait() => Event::VmmExited,
        () = reached(deadline) => Event::DeadlinePassed,
    }
}

/// Waits until the boot may be admitted, or until it has to ask again to keep its place.
async fn queue_changed(place: Option<QueuePlace>, changes: &mut watch::Receiver<()>) {
    let Some(place) = place else { return std::future::pending().await };
    // The queue lives as long as the host.
    let _ = tokio::time::timeout_at(place.ask_at, changes.changed()).await;
}

/// Waits until a time, if there is one.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
