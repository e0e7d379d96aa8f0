//! Machine of the benchmark `life`: its VMs run for ever and survive the node, because nothing of them is in this process. Journal and tasks
//! are as on a real node: each record is a file, replaced durably.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rigbox_core::ids::WorkspaceId;
use rigbox_node::{
    Boot, BootQueue, Error, Host, Journal, Launched, MemoryKey, ProcessId, Record, Reports, VmmKind,
    VmmProcess,
};
use rigbox_proto::guestio::{AgentLost, AgentReady, Report, SystemChanged, report};
use tokio::sync::mpsc;

/// Maximum number of VMs that boot at once. They boot in no time.
const MAX_BOOTS: NonZeroUsize = NonZeroUsize::MAX;
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// Boot of the host, which does not end.
const HOST_BOOT: &str = "bench";
/// Uids for VMs.
const MAX_SLOTS: u32 = 10_000;

/// Machine, with what one process of the node has of it.
pub(super) struct Machine {
    journal: Journal,
    reports: Reports,
    boot_queue: BootQueue,
    /// Where reports about a boot go.
    attached: Mutex<BTreeMap<String, mpsc::Sender<Report>>>,
}

/// VM, which nobody ends.
pub(super) struct Vm;

impl VmmProcess for Vm {
    fn kill(&self) {}

    async fn wait(&self) {
        std::future::pending().await
    }
}

impl Machine {
    /// Opens the machine whose journal is in `folder`, in a new session.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let journal = Journal::open(folder.join("journal"))?;
        let session = NonZeroU64::new(getrandom::u64()?).unwrap_or(NonZeroU64::MIN);
        Ok(Self {
            journal,
            reports: Reports::new(session),
            boot_queue: BootQueue::new(MAX_BOOTS),
            attached: Mutex::default(),
        })
    }

    /// Returns the journal.
    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Returns the boots that are attached.
    pub(super) fn boots(&self) -> Vec<String> {
        self.attached().keys().cloned().collect()
    }

    /// Lets guestio lose the agent of a boot, or find it again.
    pub(super) fn set_agent_lost(&self, boot: &str, lost: bool) -> Result<()> {
        let report = if lost {
            report::Report::AgentLost(AgentLost { reason: "bench".to_owned() })
        } else {
            report::Report::AgentReady(AgentReady::default())
        };
        let queue = self.attached().get(boot).cloned().context("the boot is not attached")?;
        queue.try_send(report_of(boot, report)).context("the queue of reports is full")
    }

    fn attached(&self) -> MutexGuard<'_, BTreeMap<String, mpsc::Sender<Report>>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works with the journal outside the runtime's threads.
    async fn write(
        &self,
        work: impl FnOnce(&Journal) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let journal = self.journal.clone();
        let done = tokio::task::spawn_blocking(move || work(&journal)).await;
        done.map_err(|error| Error::Retry(error.to_string()))?
    }
}

fn report_of(boot: &str, report: report::Report) -> Report {
    Report { boot_id: boot.to_owned(), report: Some(report) }
}

impl Host for Machine {
    type Process = Vm;
    type Attachment = ();

    fn host_boot_id(&self) -> &str {
        HOST_BOOT
    }

    fn vmm(&self) -> VmmKind {
        VmmKind::Qemu
    }

    fn boot_timeout(&self) -> Duration {
        BOOT_TIMEOUT
    }

    fn free_slot(&self, used: &BTreeSet<u32>) -> Option<u32> {
        (0..MAX_SLOTS).find(|slot| !used.contains(slot))
    }

    fn new_boot_id(&self) -> Result<String, Error> {
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid");
        let uuid = uuid.map_err(|error| Error::Retry(error.to_string()))?;
        Ok(uuid.trim().to_owned())
    }

    fn reports(&self) -> &Reports {
        &self.reports
    }

    fn boot_queue(&self) -> &BootQueue {
        &self.boot_queue
    }

    async fn save(self: &Arc<Self>, record: &Record) -> Result<(), Error> {
        let record = record.clone();
        self.write(move |journal| journal.save(&record)).await
    }

    async fn remove_record(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        let id = id.clone();
        self.write(move |journal| journal.remove(&id)).await
    }

    fn recover_vm(&self, _: &str) {}

    fn adopt_disk(&self, _: &WorkspaceId, _: u32) {}

    async fn create_disk(self: &Arc<Self>, _: &WorkspaceId, _: &str, _: u32) -> Result<String, Error> {
        Ok("base-1".to_owned())
    }

    async fn remove_disk(self: &Arc<Self>, _: &WorkspaceId) -> Result<(), Error> {
        Ok(())
    }

    fn check_driver(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn launch(
        self: &Arc<Self>,
        _: &WorkspaceId,
        _: &Record,
        _: Option<MemoryKey>,
    ) -> Result<Launched<Vm>, Error> {
        Ok(Launched { process: Vm, id: ProcessId { pid: 1, start_time: 1 }, stderr: None })
    }

    async fn reopen(self: &Arc<Self>, _: ProcessId) -> Result<Option<Vm>, Error> {
        Ok(Some(Vm))
    }

    async fn tear_down(self: &Arc<Self>, _: &WorkspaceId) -> Result<(), Error> {
        Ok(())
    }

    /// Attaches guestio, which finds the agent at once and a system that is up.
    fn attach(self: &Arc<Self>, _: &WorkspaceId, _: &Record, boot: &Boot, reports: mpsc::Sender<Report>) {
        let boot = &boot.boot_id;
        let up = SystemChanged { state: "running".to_owned() };
        for report in [report::Report::AgentReady(AgentReady::default()), report::Report::SystemChanged(up)] {
            // The queue is new, and has room for more than these.
            let _ = reports.try_send(report_of(boot, report));
        }
        self.attached().insert(boot.clone(), reports);
    }

    fn detach(&self, boot_id: &str) {
        self.attached().remove(boot_id);
    }

    fn shut_down(&self, _: &str, _: u32) {}

    fn set_run_state(&self, _: &Boot) {}

    async fn set_link(self: &Arc<Self>, _: &WorkspaceId, _: &Record, _: bool) -> Result<(), Error> {
        Ok(())
    }

    async fn restore_network(self: &Arc<Self>, _: &WorkspaceId, _: &Record) -> Result<(), Error> {
        Ok(())
    }

    async fn set_policy(self: &Arc<Self>, _: &WorkspaceId, _: &Record, _: &Boot) -> Result<(), Error> {
        Ok(())
    }
}
