//! Boot of a VM, and takeover of one that survived a restart of the node.

use std::fs::File;
use std::time::Duration;

use rigbox_core::lifecycle::{Desired, EndCause};
use rigbox_core::system::SystemState;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::state::{QueuePlace, RETRY_DELAY, RunningVm, Workspace};
use crate::boot_queue::BootPermit;
use crate::host::{Host, VmmProcess};
use crate::memory::MemoryKey;
use crate::record::{Boot, BootEnd, BootMemory, shortened};

/// Reports of guestio that a workspace's task has not handled yet. An honest guestio sends a few in a boot's life.
const MAX_PENDING_REPORTS: usize = 256;
/// Time after which a boot asks for its turn, even if the queue seems not to have changed.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

impl<H: Host> Workspace<H> {
    /// Boots a VM, if it is its turn.
    pub(super) async fn boot(&mut self) {
        let Some(spec) = &self.record.spec else { return self.wait_for_spec().await };
        if let Err(error) = self.host.check_driver() {
            return self.refuse("boot the VM", &error).await;
        }
        self.queue_changes.mark_unchanged();
        let now = Instant::now();
        let permit = match self.host.boot_queue().ask(&self.id, &spec.owner, now) {
            Ok(permit) => permit,
            Err(position) => {
                self.queue_place = Some(QueuePlace { position, ask_at: now + ASK_INTERVAL });
                return;
            }
        };
        self.queue_place = None;
        let boot_id = match self.host.new_boot_id() {
            Ok(boot_id) => boot_id,
            Err(error) => return self.retry("name the boot", &error),
        };
        let memory_key = self.key_to_restore().await;
        let is_restored = matches!(memory_key, Ok(Some(_)));
        let boot = Boot {
            boot_id,
            generation: self.record.target.generation,
            host_boot_id: self.host.host_boot_id().to_owned(),
            process: None,
            vmm: self.host.vmm(),
            metadata_json: self
                .record
                .spec
                .as_ref()
                .map(|spec| spec.metadata_json.clone())
                .unwrap_or_default(),
            ready: false,
            stopping: false,
            paused: false,
            epoch: is_restored.into(),
            is_closed: is_restored,
            memory: if is_restored { BootMemory::Loading } else { BootMemory::None },
        };
        let recorded = self.update(|record| {
            record.last_end = None;
            record.boot = Some(boot.clone());
            if record.memory.take().is_some() {
                record.memory_lost =
                    memory_key.as_ref().err().map(|lost| shortened(lost)).unwrap_or_default();
            }
        });
        if let Err(error) = recorded.await {
            return self.retry("write the journal", &error);
        }
        self.launch(boot, memory_key.ok().flatten(), permit).await;
    }

    /// Starts the VMM of a recorded boot.
    async fn launch(&mut self, boot: Boot, memory_key: Option<MemoryKey>, permit: BootPermit) {
        let launched = match self.host.launch(&self.id, &self.record, memory_key).await {
            Ok(launched) => launched,
            Err(error) if boot.is_restoring() => return self.boot_cold(&error.to_string()).await,
            Err(error) => {
                tracing::warn!(workspace = %self.id, %error, "failed to start the VM");
                let end = BootEnd::of(&boot, EndCause::StartFailed, &error.to_string());
                return self.clean_up(Some(end)).await;
            }
        };
        // A VM that the journal does not know would be forgotten by the next node.
        let boot = Boot { process: Some(launched.id), ..boot };
        if let Err(error) = self.update(|record| record.boot = Some(boot.clone())).await {
            launched.process.kill();
            tracing::error!(workspace = %self.id, %error, "failed to record the VM, which is killed and booted again");
            return self.clean_up(None).await;
        }
        tracing::info!(workspace = %self.id, boot = %boot.boot_id, pid = launched.id.pid, "VM started");
        self.attach(launched.process, launched.stderr, &boot, Some(permit));
        self.network_due = None;
    }

    /// Lets control send what an earlier version did not record. It does so when it hears that the VM is not wanted here any more.
    async fn wait_for_spec(&mut self) {
        if let Err(error) = self.update(|record| record.target.state = Desired::Stopped).await {
            self.retry("write the journal", &error);
        }
    }

    /// Gives up a place in the queue of boots, if there is one.
    pub(super) fn leave_queue(&mut self) {
        if self.queue_place.take().is_some() {
            self.host.boot_queue().leave(&self.id);
        }
    }

    /// Takes over a recorded VM if it is still running. Otherwise records its end and cleans up. An error says nothing about the VM.
    pub(super) async fn recover(&mut self) {
        let Some(boot) = self.record.boot.clone() else {
            self.is_recovered = true;
            return;
        };
        let same_host_boot = boot.host_boot_id == self.host.host_boot_id();
        let process = match boot.process.filter(|_| same_host_boot) {
            Some(process) => match self.host.reopen(process).await {
                Ok(process) => process,
                Err(error) => return self.retry("look for the VM's process", &error),
            },
            None => None,
        };
        self.is_recovered = true;
        if let Some(process) = process {
            return self.take_over(process, &boot).await;
        }
        let is_saved = matches!(boot.memory, BootMemory::Saved(_));
        let (cause, detail) = match (boot.stopping || is_saved, same_host_boot, boot.process) {
            (true, ..) => (EndCause::Requested, "the VM ended while the node was down"),
            (_, false, _) => (EndCause::HostWentDown, "the host went down while the VM was running"),
            // Nobody has heard of it. The target is as it was, so another one is booted.
            (_, _, None) => return self.clean_up(None).await,
            _ => (EndCause::Unobserved, "the VM ended while the node was down"),
        };
        self.clean_up(Some(BootEnd::of(&boot, cause, detail))).await;
    }

    async fn take_over(&mut self, process: H::Process, boot: &Boot) {
        tracing::info!(workspace = %self.id, boot = %boot.boot_id, "taking over a running VM");
        if matches!(boot.memory, BootMemory::Saved(_)) {
            return self.end_saved().await;
        }
        // The key of its image ended with the node that was making it.
        if boot.memory == BootMemory::Saving {
            self.give_up_save("the node was restarted while it was saved").await;
        }
        let Some(boot) = &self.record.boot.clone() else { return };
        let restored = self.host.restore_network(&self.id, &self.record).await;
        self.network_due = restored.is_err().then(|| Instant::now() + RETRY_DELAY);
        let permit = (!boot.ready).then(|| self.host.boot_queue().admit(&self.id));
        self.attach(process, None, boot, permit);
        if let Err(error) = restored {
            tracing::error!(workspace = %self.id, %error, "failed to restore the VM's network policy; retrying");
            if let Some(vm) = &mut self.vm {
                vm.is_network_restored = false;
            }
        }
    }

    /// Makes a running VM reachable, and follows what becomes of it.
    fn attach(
        &mut self,
        process: H::Process,
        stderr: Option<File>,
        boot: &Boot,
        boot_permit: Option<BootPermit>,
    ) {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: each VM's own queue of reports; more are dropped"
        )]
        let (sender, reports) = mpsc::channel(MAX_PENDING_REPORTS);
        let attachment = self.host.attach(&self.id, &self.record, boot, sender);
        // A VM that was stopping when the node went down gets no second grace period.
        let deadline = match (boot.stopping, boot.ready) {
            (true, _) => Some(Instant::now()),
            (false, true) => None,
            (false, false) => Some(Instant::now() + self.host.boot_timeout()),
        };
        self.vm = Some(RunningVm {
            process,
            reports,
            stderr,
            deadline,
            agent_lost: false,
            is_standing: false,
            is_acknowledged: false,
            system: SystemState::Starting,
            boot_permit,
            is_network_restored: true,
            _attachment: attachment,
        });
    }
}
