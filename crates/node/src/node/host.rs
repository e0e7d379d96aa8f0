//! The real machine: what workspaces' tasks do to the kernel, to disks and to the journal.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::guestio::{DnsLimits, Report};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Node;
use super::launch::launch;
use crate::boot_queue::BootQueue;
use crate::effect::Effect;
use crate::error::Error;
use crate::host::{Host, Launched, VmmProcess};
use crate::memory::{MemoryImage, MemoryKey};
use crate::net;
use crate::net::admitted_names::AdmittedNames;
use crate::record::{Boot, BootMemory, ProcessId, Record};
use crate::reports::Reports;
use crate::sandbox::jail;
use crate::sandbox::process::ProcessHandle;
use crate::sockets::guestio::{AttachedVm, MemorySlot};
use crate::vmm::kind::VmmKind;

impl VmmProcess for ProcessHandle {
    fn kill(&self) {
        ProcessHandle::kill(self);
    }

    async fn wait(&self) {
        ProcessHandle::wait(self).await;
    }
}

impl Host for Node {
    type Process = ProcessHandle;
    /// Serves the VM's bridge.
    type Attachment = AbortOnDropHandle<()>;

    fn host_boot_id(&self) -> &str {
        &self.host_boot_id
    }

    fn vmm(&self) -> VmmKind {
        self.driver.kind
    }

    fn boot_timeout(&self) -> Duration {
        self.config.boot_timeout
    }

    fn free_slot(&self, used: &BTreeSet<u32>) -> Option<u32> {
        self.config.free_slot(used)
    }

    fn new_boot_id(&self) -> Result<String, Error> {
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
        Ok(uuid.map_err(Error::system("read a random UUID from the kernel"))?.trim().to_owned())
    }

    fn reports(&self) -> &Reports {
        &self.reports
    }

    fn boot_queue(&self) -> &BootQueue {
        &self.boot_queue
    }

    async fn save(self: &Arc<Self>, record: &Record) -> Result<(), Error> {
        let record = record.clone();
        self.perform(Effect::Save, move |node| node.journal.save(&record)).await
    }

    async fn remove_record(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        let id = id.clone();
        self.perform(Effect::RemoveRecord, move |node| node.journal.remove(&id)).await
    }

    fn recover_vm(&self, boot_id: &str) {
        self.attached_vms.recover(boot_id);
    }

    fn adopt_disk(&self, id: &WorkspaceId, size_mb: u32) {
        self.disks.adopt(id, size_mb);
    }

    async fn create_disk(
        self: &Arc<Self>,
        id: &WorkspaceId,
        image: &str,
        size_mb: u32,
    ) -> Result<String, Error> {
        let image = self.images.newest(image)?.clone();
        if size_mb < image.min_disk_mb {
            let message = format!(
                "a disk of {size_mb} MiB is too small for the image {}, which needs {} MiB",
                image.version, image.min_disk_mb
            );
            return Err(Error::Refused("disk_too_small", message));
        }
        let id = id.clone();
        self.perform(Effect::CreateDisk, move |node| {
            node.disks.create(&id, &image.rootfs, size_mb)?;
            Ok(image.version)
        })
        .await
    }

    async fn remove_disk(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        let id = id.clone();
        self.perform(Effect::RemoveDisk, move |node| node.disks.remove(&id)).await
    }

    fn check_driver(&self) -> Result<(), Error> {
        self.driver.check()
    }

    async fn launch(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        memory_key: Option<MemoryKey>,
    ) -> Result<Launched<ProcessHandle>, Error> {
        let (id, record) = (id.clone(), record.clone());
        let launch = move |node: &Self| launch(node, &id, &record, memory_key);
        let mut launched = self.perform(Effect::Launch, launch).await?;
        match ProcessHandle::new(launched.pid, launched.pidfd) {
            Ok((process, id)) => Ok(Launched { process, id, stderr: Some(launched.stderr) }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let output = jail::read_stderr(&mut launched.stderr);
                Err(Error::Launch(format!("it exited at once: {output}")))
            }
            Err(error) => Err(Error::Launch(error.to_string())),
        }
    }

    async fn reopen(self: &Arc<Self>, process: ProcessId) -> Result<Option<ProcessHandle>, Error> {
        let open = || ProcessHandle::reopen(process);
        self.kill_points
            .around(Effect::Reopen.points(), open)
            .map_err(Error::system("look for the VM's process"))
    }

    async fn tear_down(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        let id = id.clone();
        self.perform(Effect::TearDown, move |node| node.remove_boot_resources(&id)).await
    }

    fn attach(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        boot: &Boot,
        reports: mpsc::Sender<Report>,
    ) -> AbortOnDropHandle<()> {
        let netns = self.config.netns(id);
        let attached_vm = AttachedVm {
            workspace: id.to_string(),
            metadata_json: boot.metadata_json.clone(),
            vmm: boot.vmm,
            uid: self.vm_uid(record.slot),
            process: boot.process,
            vm_dir: self.config.vm_dir(id),
            netns: netns.clone(),
            egress: self.egress(record),
            dns_limits: self.dns_limits(record),
            admitted_names: Arc::new(AdmittedNames::new(self.config.network.blocked.clone())),
            run_state: boot.run_state(),
            epoch: boot.epoch,
            is_restored: boot.memory == BootMemory::Loading,
            memory_pipe: MemorySlot::default(),
            reports,
        };
        let bridge = self.bridge.listen(id.clone(), netns.clone());
        self.attached_vms.insert(&boot.boot_id, attached_vm);
        if !boot.is_closed {
            self.dial_targets.insert(id, &boot.boot_id, netns, record.network.clone());
        }
        bridge
    }

    fn detach(&self, boot_id: &str) {
        self.attached_vms.remove(boot_id);
    }

    fn shut_down(&self, boot_id: &str, grace_ms: u32) {
        self.attached_vms.shut_down(boot_id, grace_ms);
    }

    fn set_run_state(&self, boot: &Boot) {
        self.attached_vms.set_run_state(&boot.boot_id, boot.run_state(), boot.epoch);
    }

    async fn set_link(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        is_open: bool,
    ) -> Result<(), Error> {
        let netns = self.config.netns(id);
        if !is_open {
            self.dial_targets.remove(id);
        }
        let path = netns.clone();
        self.perform(Effect::SetLink, move |_| net::set_link(&path, is_open)).await?;
        if let Some(boot) = record.boot.as_ref().filter(|_| is_open) {
            self.dial_targets.insert(id, &boot.boot_id, netns, record.network.clone());
        }
        Ok(())
    }

    fn adopt_memory(&self, id: &WorkspaceId, size_mb: u32) {
        self.disks.adopt_memory(id, size_mb);
    }

    async fn check_memory(self: &Arc<Self>, id: &WorkspaceId, record: &Record) -> Result<(), Error> {
        let (id, record) = (id.clone(), record.clone());
        self.perform(Effect::CheckMemory, move |node| node.check_memory(&id, &record)).await
    }

    async fn begin_save(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        key: &MemoryKey,
    ) -> Result<(), Error> {
        let (id, record, key) = (id.clone(), record.clone(), key.clone());
        self.perform(Effect::BeginSave, move |node| node.begin_save(&id, &record, &key)).await
    }

    async fn finish_save(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        key: &MemoryKey,
    ) -> Result<MemoryImage, Error> {
        let (id, record, key) = (id.clone(), record.clone(), key.clone());
        self.perform(Effect::FinishSave, move |node| node.finish_save(&id, &record, &key)).await
    }

    async fn forget_memory(self: &Arc<Self>, id: &WorkspaceId) -> Result<(), Error> {
        let id = id.clone();
        self.perform(Effect::ForgetMemory, move |node| node.forget_memory(&id)).await
    }

    async fn restore_network(self: &Arc<Self>, id: &WorkspaceId, record: &Record) -> Result<(), Error> {
        let (netns, policy, slot) = (self.config.netns(id), record.network.clone(), record.slot);
        self.perform(Effect::RestoreNetwork, move |node| {
            net::restore(&node.config, &netns, &policy, node.uplink_for(slot))
        })
        .await
    }

    async fn set_policy(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        boot: &Boot,
    ) -> Result<(), Error> {
        let (netns, policy, slot) = (self.config.netns(id), record.network.clone(), record.slot);
        // Updated first, so that nothing is dialed or resolved that is about to be closed.
        if !boot.is_closed {
            self.dial_targets.insert(id, &boot.boot_id, netns.clone(), policy.clone());
        }
        let (egress, dns_limits) = (self.egress(record), self.dns_limits(record));
        let Some(names) = self.attached_vms.set_policy(&boot.boot_id, egress, dns_limits) else {
            return Ok(());
        };
        let set =
            move |node: &Self| net::set_policy(&node.config, &netns, &policy, &names, node.uplink_for(slot));
        self.perform(Effect::SetPolicy, set).await
    }
}

impl Node {
    /// Returns the destinations that a VM may reach: none without an uplink.
    fn egress(&self, record: &Record) -> Egress {
        if self.uplink.is_some() { record.network.egress().clone() } else { Egress::None }
    }

    /// Returns the limits of a VM's DNS queries, which guestio keeps.
    fn dns_limits(&self, record: &Record) -> DnsLimits {
        let limits = record.network.limits(self.config.network.limits);
        DnsLimits { queries: limits.dns_queries.get().into(), queries_per_s: limits.dns_queries_per_s.get() }
    }

    /// Runs blocking work, whose effect this is, outside the async runtime's threads.
    async fn perform<T: Send + 'static>(
        self: &Arc<Self>,
        effect: Effect,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let node = Arc::clone(self);
        let result =
            tokio::task::spawn_blocking(move || node.kill_points.around(effect.points(), || work(&node)))
                .await;
        result.unwrap_or_else(|error| {
            Err(Error::System { action: "run a blocking task", source: error.into() })
        })
    }
}
