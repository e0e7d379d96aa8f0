//! Machine in memory, with the failures that a test asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::guestio::{AgentReady, GuestEnded, Report, RunState, StateReached, guest_ended, report};
use tokio::sync::{mpsc, watch};

use crate::boot_queue::BootQueue;
use crate::error::Error;
use crate::host::{Host, Launched, VmmProcess};
use crate::memory::{MemoryImage, MemoryKey};
use crate::record::{Boot, ProcessId, Record};
use crate::reports::Reports;
use crate::vmm::kind::VmmKind;

/// The machine.
pub(super) struct Machine {
    reports: Reports,
    boot_queue: BootQueue,
    host_boot_id: String,
    state: Mutex<State>,
}

/// What is on it.
#[derive(Default)]
pub(super) struct State {
    pub(super) journal: BTreeMap<WorkspaceId, Record>,
    pub(super) disks: BTreeSet<WorkspaceId>,
    processes: BTreeMap<i32, Process>,
    attached: BTreeMap<String, mpsc::Sender<Report>>,
    boots: u32,
    /// Creations of disks, with the refused ones.
    pub(super) creations: u32,
    pub(super) shut_downs: u32,
    /// Network policies that were put in force.
    pub(super) policies: u32,
    pub(super) journal_fails: bool,
    pub(super) network_fails: bool,
    pub(super) launch_fails: bool,
    pub(super) removal_fails: bool,
    pub(super) refusal: Option<&'static str>,
    /// States that guestio was told of last, by boot, with the epoch.
    pub(super) orders: BTreeMap<String, (RunState, u32)>,
    /// Workspaces whose links are closed.
    pub(super) closed: BTreeSet<WorkspaceId>,
    /// Memory images, with whether they are complete.
    pub(super) images: BTreeMap<WorkspaceId, bool>,
    pub(super) memory_fits: bool,
    pub(super) saves_fail: bool,
}

/// Process of a VMM.
#[derive(Clone)]
pub(super) struct Process(Arc<watch::Sender<bool>>);

impl VmmProcess for Process {
    fn kill(&self) {
        self.0.send_replace(true);
    }

    async fn wait(&self) {
        self.0.subscribe().wait_for(|has_exited| *has_exited).await.unwrap();
    }
}

fn fail_if(fails: bool) -> Result<(), Error> {
    if fails {
        return Err(Error::System { action: "do it", source: std::io::Error::other("broken") });
    }
    Ok(())
}

impl Machine {
    pub(super) fn new(max_boots: usize) -> Arc<Self> {
        Arc::new(Self {
            reports: Reports::new(NonZeroU64::MIN),
            boot_queue: BootQueue::new(NonZeroUsize::new(max_boots).unwrap()),
            host_boot_id: "this".to_owned(),
            state: Mutex::default(),
        })
    }

    /// Returns the machine as the next process of the node finds it.
    pub(super) fn restarted(&self, host_boot_id: &str) -> Arc<Self> {
        let mut state = std::mem::take(&mut *self.state());
        state.attached.clear();
        state.orders.clear();
        if host_boot_id != self.host_boot_id {
            state.processes.clear();
        }
        let new = Self {
            reports: Reports::new(NonZeroU64::new(2).unwrap()),
            boot_queue: BootQueue::new(NonZeroUsize::MIN),
            host_boot_id: host_boot_id.to_owned(),
            state: Mutex::new(state),
        };
        Arc::new(new)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns the number of VMMs that run.
    pub(super) fn running(&self) -> usize {
        self.state().processes.values().filter(|process| !*process.0.borrow()).count()
    }

    /// Sends a report of guestio about an attached VM.
    pub(super) fn send(&self, boot_id: &str, report: report::Report) {
        let report = Report { boot_id: boot_id.to_owned(), report: Some(report) };
        self.state().attached[boot_id].try_send(report).unwrap();
    }

    /// Has the agent answer, in the epoch that guestio was told of.
    pub(super) fn agent_ready(&self, boot_id: &str) {
        let epoch = self.state().orders[boot_id].1;
        self.send(boot_id, report::Report::AgentReady(AgentReady { epoch }));
    }

    /// Has the VMM get to the state that guestio was told of.
    pub(super) fn state_reached(&self, boot_id: &str, error: &str) {
        let state = self.state().orders[boot_id].0.into();
        let reached = StateReached { state, error: error.to_owned() };
        self.send(boot_id, report::Report::StateReached(reached));
    }

    pub(super) fn guest_ended(&self, boot_id: &str, cause: guest_ended::Cause) {
        let ended = GuestEnded { cause: cause.into(), ..GuestEnded::default() };
        self.send(boot_id, report::Report::GuestEnded(ended));
    }
}

impl Host for Machine {
    type Process = Process;
    type Attachment = ();

    fn host_boot_id(&self) -> &str {
        &self.host_boot_id
    }

    fn vmm(&self) -> VmmKind {
        VmmKind::Qemu
    }

    fn boot_timeout(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn free_slot(&self, used: &BTreeSet<u32>) -> Option<u32> {
        (1..4).find(|slot| !used.contains(slot))
    }

    fn new_boot_id(&self) -> Result<String, Error> {
        let mut state = self.state();
        state.boots += 1;
        Ok(format!("boot-{}", state.boots))
    }

    fn reports(&self) -> &Reports {
        &self.reports
    }

    fn boot_queue(&self) -> &BootQueue {
        &self.boot_queue
    }

    async fn save(self: &Arc<Self>, record: &Record) -> Result<(), Error> {
        let mut state = self.state();
        fail_if(state.journal_fails)?;
        state.journal.insert(record.workspace.parse().unwrap(), record.clone());
        Ok(())
    }

    async fn remove_record(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        self.state().journal.remove(id);
        Ok(())
    }

    fn adopt_disk(&self, _: &WorkspaceId, _: u32) {}

    fn recover_vm(&self, _: &str) {}

    async fn create_disk(self: &Arc<Self>, id: &WorkspaceId, image: &str, _: u32) -> Result<String, Error> {
        let mut state = self.state();
        state.creations += 1;
        if let Some(code) = state.refusal {
            return Err(Error::Refused(code, "no".to_owned()));
        }
        state.disks.insert(id.clone());
        Ok(format!("{image}-1"))
    }

    async fn remove_disk(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        let mut state = self.state();
        fail_if(state.removal_fails)?;
        state.disks.remove(id);
        Ok(())
    }

    fn check_driver(&self) -> Result<(), Error> {
        self.state().refusal.map_or(Ok(()), |code| Err(Error::Refused(code, "no".to_owned())))
    }

    async fn launch(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        memory_key: Option<MemoryKey>,
    ) -> Result<Launched<Process>, Error> {
        assert!(record.spec.as_ref().unwrap().ram_mb > 0, "a VM without memory");
        let mut state = self.state();
        assert!(state.disks.contains(id), "a VM without a disk");
        let image = state.images.remove(id);
        assert!(memory_key.is_none() || image == Some(true), "a key without an image");
        match memory_key {
            Some(_) => state.closed.insert(id.clone()),
            None => state.closed.remove(id),
        };
        fail_if(state.launch_fails)?;
        let process = Process(Arc::new(watch::Sender::new(false)));
        let pid = i32::try_from(state.boots).unwrap();
        state.processes.insert(pid, process.clone());
        Ok(Launched { process, id: ProcessId { pid, start_time: 0 }, stderr: None })
    }

    async fn reopen(self: &Arc<Self>, process: ProcessId) -> Result<Option<Process>, Error> {
        let process = self.state().processes.get(&process.pid).cloned();
        Ok(process.filter(|process| !*process.0.borrow()))
    }

    async fn tear_down(self: &Arc<Self>, _: &WorkspaceId) -> Result<(), Error> {
        Ok(())
    }

    fn attach(self: &Arc<Self>, _: &WorkspaceId, _: &Record, boot: &Boot, reports: mpsc::Sender<Report>) {
        self.state().attached.insert(boot.boot_id.clone(), reports);
        self.set_run_state(boot);
    }

    fn detach(&self, boot_id: &str) {
        self.state().attached.remove(boot_id);
    }

    fn shut_down(&self, _: &str, _: u32) {
        self.state().shut_downs += 1;
    }

    fn set_run_state(&self, boot: &Boot) {
        self.state().orders.insert(boot.boot_id.clone(), (boot.run_state(), boot.epoch));
    }

    async fn set_link(self: &Arc<Self>, id: &WorkspaceId, _: &Record, is_open: bool) -> Result<(), Error> {
        let mut state = self.state();
        fail_if(state.network_fails)?;
        if is_open {
            state.closed.remove(id)
        } else {
            state.closed.insert(id.clone())
        };
        Ok(())
    }

    fn adopt_memory(&self, _: &WorkspaceId, _: u32) {}

    async fn check_memory(self: &Arc<Self>, _: &WorkspaceId, _: &Record) -> Result<(), Error> {
        let mismatch = || Error::Refused("memory_mismatch", "it is of another CPU".to_owned());
        if self.state().memory_fits { Ok(()) } else { Err(mismatch()) }
    }

    async fn begin_save(self: &Arc<Self>, id: &WorkspaceId, _: &Record, _: &MemoryKey) -> Result<(), Error> {
        let mut state = self.state();
        fail_if(state.saves_fail)?;
        state.images.insert(id.clone(), false);
        Ok(())
    }

    async fn finish_save(
        self: &Arc<Self>,
        id: &WorkspaceId,
        _: &Record,
        _: &MemoryKey,
    ) -> Result<MemoryImage, Error> {
        let mut state = self.state();
        assert_eq!(state.images.insert(id.clone(), true), Some(false), "it was not begun");
        Ok(MemoryImage::for_tests())
    }

    async fn forget_memory(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        self.state().images.remove(id);
        Ok(())
    }

    async fn restore_network(self: &Arc<Self>, _: &WorkspaceId, _: &Record) -> Result<(), Error> {
        fail_if(self.state().network_fails)
    }

    async fn set_policy(self: &Arc<Self>, _: &WorkspaceId, _: &Record, _: &Boot) -> Result<(), Error> {
        let mut state = self.state();
        fail_if(state.network_fails)?;
        state.policies += 1;
        Ok(())
    }
}
