//! Start of systemd, with which `/init` waits for the agent: it would take half of the CPU from the hello and the first command. The agent's
//! standard input is the pipe that `/init` waits on.

use std::fs::File;
use std::time::Duration;

use tokio::sync::watch;

/// Time after the delivery of secrets in which a first command has the CPU for itself. Whoever starts a workspace to run a command sends it
/// at once.
const FIRST_COMMAND_GRACE: Duration = Duration::from_millis(250);

/// Permission for systemd to start, given once.
#[derive(Clone, Default)]
pub(super) struct SystemStart {
    is_allowed: watch::Sender<bool>,
}

impl SystemStart {
    /// Lets systemd start, unless it has.
    pub(super) fn allow(&self) {
        if self.is_allowed.send_replace(true) {
            return;
        }
        // A failure only means that `/init` waits for its own limit.
        if let Ok(null) = File::open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(null);
        }
    }

    /// Lets systemd start after the grace period for a first command.
    pub(super) fn allow_soon(&self) {
        if *self.is_allowed.borrow() {
            return;
        }
        let start = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(FIRST_COMMAND_GRACE).await;
            start.allow();
        });
    }

    /// Waits until systemd may start: what nobody waits for begins no earlier.
    pub(super) async fn allowed(&self) {
        // The sender lives as long as `self`.
        let _ = self.is_allowed.subscribe().wait_for(|is_allowed| *is_allowed).await;
    }
}
