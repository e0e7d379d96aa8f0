//! The QMP connection of one VM: says why a guest ended, and presses the power button when the agent cannot be asked.

use std::sync::Arc;
use std::time::Duration;

use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::guest_ended::Cause;

use crate::qmp::{Event, Qmp, QmpError};
use crate::vm::{AgentState, Vm};

const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// An announcement may be on its way by the other stream when the event is here already.
const ANNOUNCEMENT_WITHIN: Duration = Duration::from_millis(500);

/// Keeps a connection; dropped with the VM's entry.
pub(crate) async fn attend(vm: Arc<Vm>) {
    loop {
        if let Err(error) = session(&vm).await {
            tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "QMP session over");
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Fd(#[from] crate::fds::FdError),
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

async fn session(vm: &Vm) -> Result<(), SessionError> {
    let mut qmp = Qmp::open(vm.fds.connect(&vm.boot_id, Channel::Monitor).await?).await?;
    // The event may have come while nobody listened.
    if qmp.is_over().await? {
        return Ok(report_end(vm, &mut qmp, None).await?);
    }
    let mut shut_down = vm.shut_down.subscribe();
    shut_down.mark_changed();
    loop {
        tokio::select! {
            event = qmp.event() => return Ok(report_end(vm, &mut qmp, Some(event?)).await?),
            () = vm.power_button.notified() => qmp.power_button().await?,
            Ok(()) = shut_down.changed() => {
                let wanted = shut_down.borrow_and_update().is_some();
                // Without a session nobody else would ask the guest.
                if wanted && !matches!(*vm.agent.borrow(), AgentState::Ready(_)) {
                    qmp.power_button().await?;
                }
            }
        }
    }
}

async fn report_end(vm: &Vm, qmp: &mut Qmp, event: Option<Event>) -> Result<(), QmpError> {
    let mut announced = vm.announced.subscribe();
    let _ = tokio::time::timeout(ANNOUNCEMENT_WITHIN, announced.wait_for(Option::is_some)).await;
    let announced = *announced.borrow();
    let console = qmp.console_tail().await?;
    let (cause, detail) = cause(event, announced, &console);
    vm.set_ended(cause, &detail);
    // The node ends the VMM now, and this task with it.
    std::future::pending().await
}

/// The cause of an end, most reliable first: the VMM's event, the agent's announcement, the end of the console. Of a reset only the
/// latter two tell a reboot from a panic.
fn cause(event: Option<Event>, announced: Option<Cause>, console: &str) -> (Cause, String) {
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
        _ => (Cause::Unobserved, "the guest reset the machine and nothing said why".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_an_end() {
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
            assert_eq!(cause(event, announced, console).0, expected, "{event:?} {announced:?} {console}");
        }
        assert!(cause(reset, None, panic).1.ends_with("sysrq triggered crash"));
    }
}
