//! End of a VM: stop requests, events of the running VM, and cleanup.

use std::time::Duration;

use rigbox_proto::guestio::{Report, guest_ended, report};
use rigbox_proto::node::{Cause, StopRequest};
use tokio::time::Instant;

use super::state::{Event, PendingCleanup, RunningVm, Workspace};
use crate::error::Error;
use crate::journal::{BootEnd, Record};
use crate::sandbox::jail;
use crate::sandbox::process::ProcessHandle;

/// Time for the VMM's process to exit after it was killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
const CLEANUP_RETRY_DELAY: Duration = Duration::from_secs(5);

impl Workspace {
    pub(super) fn stop(&mut self, request: &StopRequest) -> Result<(), Error> {
        self.check_generation(request.generation)?;
        self.node.boot_queue.leave(&self.id);
        let runs = self.vm.is_some();
        let was_stopping = self.record.boot.as_ref().is_some_and(|boot| boot.stopping);
        self.update(|record| {
            record.generation = request.generation;
            if let Some(boot) = record.boot.as_mut().filter(|_| runs) {
                boot.stopping = true;
            }
        })?;
        if let (Some(boot), Some(vm)) = (&self.record.boot, &mut self.vm) {
            // A stop that is repeated gives no more time.
            if !was_stopping {
                vm.deadline = Some(Instant::now() + Duration::from_millis(request.grace_ms.into()));
            }
            self.node.attached_vms.shut_down(&boot.boot_id, request.grace_ms);
        }
        Ok(())
    }

    /// Kills the VMM, if there is one, and waits until it has ended: also one that an earlier node started.
    pub(super) async fn kill(&mut self) -> Result<(), Error> {
        let mut process = self.vm.take().map(|vm| vm.process);
        let recorded = self.record.boot.as_ref().filter(|boot| boot.host_boot_id == self.node.host_boot_id);
        if let (None, Some(recorded)) = (&process, recorded.and_then(|boot| boot.process)) {
            let reopened = ProcessHandle::reopen(recorded);
            process = reopened.map_err(Error::system("look for the VM's process"))?;
        }
        let Some(process) = process else { return Ok(()) };
        process.kill();
        if tokio::time::timeout(EXIT_TIMEOUT, process.wait()).await.is_err() {
            return Err(Error::Retry(format!("the VMM of {} does not exit", self.id)));
        }
        Ok(())
    }

    pub(super) async fn handle_event(&mut self, event: Event) {
        let (Some(boot), Some(vm)) = (&mut self.record.boot, &mut self.vm) else { return };
        let (cause, detail) = match event {
            Event::Report(report::Report::AgentReady(_)) => {
                vm.agent_lost = false;
                vm.boot_permit = None;
                if !boot.ready {
                    boot.ready = true;
                    if !boot.stopping {
                        vm.deadline = None;
                    }
                    // A failure costs nothing: a restarted node waits for the hello again.
                    if let Err(error) = self.node.journal.save(&self.record) {
                        tracing::error!(workspace = %self.id, %error, "failed to write the journal");
                    }
                }
                return;
            }
            Event::Report(report::Report::AgentLost(lost)) => {
                tracing::warn!(workspace = %self.id, reason = lost.reason, "agent lost");
                vm.agent_lost = boot.ready;
                return;
            }
            Event::Report(report::Report::SystemChanged(changed)) => {
                // guestio sends no other words.
                vm.system = changed.state.parse().unwrap_or(vm.system);
                return;
            }
            Event::Report(report::Report::GuestEnded(ended)) => (cause_of(ended.cause()), ended.detail),
            Event::VmmExited => {
                let output = vm.stderr.as_mut().map(jail::read_stderr).unwrap_or_default();
                let separator = if output.is_empty() { "" } else { ": " };
                (Cause::VmmDied, format!("the VMM exited{separator}{output}"))
            }
            Event::DeadlinePassed if boot.stopping => {
                (Cause::Requested, "the guest did not shut down in time and was killed".to_owned())
            }
            Event::DeadlinePassed => {
                let timeout = self.node.config.boot_timeout.as_secs();
                let detail = format!("the agent sent no hello within {timeout} s; the VM was killed");
                (Cause::AgentNeverAnswered, detail)
            }
        };
        let cause = if boot.stopping { Cause::Requested } else { cause };
        tracing::info!(workspace = %self.id, boot = %boot.boot_id, ?cause, detail, "VM ended");
        let end = BootEnd::new(&boot.boot_id, cause, detail);
        if let Err(error) = self.kill().await {
            tracing::error!(workspace = %self.id, %error, "failed to end the VMM");
        }
        self.clean_up(Some(end));
    }

    /// Removes the resources of the last boot and records its end. If a resource cannot be removed, the record keeps the boot, so that
    /// the resource is not forgotten and no other boot starts, and the cleanup is retried.
    pub(super) fn clean_up(&mut self, end: Option<BootEnd>) {
        if let Some(boot) = &self.record.boot {
            self.node.attached_vms.remove(&boot.boot_id);
        }
        self.vm = None;
        // The kernel may take a moment to end the processes.
        let cleaned = tokio::task::block_in_place(|| self.node.tear_down(&self.id)).and_then(|()| {
            let record = Record { boot: None, last_end: end.clone(), ..self.record.clone() };
            self.node.journal.save(&record)?;
            Ok(record)
        });
        match cleaned {
            Ok(record) => self.record = record,
            Err(error) => {
                tracing::error!(workspace = %self.id, %error, "failed to clean up after the VM; retrying");
                self.cleanup = Some(PendingCleanup { end, retry_at: Instant::now() + CLEANUP_RETRY_DELAY });
            }
        }
    }
}

/// Waits for the next event of a running VM.
pub(super) async fn next_event(vm: &mut Option<RunningVm>) -> Event {
    let Some(vm) = vm else { return std::future::pending().await };
    let deadline = vm.deadline;
    let deadline_passed = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // In this order, because a report tells more than the exit of the process.
        biased;
        Some(Report { report: Some(report), .. }) = vm.reports.recv() => Event::Report(report),
        () = vm.process.wait() => Event::VmmExited,
        () = deadline_passed => Event::DeadlinePassed,
    }
}

/// Waits until a pending cleanup is due, and takes it.
pub(super) async fn cleanup_due(cleanup: &mut Option<PendingCleanup>) -> Option<BootEnd> {
    let Some(pending) = cleanup else { return std::future::pending().await };
    tokio::time::sleep_until(pending.retry_at).await;
    cleanup.take().and_then(|pending| pending.end)
}

fn cause_of(cause: guest_ended::Cause) -> Cause {
    match cause {
        guest_ended::Cause::Poweroff => Cause::Poweroff,
        guest_ended::Cause::Reboot => Cause::Reboot,
        guest_ended::Cause::Halt => Cause::Halt,
        guest_ended::Cause::KernelPanic => Cause::KernelPanic,
        guest_ended::Cause::Unobserved | guest_ended::Cause::Unspecified => Cause::EndedUnobserved,
    }
}
