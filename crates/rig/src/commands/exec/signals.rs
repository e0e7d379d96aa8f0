//! Signals to `rig exec`, which are the command's.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::end::End;
use crate::api::Api;

/// Signals that `rig` receives. `QUIT` is not among them: it ends `rig` when the server hangs.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes the signals over. From here on they do not end `rig`.
    pub(super) fn take() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Sends the first signal to the command, beside its input, which it may not be reading. The second one ends `rig`, and the server then
    /// ends the command.
    pub(super) async fn forward(mut self, api: &Api, workspace_id: &str, process: Option<&str>) -> End {
        let (name, number) = self.next().await;
        let Some(process) = process else { return End::Code(128 + number) };
        let send = api.signal(workspace_id, process, name);
        tokio::select! {
            // Whether the signal arrives shows in what the command does.
            _ = send => {}
            (_, number) = self.next() => return End::Code(128 + number),
        }
        End::Code(128 + self.next().await.1)
    }

    async fn next(&mut self) -> (&'static str, u8) {
        tokio::select! {
            _ = self.interrupt.recv() => ("INT", 2),
            _ = self.terminate.recv() => ("TERM", 15),
            _ = self.hang_up.recv() => ("HUP", 1),
        }
    }
}
