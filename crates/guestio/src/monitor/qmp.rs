//! Client of QEMU's machine protocol (QMP: JSON lines; a greeting, `qmp_capabilities`, then commands and events). The existing client
//! crates are unmaintained. The VMM may have been taken over by its guest, so its lines are bounded.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rigbox_sys::fdpass;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

use crate::sanitize::sanitize;

/// Size of a line: a piece of the console of [`CONSOLE_TAIL_BYTES`], each byte escaped as `\u00xx`, and space for the rest.
const MAX_LINE_BYTES: u64 = 128 * 1024;
/// Size of the console's tail that is read.
const CONSOLE_TAIL_BYTES: u32 = 16 * 1024;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a memory to be read or written. The node has less patience.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(600);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Name of the descriptor that memory is written to.
const MEMORY_FD: &str = "memory";

/// Reason why the connection is unusable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("the VMM closed its QMP socket")]
    Closed,
    #[error("the VMM did not answer within {} s", RESPONSE_TIMEOUT.as_secs())]
    Timeout,
    #[error("the VMM sent a line longer than {MAX_LINE_BYTES} bytes")]
    LongLine,
    #[error("the VMM sent an invalid message: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the VMM refused: {0}")]
    Refused(String),
    #[error("QMP: {0}")]
    Io(#[from] io::Error),
}

/// Relevant events of the VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The guest powered off.
    GuestShutdown,
    /// The guest reset the machine: a reboot or a panic.
    GuestReset,
}

/// Message of the VMM: an event, or a response to a command.
#[derive(Deserialize)]
struct QmpMessage {
    event: Option<String>,
    data: Option<Value>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Value>,
}

impl QmpMessage {
    fn event(&self) -> Option<Event> {
        if self.event.as_deref() != Some("SHUTDOWN") {
            return None;
        }
        match self.data.as_ref()?.get("reason")?.as_str()? {
            "guest-shutdown" => Some(Event::GuestShutdown),
            "guest-reset" => Some(Event::GuestReset),
            _ => None,
        }
    }
}

/// Open connection, after the greeting.
pub(crate) struct Qmp<S = UnixStream> {
    stream: BufReader<S>,
    partial_line: Vec<u8>,
    /// Event that arrived while a response was awaited.
    pending_event: Option<Event>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Qmp<S> {
    /// Reads the greeting and completes the capabilities negotiation.
    pub(crate) async fn open(stream: S) -> Result<Self, QmpError> {
        let mut qmp = Self { stream: BufReader::new(stream), partial_line: Vec::new(), pending_event: None };
        tokio::time::timeout(RESPONSE_TIMEOUT, qmp.read_message()).await.map_err(|_| QmpError::Timeout)??;
        qmp.command("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// Waits for the next event. Cancellation-safe.
    pub(crate) async fn next_event(&mut self) -> Result<Event, QmpError> {
        if let Some(event) = self.pending_event.take() {
            return Ok(event);
        }
        loop {
            if let Some(event) = self.read_message().await?.event() {
                return Ok(event);
            }
        }
    }

    /// Returns whether the guest has ended. `-action shutdown=pause` keeps the VMM for this query.
    pub(crate) async fn has_guest_ended(&mut self) -> Result<bool, QmpError> {
        Ok(self.status().await? == "shutdown")
    }

    /// Lets the guest run, once what it is loaded from has been read.
    pub(crate) async fn run_on(&mut self) -> Result<(), QmpError> {
        self.loaded().await?;
        self.command("cont", Value::Null).await.map(drop)
    }

    /// Has the guest stand still.
    pub(crate) async fn pause(&mut self) -> Result<(), QmpError> {
        self.loaded().await?;
        self.command("stop", Value::Null).await.map(drop)
    }

    /// Waits until the guest is loaded, if it is being loaded.
    async fn loaded(&mut self) -> Result<(), QmpError> {
        let loaded = async {
            while self.status().await? == "inmigrate" {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            Ok(())
        };
        tokio::time::timeout(MEMORY_TIMEOUT, loaded).await.map_err(|_| QmpError::Timeout)?
    }

    async fn status(&mut self) -> Result<String, QmpError> {
        let status = self.command("query-status", Value::Null).await?;
        Ok(status.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Presses the ACPI power button.
    pub(crate) async fn press_power_button(&mut self) -> Result<(), QmpError> {
        self.command("system_powerdown", Value::Null).await.map(drop)
    }

    /// Reads the tail of the guest's serial console. Each byte is read only once.
    pub(crate) async fn console_tail(&mut self) -> Result<String, QmpError> {
        let mut tail = String::new();
        // The ring buffer holds 64 KiB and reading consumes it, so the last piece is the tail.
        for _ in 0..8 {
            let piece = self
                .command("ringbuf-read", json!({"device": "console", "size": CONSOLE_TAIL_BYTES}))
                .await?;
            match piece.as_str() {
                Some(piece) if !piece.is_empty() => {
                    if tail.len() > CONSOLE_TAIL_BYTES as usize {
                        tail.clear();
                    }
                    tail.push_str(piece);
                }
                _ => break,
            }
        }
        Ok(tail)
    }

    async fn command(&mut self, name: &str, arguments: Value) -> Result<Value, QmpError> {
        let mut request = json!({"execute": name});
        if !arguments.is_null()
            && let Some(request) = request.as_object_mut()
        {
            request.insert("arguments".to_owned(), arguments);
        }
        let line = format!("{request}\n");
        let written = self.stream.get_mut().write_all(line.as_bytes());
        tokio::time::timeout(RESPONSE_TIMEOUT, written).await.map_err(|_| QmpError::Timeout)??;
        self.response().await
    }

    /// Waits for the response to a command.
    async fn response(&mut self) -> Result<Value, QmpError> {
        let response = async {
            loop {
                let message = self.read_message().await?;
                if let Some(event) = message.event() {
                    self.pending_event = Some(event);
                }
                if let Some(error) = message.error {
                    return Err(QmpError::Refused(sanitize(&error.to_string())));
                }
                if let Some(result) = message.result {
                    return Ok(result);
                }
            }
        };
        tokio::time::timeout(RESPONSE_TIMEOUT, response).await.map_err(|_| QmpError::Timeout)?
    }

    async fn read_message(&mut self) -> Result<QmpMessage, QmpError> {
        let left = MAX_LINE_BYTES.saturating_sub(self.partial_line.len() as u64);
        // Bytes of an incomplete line stay in `partial` when this is cancelled.
        (&mut self.stream).take(left).read_until(b'\n', &mut self.partial_line).await?;
        if self.partial_line.last() != Some(&b'\n') {
            let is_full = self.partial_line.len() as u64 >= MAX_LINE_BYTES;
            return Err(if is_full { QmpError::LongLine } else { QmpError::Closed });
        }
        let line = serde_json::from_slice(&self.partial_line);
        self.partial_line.clear();
        Ok(line?)
    }
}

impl Qmp<UnixStream> {
    /// Writes the memory of a guest that stands still to a pipe.
    pub(crate) async fn save(&mut self, pipe: OwnedFd) -> Result<(), QmpError> {
        let request = json!({"execute": "getfd", "arguments": {"fdname": MEMORY_FD}});
        let socket = self.stream.get_ref();
        let text = format!("{request}\n");
        socket
            .async_io(Interest::WRITABLE, || fdpass::send(socket, text.as_bytes(), &[pipe.as_fd()]))
            .await?;
        self.response().await?;
        drop(pipe);
        self.command("migrate", json!({"uri": format!("fd:{MEMORY_FD}")})).await?;
        let saved = async {
            loop {
                let found = self.command("query-migrate", Value::Null).await?;
                match found.get("status").and_then(Value::as_str).unwrap_or_default() {
                    "completed" => return Ok(()),
                    status @ ("failed" | "cancelled" | "none") => {
                        let reason = found.get("error-desc").and_then(Value::as_str).unwrap_or(status);
                        return Err(QmpError::Refused(sanitize(reason)));
                    }
                    _ => tokio::time::sleep(POLL_INTERVAL).await,
                }
            }
        };
        tokio::time::timeout(MEMORY_TIMEOUT, saved).await.map_err(|_| QmpError::Timeout)?
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn event_between_command_and_response_is_kept() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let vmm = tokio::spawn(async move {
            let mut vmm = BufReader::new(theirs);
            vmm.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            let mut line = String::new();
            vmm.read_line(&mut line).await.unwrap();
            assert!(line.contains("qmp_capabilities"));
            vmm.write_all(b"{\"return\": {}}\n").await.unwrap();
            vmm.read_line(&mut line).await.unwrap();
            vmm.write_all(b"{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-reset\"}}\n")
                .await
                .unwrap();
            vmm.write_all(b"{\"return\": {\"status\": \"shutdown\"}}\n").await.unwrap();
            vmm
        });
        let mut qmp = Qmp::open(ours).await.unwrap();
        assert!(qmp.has_guest_ended().await.unwrap());
        assert_eq!(qmp.next_event().await.unwrap(), Event::GuestReset);
        drop(vmm.await.unwrap());
        assert!(matches!(qmp.next_event().await, Err(QmpError::Closed)));
    }

    #[tokio::test]
    async fn endless_line_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move { while theirs.write_all(&[b'x'; 4096]).await.is_ok() {} });
        assert!(matches!(Qmp::open(ours).await, Err(QmpError::LongLine)));
    }
}
