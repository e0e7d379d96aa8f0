//! Output of a command, from its pipe or terminal to the caller.

use std::os::fd::AsFd;
use std::time::Duration;

use rigbox_proto::guest::ExecOutput;
use rigbox_proto::guest::exec_output::Output;
use rigbox_proto::guest_stream::MAX_CHUNK_BYTES;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Maximum capacity of a pipe: the default of `/proc/sys/fs/pipe-max-size`.
const MAX_PIPE_BYTES: usize = 1 << 20;
/// Capacity of an output pipe. What a command writes within [`GATHER_TIME`] fits, so gathering does not slow it down.
const PIPE_BYTES: usize = 256 << 10;
/// Time for which further output is gathered in the pipe, if it comes in bursts. Otherwise each small write of a command would become a
/// message, and wait for the agent, which has priority.
const GATHER_TIME: Duration = Duration::from_millis(1);
/// Longest time between two messages of a burst. The first message is never delayed.
const BURST_INTERVAL: Duration = Duration::from_millis(5);

/// Output that can be read.
pub(super) struct Reader {
    bytes: Box<dyn AsyncRead + Send + Unpin>,
    /// True if small writes are gathered. A terminal's driver already does.
    gathers: bool,
}

impl Reader {
    /// Reads a pipe.
    pub(super) fn pipe(pipe: impl AsyncRead + AsFd + Send + Unpin + 'static) -> Self {
        // With the usual capacity it works too.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES);
        Self { bytes: Box::new(pipe), gathers: true }
    }

    /// Reads a terminal.
    pub(super) fn terminal(terminal: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self { bytes: Box::new(terminal), gathers: false }
    }
}

/// Forwards the output of `reader`. Once the command has exited, only the output that is already in the pipe, because background processes
/// may write forever.
pub(super) async fn forward(
    reader: Option<Reader>,
    sender: &mpsc::Sender<Result<ExecOutput, Status>>,
    wrap: fn(bytes: tonic::codegen::Bytes) -> Output,
    exited: &CancellationToken,
) {
    let Some(Reader { mut bytes, gathers }) = reader else { return };
    let mut remaining = MAX_PIPE_BYTES;
    let mut last_message: Option<Instant> = None;
    while remaining > 0 {
        let mut chunk = Vec::with_capacity(MAX_CHUNK_BYTES);
        let count = tokio::select! {
            biased;
            count = bytes.read_buf(&mut chunk) => count,
            () = exited.cancelled() => return,
        };
        // A terminal returns EIO once its last process has exited.
        let Ok(count @ 1..) = count else { return };
        if exited.is_cancelled() {
            remaining = remaining.saturating_sub(count);
        }
        if sender.send(Ok(ExecOutput { output: Some(wrap(chunk.into())) })).await.is_err() {
            return;
        }
        let burst = last_message.is_some_and(|last| last.elapsed() < BURST_INTERVAL);
        if gathers && burst && count < MAX_CHUNK_BYTES {
            tokio::select! {
                () = sleep(GATHER_TIME) => {}
                () = exited.cancelled() => {}
            }
        }
        last_message = Some(Instant::now());
    }
}
