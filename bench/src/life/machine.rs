//! Machine of the benchmark `life`: its VMs run for ever and survive the node, because nothing of them is in this process. Journal and tasks
//! are as on a real node: each record is a file, replaced durably.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rigbox_core::ids::WorkspaceId;
use rigbox_node::{Boot, BootQueue, Error, Host, Launched, ProcessId, Record, Reports, VmmProcess};
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
    journal: PathBuf,
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
        let journal = folder.join("journal");
        fs::create_dir_all(&journal)?;
        let session = NonZeroU64::new(getrandom::u64()?).unwrap_or(NonZeroU64::MIN);
        Ok(Self {
            journal,
            reports: Reports::new(session),
            boot_queue: BootQueue::new(MAX_BOOTS),
            attached: Mutex::default(),
        })
    }

    /// Reads the journal.
    pub(super) fn records(&self) -> Result<Vec<(WorkspaceId, Record)>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.journal)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(&path)?;
                continue;
            }
            let record: Record = serde_json::from_slice(&fs::read(&path)?)
                .with_context(|| format!("the record {}", path.display()))?;
            records.push((record.workspace.parse()?, record));
        }
        Ok(records)
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
            report::Report::AgentReady(AgentReady {})
        };
        let queue = self.attached().get(boot).cloned().context("the boot is not attached")?;
        queue.try_send(report_of(boot, report)).context("the queue of reports is full")
    }

    fn attached(&self) -> MutexGuard<'_, BTreeMap<String, mpsc::Sender<Report>>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, workspace: &str) -> PathBuf {
        self.journal.join(format!("{workspace}.json"))
    }
}

fn report_of(boot: &str, report: report::Report) -> Report {
    Report { boot_id: boot.to_owned(), report: Some(report) }
}

/// Replaces a file durably, as the node does.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Runs blocking work outside the runtime's threads.
async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), Error> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| Error::Retry(error.to_string()))?;
    done.map_err(|error| Error::Retry(format!("failed to write the journal: {error}")))
}

impl Host for Machine {
    type Process = Vm;
    type Attachment = ();

    fn host_boot_id(&self) -> &str {
        HOST_BOOT
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
        let (path, record) = (self.path(&record.workspace), record.clone());
        blocking(move || replace(&path, &serde_json::to_vec_pretty(&record)?)).await
    }

    async fn remove_record(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        let path = self.path(id.as_str());
        blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => sync_parent(&path),
        })
        .await
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

    async fn launch(self: &Arc<Self>, _: &WorkspaceId, _: &Record) -> Result<Launched<Vm>, Error> {
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
        for report in [report::Report::AgentReady(AgentReady {}), report::Report::SystemChanged(up)] {
            // The queue is new, and has room for more than these.
            let _ = reports.try_send(report_of(boot, report));
        }
        self.attached().insert(boot.clone(), reports);
    }

    fn detach(&self, boot_id: &str) {
        self.attached().remove(boot_id);
    }

    fn shut_down(&self, _: &str, _: u32) {}

    async fn restore_network(self: &Arc<Self>, _: &WorkspaceId, _: &Record) -> Result<(), Error> {
        Ok(())
    }

    async fn set_policy(self: &Arc<Self>, _: &WorkspaceId, _: &Record, _: &Boot) -> Result<(), Error> {
        Ok(())
    }
}
