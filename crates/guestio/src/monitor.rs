//! Connection to the VMM of one VM: determines why the guest ended, and presses the power button if the agent cannot be asked.

mod firecracker;
mod qmp;

use std::sync::Arc;
use std::time::Duration;

use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::guest_ended::Cause;
use rigbox_proto::guestio::{RunState, Vmm};

use crate::descriptors::DescriptorError;
use crate::vm::{AgentState, FRESH, Vm};
use qmp::{Event, Qmp, QmpError};

const RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// Time to wait for the agent's announcement, which may arrive after the VMM's event.
const ANNOUNCEMENT_TIMEOUT: Duration = Duration::from_millis(500);

/// Keeps a connection for as long as the VM is attached.
pub(crate) async fn run(vm: Arc<Vm>) {
    loop {
        let session = match vm.vmm {
            Vmm::Firecracker => firecracker::session(&vm).await.map_err(SessionError::from),
            Vmm::Qemu | Vmm::Unspecified => session(&vm).await,
        };
        if let Err(error) = session {
            tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "monitor session ended; reconnecting");
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error(transparent)]
    Firecracker(#[from] firecracker::SessionError),
}

async fn session(vm: &Vm) -> Result<(), SessionError> {
    let mut qmp = Qmp::open(vm.context.descriptors.connect(&vm.boot_id, Channel::Monitor).await?).await?;
    // The guest may have ended while there was no connection.
    if qmp.has_guest_ended().await? {
        return Ok(report_end(vm, &mut qmp, None).await?);
    }
    let (mut shut_down, mut order) = (vm.shut_down.subscribe(), vm.order.subscribe());
    shut_down.mark_changed();
    order.mark_changed();
    loop {
        tokio::select! {
            Ok(()) = order.changed() => {
                let wanted = *order.borrow_and_update();
                // One that never stood still runs.
                if wanted != FRESH {
                    set_run_state(vm, &mut qmp, wanted.run_state).await?;
                }
            }
            event = qmp.next_event() => return Ok(report_end(vm, &mut qmp, Some(event?)).await?),
            () = vm.power_button.notified() => qmp.press_power_button().await?,
            Ok(()) = shut_down.changed() => {
                let is_requested = shut_down.borrow_and_update().is_some();
                // Without an agent session the power button is the only way to ask the guest.
                if is_requested && !matches!(*vm.agent.borrow(), AgentState::Ready(..)) {
                    qmp.press_power_button().await?;
                }
            }
        }
    }
}

/// Brings QEMU to a state. That it cannot get there is reported.
async fn set_run_state(vm: &Vm, qmp: &mut Qmp, wanted: RunState) -> Result<(), SessionError> {
    if wanted == RunState::Running {
        return Ok(vm.set_running(qmp.run_on().await)?);
    }
    vm.is_running.send_replace(false);
    let reached = match qmp.pause().await {
        Ok(()) if wanted == RunState::Saved => save(vm, qmp).await,
        paused => paused.map_err(SessionError::from),
    };
    let error = match reached {
        Ok(()) => None,
        Err(SessionError::Qmp(QmpError::Refused(error))) => Some(error),
        // Where there is no pipe, nobody waits for its end.
        Err(SessionError::Descriptor(error)) => Some(error.to_string()),
        Err(error @ SessionError::Qmp(QmpError::Timeout)) => {
            vm.set_reached(wanted, Some(&error.to_string()));
            // An answer that comes later would be taken for that to another command.
            return Err(error);
        }
        // There may be another answer the next time.
        Err(error) => return Err(error),
    };
    vm.set_reached(wanted, error.as_deref());
    Ok(())
}

/// Has QEMU write its memory to a pipe of the node.
async fn save(vm: &Vm, qmp: &mut Qmp) -> Result<(), SessionError> {
    let pipe = vm.context.descriptors.get(&vm.boot_id, Channel::Memory).await?;
    Ok(qmp.save(pipe).await?)
}

async fn report_end(vm: &Vm, qmp: &mut Qmp, event: Option<Event>) -> Result<(), QmpError> {
    let announced = announced(vm).await;
    let console = qmp.console_tail().await?;
    let (cause, detail) = cause_of_end(event, announced, &console);
    vm.set_ended(cause, &detail);
    // The node kills the VMM now and detaches it, which aborts this task.
    std::future::pending().await
}

/// Waits for the agent's announcement of an end.
async fn announced(vm: &Vm) -> Option<Cause> {
    let mut announced = vm.announced.subscribe();
    let _ = tokio::time::timeout(ANNOUNCEMENT_TIMEOUT, announced.wait_for(Option::is_some)).await;
    *announced.borrow()
}

/// Determines the cause of an end from the most reliable source: the VMM's event, the agent's announcement, the tail of the console. After
/// a reset, only the latter two distinguish a reboot from a panic.
fn cause_of_end(event: Option<Event>, announced: Option<Cause>, console: &str) -> (Cause, String) {
    if event == Some(Event::GuestShutdown) {
        return (Cause::Poweroff, "the guest powered off".into());
    }
    let panic = console.rfind("Kernel panic");
    match announced {
        Some(Cause::Poweroff) if event.is_none() => (Cause::Poweroff, "the guest powered off".into()),
        Some(Cause::Reboot) => (Cause::Reboot, "the guest rebooted".into()),
        _ if panic.is_some() => {
            let line = panic.and_then(|at| console.get(at..)).and_then(|tail| tail.lines().next());
            (Cause::KernelPanic, line.unwrap_or("Kernel panic").to_owned())
        }
        _ if console.contains("reboot: Restarting system") => (Cause::Reboot, "the guest rebooted".into()),
        _ if console.contains("reboot: Power down") => (Cause::Poweroff, "the guest powered off".into()),
        _ => (Cause::Unobserved, "the guest reset the machine for an unknown reason".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_follows_the_most_reliable_source() {
        let panic = "[ 1.0] Kernel panic - not syncing: sysrq triggered crash\n[ 1.1] Rebooting";
        let reboot = "[ 9.0] reboot: Restarting system\n";
        let reset = Some(Event::GuestReset);
        let cases = [
            (Some(Event::GuestShutdown), None, "", Cause::Poweroff),
            (Some(Event::GuestShutdown), None, panic, Cause::Poweroff),
            (reset, Some(Cause::Reboot), panic, Cause::Reboot),
            (reset, None, panic, Cause::KernelPanic),
            (reset, None, reboot, Cause::Reboot),
            (reset, None, "", Cause::Unobserved),
            (None, Some(Cause::Poweroff), "", Cause::Poweroff),
            (None, None, "reboot: Power down", Cause::Poweroff),
            (None, None, panic, Cause::KernelPanic),
            (None, None, "", Cause::Unobserved),
        ];
        for (event, announced, console, expected) in cases {
            assert_eq!(
                cause_of_end(event, announced, console).0,
                expected,
                "{event:?} {announced:?} {console}"
            );
        }
        assert!(cause_of_end(reset, None, panic).1.ends_with("sysrq triggered crash"));
    }
}
