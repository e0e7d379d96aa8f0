//! Session with Firecracker. It sends no events: it ends when its guest resets the machine, and stays when the guest has powered off. What the
//! guest wrote to its console last tells which it was, so that is read all the time. It may have been taken over by its guest, so what it says is
//! bounded.

mod api;
mod lines;
mod metrics;
mod paced;
mod state;

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{FusedFuture, FutureExt};
use hyper::Method;
use rigbox_proto::guest::WatchSystemRequest;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::guest_ended::Cause;
use rigbox_sys::async_file::AsyncFile;
use serde_json::json;

use self::api::ApiError;
use self::paced::Paced;
use super::{announced, cause_of_end};
use crate::descriptors::DescriptorError;
use crate::sanitize::sanitize;
use crate::vm::{AgentState, FRESH, Vm};

/// Size of the console's tail that is kept.
const CONSOLE_TAIL_BYTES: usize = 16 * 1024;
/// Size of a line of the log.
const MAX_LOG_LINE_BYTES: usize = 1024;
/// Time for the rest of the log and the metrics once the VMM has ended.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);
/// Time in which a guest that has powered off, as its console says, still answers if it has not.
const POWEROFF_TIMEOUT: Duration = Duration::from_secs(3);
/// Last words of a kernel that stops its CPU and leaves the machine on.
const POWER_DOWN: &str = "reboot: Power down";
const HALTED: &str = "reboot: System halted";

/// Reason why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    #[error("the console: {0}")]
    Console(std::io::Error),
    #[error("the log and the metrics: {0}")]
    Log(std::io::Error),
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Follows the guest until its VMM has ended.
pub(super) async fn session(vm: &Vm) -> Result<(), SessionError> {
    let console = vm.context.descriptors.get(&vm.boot_id, Channel::Console).await?;
    let mut console = Paced::new(AsyncFile::new(console.into()).map_err(SessionError::Console)?);
    let mut log = pin!(read_log(vm).fuse());
    let mut tail = Tail::default();
    let (mut shut_down, mut order) = (vm.shut_down.subscribe(), vm.order.subscribe());
    shut_down.mark_changed();
    order.mark_changed();
    loop {
        tokio::select! {
            Ok(()) = order.changed() => {
                let wanted = *order.borrow_and_update();
                // One that never stood still runs.
                if wanted != FRESH {
                    state::set(vm, wanted.run_state).await?;
                }
            }
            read = console.read() => match read.map_err(SessionError::Console)? {
                [] => {
                    if !log.is_terminated() {
                        let _ = tokio::time::timeout(LOG_TIMEOUT, log).await;
                    }
                    return report_end(vm, &tail).await;
                }
                bytes => {
                    tail.push(bytes);
                    if let Some((cause, detail)) = tail.stopped()
                        && !is_running(vm).await
                    {
                        vm.set_ended(cause, detail);
                    }
                }
            },
            read = &mut log, if !log.is_terminated() => read?,
            () = vm.power_button.notified() => press_keys(vm).await,
            Ok(()) = shut_down.changed() => {
                let is_requested = shut_down.borrow_and_update().is_some();
                // Without an agent session the keys are the only way to ask the guest.
                if is_requested && !matches!(*vm.agent.borrow(), AgentState::Ready(..)) {
                    press_keys(vm).await;
                }
            }
        }
    }
}

/// Writes the VMM's log, and the failures that it counts, to ours, of which a VM has a share.
async fn read_log(vm: &Vm) -> Result<(), SessionError> {
    let pipe = async |channel| {
        let pipe = vm.context.descriptors.get(&vm.boot_id, channel).await?;
        AsyncFile::new(pipe.into()).map_err(SessionError::Log)
    };
    let tell = |what: &str, line: &str| {
        if vm.log_rate.check().is_ok() {
            tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, line = sanitize(line), "{what}");
        }
    };
    let tell_failures = |line: &str| {
        if let Some(failures) = metrics::failures(line) {
            tell("failures that the VMM counts", &failures);
        }
    };
    let log = pipe(Channel::Log).await?;
    let log = lines::read_lines(log, MAX_LOG_LINE_BYTES, |line| tell("log of the VMM", line));
    let metrics = async {
        match pipe(Channel::Metrics).await {
            Ok(metrics) => lines::read_lines(metrics, metrics::MAX_LINE_BYTES, tell_failures).await,
            // A VMM that an earlier version has started has none.
            Err(_) => Ok(()),
        }
    };
    tokio::try_join!(log, metrics).map_err(SessionError::Log)?;
    Ok(())
}

/// Reports what the guest did before its VMM ended. Where nothing tells that, the VMM has died by itself, which the node says.
async fn report_end(vm: &Vm, tail: &Tail) -> Result<(), SessionError> {
    let console = tail.text();
    let (cause, detail) = match cause_of_end(None, None, &console) {
        (Cause::Unobserved, _) => cause_of_end(None, announced(vm).await, &console),
        known => known,
    };
    if cause != Cause::Unobserved {
        vm.set_ended(cause, &detail);
    }
    // The node detaches it, which aborts this task.
    std::future::pending().await
}

/// Returns whether the agent answers: anybody in a guest can write to its console.
async fn is_running(vm: &Vm) -> bool {
    let AgentState::Ready(mut agent, _) = vm.agent.borrow().clone() else { return false };
    let answer = tokio::time::timeout(POWEROFF_TIMEOUT, agent.watch_system(WatchSystemRequest {})).await;
    matches!(answer, Ok(Ok(_)))
}

/// Last bytes of the console.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(CONSOLE_TAIL_BYTES);
        self.0.drain(..excess);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// Returns how the guest has stopped without an end of its VMM, if its last words say so.
    fn stopped(&self) -> Option<(Cause, &'static str)> {
        let text = self.text();
        let last = text.trim_end().lines().next_back()?;
        match last {
            line if line.ends_with(POWER_DOWN) => Some((Cause::Poweroff, "the guest powered off")),
            line if line.ends_with(HALTED) => Some((Cause::Halt, "the guest halted")),
            _ => None,
        }
    }
}

/// Presses Ctrl-Alt-Del, by which systemd reboots in an orderly way, and so ends the VMM.
async fn press_keys(vm: &Vm) {
    let keys = json!({"action_type": "SendCtrlAltDel"});
    if let Err(error) = api::request(vm, Method::PUT, "/actions", Some(keys)).await {
        tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "failed to press Ctrl-Alt-Del");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_bounded_and_tells_of_a_machine_that_stays_on() {
        let mut tail = Tail::default();
        tail.push(b"[ 1.0] reboot: Power down\r\n");
        assert_eq!(tail.stopped().map(|(cause, _)| cause), Some(Cause::Poweroff));
        tail.push(b"login: ");
        assert_eq!(tail.stopped(), None, "it goes on");
        tail.push(b"\r\n[ 2.0] reboot: System halted");
        assert_eq!(tail.stopped().map(|(cause, _)| cause), Some(Cause::Halt));
        tail.push(&vec![b'x'; 2 * CONSOLE_TAIL_BYTES]);
        assert_eq!(tail.text().len(), CONSOLE_TAIL_BYTES);
    }
}
