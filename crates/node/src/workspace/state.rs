//! State of a workspace's task: the record, and the VM while it runs.

use std::fs::File;
use std::sync::Arc;

use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::system::SystemState;
use rigbox_proto::guestio::{DnsLimits, Report, report};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::boot_queue::BootPermit;
use crate::error::Error;
use crate::journal::{BootEnd, Phase, Record};
use crate::node::Node;
use crate::sandbox::process::ProcessHandle;

/// Workspace, owned by its task.
pub(crate) struct Workspace {
    pub(super) node: Arc<Node>,
    pub(super) id: WorkspaceId,
    pub(super) record: Record,
    pub(super) vm: Option<RunningVm>,
    pub(super) cleanup: Option<PendingCleanup>,
}

/// Running VM.
pub(super) struct RunningVm {
    pub(super) process: ProcessHandle,
    pub(super) reports: mpsc::Receiver<Report>,
    /// Standard error of the VMM. `None` for a VM that was taken over from an earlier node.
    pub(super) stderr: Option<File>,
    /// Time by which the boot, or the stop, has to finish.
    pub(super) deadline: Option<Instant>,
    pub(super) agent_lost: bool,
    pub(super) system: SystemState,
    /// Held while the VM boots.
    pub(super) boot_permit: Option<BootPermit>,
    /// Serves the bridge until dropped.
    pub(super) _bridge: AbortOnDropHandle<()>,
}

/// Cleanup after a boot that did not succeed yet.
pub(super) struct PendingCleanup {
    pub(super) end: Option<BootEnd>,
    pub(super) retry_at: Instant,
}

/// Continuation of the task's loop.
pub(super) enum Flow {
    Continue,
    Deleted,
}

/// Event of a running VM.
pub(super) enum Event {
    Report(report::Report),
    VmmExited,
    DeadlinePassed,
}

impl Workspace {
    /// Creates a workspace that is new to the node.
    pub(crate) fn new(node: Arc<Node>, id: WorkspaceId, slot: u32) -> Self {
        let record = Record::new(&id, slot);
        Self { node, id, record, vm: None, cleanup: None }
    }

    /// Restores a recorded workspace. Reserves its disk space and reports it to control at once; everything else is left to the task.
    pub(crate) fn from_record(node: Arc<Node>, id: WorkspaceId, record: Record) -> Self {
        if record.phase == Phase::Provisioned {
            node.disks.adopt(&id, record.disk_size_mb);
        }
        let workspace = Self { node, id, record, vm: None, cleanup: None };
        workspace.publish();
        workspace
    }

    /// Refuses a request with an outdated generation.
    pub(super) fn check_generation(&self, generation: u64) -> Result<(), Error> {
        if generation < self.record.generation {
            let (id, current) = (&self.id, self.record.generation);
            let message = format!("{id}: generation {generation} is older than the current {current}");
            return Err(Error::Refused("stale_generation", message));
        }
        Ok(())
    }

    /// Returns the destinations that the VM may reach: none without an uplink.
    pub(super) fn egress(&self) -> Egress {
        if self.node.uplink.is_some() { self.record.network.egress().clone() } else { Egress::None }
    }

    /// Returns the limits of the VM's DNS queries, which guestio keeps.
    pub(super) fn dns_limits(&self) -> DnsLimits {
        let limits = self.record.network.limits(self.node.config.network.limits);
        DnsLimits { queries: limits.dns_queries.get().into(), queries_per_s: limits.dns_queries_per_s.get() }
    }

    /// Changes the record, in the journal first: what could not be written does not count.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let mut record = self.record.clone();
        change(&mut record);
        self.node.journal.save(&record)?;
        self.record = record;
        Ok(())
    }
}

/// Runs blocking work outside the async runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(Error::System { action: "run a blocking task", source: error.into() }))
}
