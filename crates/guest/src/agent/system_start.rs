//! Start of systemd, with which `/init` waits for the agent: it would take half of the CPU from the hello and the first command. The agent's
//! standard input is the pipe that `/init` waits on.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Time after the delivery of secrets in which a first command has the CPU for itself. Whoever starts a workspace to run a command sends it
/// at once.
const FIRST_COMMAND_GRACE: Duration = Duration::from_millis(250);

/// Permission for systemd to start, given once.
#[derive(Clone, Default)]
pub(super) struct SystemStart {
    is_allowed: Arc<AtomicBool>,
}

impl SystemStart {
    /// Lets systemd start, unless it has.
    pub(super) fn allow(&self) {
        if self.is_allowed.swap(true, Ordering::Relaxed) {
            return;
        }
        // A failure only means that `/init` waits for its own limit.
        if let Ok(null) = File::open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(null);
        }
    }

    /// Lets systemd start after the grace period for a first command.
    pub(super) fn allow_soon(&self) {
        if self.is_allowed.load(Ordering::Relaxed) {
            return;
        }
        let start = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(FIRST_COMMAND_GRACE).await;
            start.allow();
        });
    }
}
