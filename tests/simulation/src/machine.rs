//! Simulated machine: what survives a crash of the node's process (journal, disks, VMs), and how it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_node::{
    Boot, BootQueue, Error, Host, Launched, MemoryKey, Phase, Policy, ProcessId, Record, Reports, VmmKind,
    VmmProcess,
};
use rigbox_proto::guestio::{Report, guest_ended, report};
use tokio::sync::{mpsc, watch};

use crate::guest;
use crate::world::World;

/// Maximum number of VMs that boot at once.
const MAX_BOOTS: usize = 2;
const BOOT_TIMEOUT: Duration = Duration::from_secs(30);

/// State that survives a crash of the node's process.
#[derive(Default)]
pub(crate) struct Machine {
    pub journal: BTreeMap<WorkspaceId, String>,
    pub disks: BTreeMap<WorkspaceId, Disk>,
    /// Disks whose file was removed behind the node's back.
    pub lost_disks: BTreeMap<WorkspaceId, Disk>,
    pub vms: BTreeMap<i32, Vm>,
    /// Workspaces with resources of a boot: control group, network, folder.
    pub resources: BTreeSet<WorkspaceId>,
    /// Workspaces that a process of the node was told to delete.
    pub told_to_delete: BTreeSet<WorkspaceId>,
    /// Network policy in force, by boot.
    pub policies: BTreeMap<String, Policy>,
    /// Where reports about a boot go: the number of the node's process, and its queue.
    attached: BTreeMap<String, (u64, mpsc::Sender<Report>)>,
    host_boot: u64,
    last_pid: i32,
    last_boot: u64,
    last_process: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    pub is_complete: bool,
    /// A VM has had it.
    pub was_used: bool,
}

pub(crate) struct Vm {
    pub workspace: WorkspaceId,
    pub boot: String,
    alive: watch::Sender<bool>,
    /// The agent has answered.
    pub is_ready: bool,
    /// The guest has ended; the process is still there.
    pub ended: Option<guest_ended::Cause>,
    /// Secrets that were delivered: the revision of the environment, as its value tells.
    pub environment: Option<String>,
    pub has_key: bool,
}

impl Vm {
    fn is_alive(&self) -> bool {
        *self.alive.borrow()
    }
}

impl Machine {
    pub(crate) fn is_alive(&self, pid: i32) -> bool {
        self.vms.get(&pid).is_some_and(Vm::is_alive)
    }

    /// Returns the VMs of a workspace that are alive.
    pub(crate) fn alive(&self, id: &WorkspaceId) -> Vec<&Vm> {
        self.vms.values().filter(|vm| vm.workspace == *id && vm.is_alive()).collect()
    }

    /// Returns the process of a workspace's VM.
    pub(crate) fn pid_of(&self, id: &WorkspaceId) -> Option<i32> {
        self.vms.iter().find(|(_, vm)| vm.workspace == *id && vm.is_alive()).map(|(pid, _)| *pid)
    }

    pub(crate) fn kill(&self, pid: i32) {
        if let Some(vm) = self.vms.get(&pid) {
            vm.alive.send_replace(false);
        }
    }

    /// Tells the node about a boot, if one is attached to it.
    pub(crate) fn report(&self, boot: &str, report: report::Report) {
        if let Some((_, queue)) = self.attached.get(boot) {
            let _ = queue.try_send(Report { boot_id: boot.to_owned(), report: Some(report) });
        }
    }

    pub(crate) fn reboot_host(&mut self) {
        self.host_boot += 1;
        self.resources.clear();
        for pid in self.vms.keys() {
            self.kill(*pid);
        }
    }

    /// Loses the record of a workspace, and returns whether there was one.
    pub(crate) fn lose_record(&mut self, id: &WorkspaceId) -> bool {
        self.journal.remove(id).is_some()
    }

    /// Removes the file of a complete disk. A VM that has it open goes on with it.
    pub(crate) fn lose_disk(&mut self, id: &WorkspaceId) -> bool {
        let Some(disk) = self.disks.remove(id) else { return false };
        self.lost_disks.insert(id.clone(), disk);
        true
    }

    /// Does what the node does at its start with what its journal does not have: VMs end, and complete disks get a record.
    pub(crate) fn recover_unrecorded(&mut self) {
        let unrecorded = |id: &WorkspaceId| !self.journal.contains_key(id);
        let pids = self.vms.iter().filter(|(_, vm)| unrecorded(&vm.workspace)).map(|(pid, _)| *pid);
        pids.collect::<Vec<_>>().into_iter().for_each(|pid| self.kill(pid));
        self.resources.retain(|id| self.journal.contains_key(id));
        let unrecorded = |id: &WorkspaceId| !self.journal.contains_key(id);
        let ids: Vec<_> = self.disks.keys().filter(|id| unrecorded(id)).cloned().collect();
        for id in ids {
            if !self.disks[&id].is_complete {
                // It has another name until it is complete.
                self.disks.remove(&id);
                continue;
            }
            let used: BTreeSet<_> = self.records().iter().map(|(_, record)| record.slot).collect();
            let slot = (0..100).find(|slot| !used.contains(slot)).unwrap();
            let record = Record {
                image_version: "base-1".into(),
                disk_size_mb: 4_096,
                phase: Phase::Provisioned,
                ..Record::new(&id, slot)
            };
            self.journal.insert(id, serde_json::to_string(&record).unwrap());
        }
    }

    pub(crate) fn record(&self, id: &WorkspaceId) -> Option<Record> {
        self.journal.get(id).map(|text| serde_json::from_str(text).unwrap())
    }

    pub(crate) fn records(&self) -> Vec<(WorkspaceId, Record)> {
        self.journal.keys().filter_map(|id| Some((id.clone(), self.record(id)?))).collect()
    }
}

/// One process of the node.
pub(crate) struct NodeProcess {
    world: Arc<World>,
    number: u64,
    host_boot: String,
    reports: Reports,
    boot_queue: BootQueue,
    is_dead: AtomicBool,
}

impl NodeProcess {
    pub(crate) fn start(world: &Arc<World>) -> Arc<Self> {
        let (number, host_boot) = {
            let mut machine = world.machine();
            machine.last_process += 1;
            // What the process before it was attached to is closed.
            machine.attached.clear();
            (machine.last_process, format!("host-{}", machine.host_boot))
        };
        // Sessions have no order among them.
        let session = NonZeroU64::new(world.random.next() | 1).unwrap();
        Arc::new(Self {
            world: Arc::clone(world),
            number,
            host_boot,
            reports: Reports::new(session),
            boot_queue: BootQueue::new(MAX_BOOTS.try_into().unwrap()),
            is_dead: AtomicBool::new(false),
        })
    }

    /// Ends the process: nothing that it does has an effect any more.
    pub(crate) fn kill(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
    }

    fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }

    /// Passes some time, in which the process may be killed.
    async fn step(&self) {
        self.world.pause(3).await;
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    fn fails(&self, per_mille: u64, what: &str, id: &WorkspaceId) -> Result<(), Error> {
        if self.world.disturbs(per_mille) {
            self.world.note(format!("{id}: {what} fails"));
            return Err(Error::Retry(format!("{what} was made to fail")));
        }
        Ok(())
    }
}

pub(crate) struct Process {
    world: Arc<World>,
    pid: i32,
    alive: watch::Receiver<bool>,
}

impl VmmProcess for Process {
    fn kill(&self) {
        self.world.machine().kill(self.pid);
    }

    async fn wait(&self) {
        let mut alive = self.alive.clone();
        // A VM that is not in the machine any more is not alive.
        let _ = alive.wait_for(|alive| !alive).await;
    }
}

impl Host for NodeProcess {
    type Process = Process;
    type Attachment = ();

    fn host_boot_id(&self) -> &str {
        &self.host_boot
    }

    fn vmm(&self) -> VmmKind {
        VmmKind::Qemu
    }

    fn boot_timeout(&self) -> Duration {
        BOOT_TIMEOUT
    }

    fn free_slot(&self, used: &BTreeSet<u32>) -> Option<u32> {
        (0..100).find(|slot| !used.contains(slot))
    }

    fn new_boot_id(&self) -> Result<String, Error> {
        let mut machine = self.world.machine();
        machine.last_boot += 1;
        Ok(format!("boot-{}", machine.last_boot))
    }

    fn reports(&self) -> &Reports {
        &self.reports
    }

    fn boot_queue(&self) -> &BootQueue {
        &self.boot_queue
    }

    async fn save(self: &Arc<Self>, record: &Record) -> Result<(), Error> {
        let (id, text) = (record.workspace.parse().unwrap(), serde_json::to_string(record).unwrap());
        self.step().await;
        self.fails(20, "the journal", &id)?;
        if let Some(before) = self.world.machine().record(&id) {
            for (what, now, then) in [
                ("target", record.target.generation, before.target.generation),
                ("network policy", record.network_revision, before.network_revision),
            ] {
                if now < then {
                    self.world.violation(format!("{id}: an older {what} took the place of a later one"));
                }
            }
        }
        self.world.machine().journal.insert(id, text);
        self.step().await;
        Ok(())
    }

    async fn remove_record(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        self.step().await;
        self.fails(20, "the journal", id)?;
        self.world.machine().journal.remove(id);
        self.step().await;
        Ok(())
    }

    fn adopt_disk(&self, _: &WorkspaceId, _: u32) {}

    fn recover_vm(&self, _: &str) {}

    async fn create_disk(self: &Arc<Self>, id: &WorkspaceId, _: &str, _: u32) -> Result<String, Error> {
        self.step().await;
        self.fails(30, "the disk's creation", id)?;
        if self.world.disturbs(30) {
            self.world.note(format!("{id}: no room for the disk"));
            return Err(Error::DiskFull { wanted_mb: 1, detail: "simulated".into() });
        }
        let old = self.world.machine().disks.insert(id.clone(), Disk { is_complete: false, was_used: false });
        let lost = self.world.machine().lost_disks.get(id).copied();
        if old.or(lost).is_some_and(|disk| disk.was_used) {
            self.world.violation(format!("{id}: an empty disk took the place of one that was used"));
        }
        self.world.note(format!("{id}: disk"));
        self.world.pause(500).await;
        if let Some(disk) = self.world.machine().disks.get_mut(id) {
            disk.is_complete = true;
        }
        self.step().await;
        Ok("base-1".to_owned())
    }

    async fn remove_disk(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        self.step().await;
        self.fails(30, "the disk's removal", id)?;
        if !self.world.may_delete(id) {
            self.world.violation(format!("{id}: the disk was removed, and nobody asked for it"));
        }
        if !self.world.machine().alive(id).is_empty() {
            self.world.violation(format!("{id}: the disk was removed under a VM"));
        }
        let (disk, lost) = {
            let mut machine = self.world.machine();
            // One that was lost is not missed any more: a late target makes an empty one, and the next one removes it.
            (machine.disks.remove(id), machine.lost_disks.remove(id))
        };
        if disk.or(lost).is_some() {
            self.world.note(format!("{id}: no disk"));
        }
        self.step().await;
        Ok(())
    }

    fn check_driver(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn launch(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        _: Option<MemoryKey>,
    ) -> Result<Launched<Process>, Error> {
        self.step().await;
        self.world.machine().resources.insert(id.clone());
        self.fails(20, "the launch", id)?;
        let boot = record.boot.as_ref().map(|boot| boot.boot_id.clone()).unwrap_or_default();
        let launched = {
            let mut machine = self.world.machine();
            if !machine.alive(id).is_empty() {
                self.world.violation(format!("{id}: two VMs on one disk"));
            }
            if machine.lost_disks.contains_key(id) && !machine.disks.contains_key(id) {
                return Err(Error::Launch("failed to open disk: it is gone".to_owned()));
            }
            match machine.disks.get_mut(id) {
                Some(disk) if disk.is_complete => disk.was_used = true,
                _ => self.world.violation(format!("{id}: a VM without a complete disk")),
            }
            machine.last_pid += 1;
            let pid = machine.last_pid;
            let (sender, alive) = watch::channel(true);
            machine.policies.insert(boot.clone(), record.network.clone());
            let vm = Vm {
                workspace: id.clone(),
                boot: boot.clone(),
                alive: sender,
                is_ready: false,
                ended: None,
                environment: None,
                has_key: false,
            };
            machine.vms.insert(pid, vm);
            self.world.note(format!("{id}: VM {boot}"));
            let process = Process { world: Arc::clone(&self.world), pid, alive };
            Launched { process, id: ProcessId { pid, start_time: 1 }, stderr: None }
        };
        tokio::spawn(guest::run(Arc::clone(&self.world), launched.id.pid));
        self.step().await;
        Ok(launched)
    }

    async fn reopen(self: &Arc<Self>, process: ProcessId) -> Result<Option<Process>, Error> {
        self.step().await;
        if self.world.disturbs(30) {
            return Err(Error::Retry("the look for the process was made to fail".into()));
        }
        let machine = self.world.machine();
        let vm = machine.vms.get(&process.pid).filter(|vm| vm.is_alive());
        Ok(vm.map(|vm| Process {
            world: Arc::clone(&self.world),
            pid: process.pid,
            alive: vm.alive.subscribe(),
        }))
    }

    async fn tear_down(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        self.step().await;
        self.fails(30, "the cleanup", id)?;
        {
            let machine = self.world.machine();
            let record = machine.record(id);
            let boot = record.as_ref().and_then(|record| record.boot.as_ref());
            let is_wanted = boot.is_some_and(|boot| {
                let is_healthy = |vm: &&Vm| vm.boot == boot.boot_id && vm.is_ready && vm.ended.is_none();
                boot.process.is_some() && !boot.stopping && machine.alive(id).iter().any(is_healthy)
            });
            if is_wanted && !self.world.may_delete(id) {
                self.world.violation(format!("{id}: a VM that runs and is wanted was killed"));
            }
            let pids = machine.vms.iter().filter(|(_, vm)| vm.workspace == *id).map(|(pid, _)| *pid);
            pids.for_each(|pid| machine.kill(pid));
        }
        self.step().await;
        self.fails(20, "the cleanup", id)?;
        self.world.machine().resources.remove(id);
        Ok(())
    }

    fn attach(
        self: &Arc<Self>,
        _: &WorkspaceId,
        _: &Record,
        boot: &Boot,
        reports: mpsc::Sender<Report>,
    ) -> Self::Attachment {
        if self.is_dead() {
            return;
        }
        let boot = &boot.boot_id;
        let mut machine = self.world.machine();
        machine.attached.insert(boot.clone(), (self.number, reports));
        let Some(vm) = machine.vms.values().find(|vm| vm.boot == *boot) else { return };
        let (is_ready, ended) = (vm.is_ready, vm.ended);
        // As guestio does when it finds the agent, or the end, again.
        if is_ready && ended.is_none() {
            machine.report(boot, guest::ready());
        }
        if let Some(cause) = ended {
            machine.report(boot, guest::ended(cause));
        }
    }

    fn detach(&self, boot_id: &str) {
        let mut machine = self.world.machine();
        if machine.attached.get(boot_id).is_some_and(|(number, _)| *number == self.number) {
            machine.attached.remove(boot_id);
        }
    }

    fn shut_down(&self, boot_id: &str, _: u32) {
        if self.is_dead() {
            return;
        }
        tokio::spawn(guest::shut_down(Arc::clone(&self.world), boot_id.to_owned()));
    }

    fn set_run_state(&self, _: &Boot) {}

    async fn set_link(self: &Arc<Self>, id: &WorkspaceId, _: &Record, _: bool) -> Result<(), Error> {
        self.step().await;
        self.fails(20, "the network", id)
    }

    async fn restore_network(self: &Arc<Self>, id: &WorkspaceId, record: &Record) -> Result<(), Error> {
        self.step().await;
        self.fails(20, "the network", id)?;
        if let Some(boot) = &record.boot {
            self.world.machine().policies.insert(boot.boot_id.clone(), record.network.clone());
        }
        Ok(())
    }

    async fn set_policy(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        boot: &Boot,
    ) -> Result<(), Error> {
        self.step().await;
        self.fails(20, "the network", id)?;
        self.world.machine().policies.insert(boot.boot_id.clone(), record.network.clone());
        self.step().await;
        Ok(())
    }
}
