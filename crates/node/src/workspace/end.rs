//! End of a VM: orderly shutdown, events of the running VM, and cleanup.

use std::time::Duration;

use rigbox_core::lifecycle::EndCause;
use rigbox_proto::guestio::{GuestEnded, guest_ended, report};
use tokio::time::Instant;

use super::state::{Event, PendingCleanup, Workspace};
use crate::error::Error;
use crate::host::{Host, VmmProcess};
use crate::record::{Boot, BootEnd, BootMemory};
use crate::sandbox::jail;
use crate::vmm::kind::VmmKind;

/// Time for the VMM's process to exit after it was killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for guestio to tell what the guest did before its VMM ended.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
const CLEANUP_RETRY_DELAY: Duration = Duration::from_secs(5);

impl<H: Host> Workspace<H> {
    /// Tells the guest to shut down, with a deadline that stays.
    pub(super) async fn stop(&mut self) {
        if self.begin_save().await {
            return;
        }
        let stopping = |boot: &mut Boot| {
            boot.stopping = true;
            // One that stands still does not shut down.
            boot.paused = false;
        };
        if let Err(error) = self.update_boot(stopping).await {
            return self.retry("write the journal", &error);
        }
        let grace_ms = self.record.spec.as_ref().map_or(0, |spec| spec.grace_ms);
        if let (Some(boot), Some(vm)) = (&self.record.boot, &mut self.vm) {
            vm.deadline = Some(Instant::now() + Duration::from_millis(grace_ms.into()));
            self.host.set_run_state(boot);
            self.host.shut_down(&boot.boot_id, grace_ms);
        }
    }

    /// Kills the VMM, if there is one, and waits until it has ended: also one that an earlier node started.
    pub(super) async fn kill(&mut self) -> Result<(), Error> {
        let mut process = self.vm.take().map(|vm| vm.process);
        let recorded = self.record.boot.as_ref().filter(|boot| boot.host_boot_id == self.host.host_boot_id());
        if let (None, Some(recorded)) = (&process, recorded.and_then(|boot| boot.process)) {
            process = self.host.reopen(recorded).await?;
        }
        let Some(process) = process else { return Ok(()) };
        process.kill();
        if tokio::time::timeout(EXIT_TIMEOUT, process.wait()).await.is_err() {
            return Err(Error::Retry(format!("the VMM of {} does not exit", self.id)));
        }
        Ok(())
    }

    pub(super) async fn handle_event(&mut self, event: Event) {
        let (cause, detail) = match event {
            Event::Report(report::Report::GuestEnded(ended)) => (cause_of(ended.cause()), ended.detail),
            Event::Report(report) => return self.handle_report(report).await,
            Event::VmmExited if let Some(ended) = self.report_of_end().await => {
                (cause_of(ended.cause()), ended.detail)
            }
            Event::VmmExited => {
                let stderr = self.vm.as_mut().and_then(|vm| vm.stderr.as_mut());
                let output = stderr.map(jail::read_stderr).unwrap_or_default();
                let separator = if output.is_empty() { "" } else { ": " };
                (EndCause::VmmDied, format!("the VMM exited{separator}{output}"))
            }
            Event::DeadlinePassed if self.is_saving() => {
                return self.give_up_save("it could not be saved in time").await;
            }
            Event::DeadlinePassed if self.record.boot.as_ref().is_some_and(|boot| boot.stopping) => {
                (EndCause::Requested, "the guest did not shut down in time and was killed".to_owned())
            }
            Event::DeadlinePassed => {
                let timeout = self.host.boot_timeout().as_secs();
                let detail = format!("the agent sent no hello within {timeout} s; the VM was killed");
                (EndCause::AgentNeverAnswered, detail)
            }
        };
        let Some(boot) = &self.record.boot else { return };
        if boot.is_restoring() && !boot.stopping {
            return self.boot_cold(&detail).await;
        }
        let cause = if boot.stopping || self.is_saving() { EndCause::Requested } else { cause };
        tracing::info!(workspace = %self.id, boot = %boot.boot_id, ?cause, detail, "VM ended");
        let end = BootEnd::of(boot, cause, &detail);
        if let Err(error) = self.kill().await {
            tracing::error!(workspace = %self.id, %error, "failed to end the VMM");
        }
        self.clean_up(Some(end)).await;
    }

    /// Returns whether the memory is being written to an image.
    fn is_saving(&self) -> bool {
        self.record.boot.as_ref().is_some_and(|boot| boot.memory == BootMemory::Saving)
    }

    /// Waits for guestio to tell why a VMM has ended that ends with its guest.
    async fn report_of_end(&mut self) -> Option<GuestEnded> {
        let is_of_guest = self.record.boot.as_ref().is_some_and(|boot| boot.vmm == VmmKind::Firecracker);
        let vm = self.vm.as_mut().filter(|_| is_of_guest)?;
        let report = async {
            loop {
                if let Some(report::Report::GuestEnded(ended)) = vm.reports.recv().await?.report {
                    return Some(ended);
                }
            }
        };
        tokio::time::timeout(REPORT_TIMEOUT, report).await.ok().flatten()
    }

    /// Handles a report that is not of the VM's end.
    async fn handle_report(&mut self, report: report::Report) {
        let (Some(boot), Some(vm)) = (&mut self.record.boot, &mut self.vm) else { return };
        match report {
            // An answer from before the guest was taken out of time.
            report::Report::AgentReady(ready) if ready.epoch != boot.epoch => {}
            report::Report::AgentReady(_) => {
                vm.agent_lost = false;
                vm.boot_permit = None;
                let is_first = !boot.ready;
                boot.ready = true;
                if is_first && !boot.stopping {
                    vm.deadline = None;
                }
                // A failure costs nothing: a restarted node waits for the hello again.
                if is_first && let Err(error) = self.host.save(&self.record).await {
                    tracing::error!(workspace = %self.id, %error, "failed to write the journal");
                }
                self.run_on().await;
            }
            report::Report::StateReached(reached) => self.handle_state(reached).await,
            report::Report::AgentLost(lost) => {
                tracing::warn!(workspace = %self.id, reason = lost.reason, "agent lost");
                vm.agent_lost = boot.ready;
            }
            report::Report::SystemChanged(changed) => {
                // guestio sends no other words.
                vm.system = changed.state.parse().unwrap_or(vm.system);
            }
            report::Report::GuestEnded(_) => {}
        }
    }

    /// Cleans up after a VM that was killed by request.
    pub(super) async fn clean_up_killed(&mut self) {
        let end =
            self.record.boot.as_ref().map(|boot| BootEnd::of(boot, EndCause::Requested, "it was killed"));
        self.clean_up(end).await;
    }

    /// Removes the resources of the last boot and records its end, with what that makes of the target. If a resource cannot be removed, the
    /// record keeps the boot, so that the resource is not forgotten and no other boot starts, and the cleanup is retried.
    pub(super) async fn clean_up(&mut self, end: Option<BootEnd>) {
        if let Some(boot) = &self.record.boot {
            self.host.detach(&boot.boot_id);
        }
        self.vm = None;
        // The kernel may take a moment to end the processes.
        let mut cleaned = self.host.tear_down(&self.id).await;
        let is_unfinished = |boot: &Boot| matches!(boot.memory, BootMemory::Loading | BootMemory::Saving);
        if cleaned.is_ok() && self.record.boot.as_ref().is_some_and(is_unfinished) {
            cleaned = self.host.forget_memory(&self.id).await;
        }
        if cleaned.is_ok() {
            let ended = end.clone();
            let update = self.update(|record| {
                if let Some(Boot { memory: BootMemory::Saved(image), .. }) = record.boot.take() {
                    record.memory = Some(image);
                    record.memory_lost.clear();
                }
                if let Some(end) = ended {
                    record.end(end);
                }
            });
            cleaned = update.await;
        }
        match cleaned {
            Ok(()) => self.network_due = None,
            Err(error) => {
                tracing::error!(workspace = %self.id, %error, "failed to clean up after the VM; retrying");
                self.cleanup = Some(PendingCleanup { end, retry_at: Instant::now() + CLEANUP_RETRY_DELAY });
            }
        }
    }
}

fn cause_of(cause: guest_ended::Cause) -> EndCause {
    match cause {
        guest_ended::Cause::Poweroff => EndCause::Poweroff,
        guest_ended::Cause::Reboot => EndCause::Reboot,
        guest_ended::Cause::Halt => EndCause::Halt,
        guest_ended::Cause::KernelPanic => EndCause::KernelPanic,
        guest_ended::Cause::Unobserved | guest_ended::Cause::Unspecified => EndCause::Unobserved,
    }
}
