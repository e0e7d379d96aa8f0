//! A client of QEMU's machine protocol (QMP: JSON lines; greeting, `qmp_capabilities`, then commands and events). Ours, because what
//! exists is stale. The VMM may have been taken over by its guest, so its lines are bounded.

use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Longest line, bytes: a piece of the console of [`CONSOLE_TAIL`] bytes, each escaped as `\u00xx`, and room for the rest.
const LINE: u64 = 128 * 1024;
/// How much of the console's end is read, bytes.
const CONSOLE_TAIL: u32 = 16 * 1024;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why QMP is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("the VMM closed its QMP socket")]
    Closed,
    #[error("the VMM did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Silence,
    #[error("the VMM sent a line longer than {LINE} bytes")]
    LongLine,
    #[error("the VMM sent something that is no QMP: {0}")]
    Garbage(#[from] serde_json::Error),
    #[error("the VMM refused: {0}")]
    Refused(String),
    #[error("QMP: {0}")]
    Io(#[from] io::Error),
}

/// What the VMM says of its own accord and we care for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The guest powered off.
    GuestShutdown,
    /// The guest reset the machine: a reboot or a panic.
    GuestReset,
}

#[derive(Deserialize)]
struct Line {
    event: Option<String>,
    data: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Value>,
}

impl Line {
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

/// A connection after its greeting.
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    partial: Vec<u8>,
    /// Events that came while an answer was waited for.
    missed: Option<Event>,
}

impl Qmp {
    /// Reads the greeting and leaves capabilities negotiation.
    pub(crate) async fn open(stream: UnixStream) -> Result<Self, QmpError> {
        let mut qmp = Self { stream: BufReader::new(stream), partial: Vec::new(), missed: None };
        tokio::time::timeout(ANSWER_WITHIN, qmp.line()).await.map_err(|_| QmpError::Silence)??;
        qmp.command("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// Waits for the next event; may be cancelled and called again.
    pub(crate) async fn event(&mut self) -> Result<Event, QmpError> {
        if let Some(event) = self.missed.take() {
            return Ok(event);
        }
        loop {
            if let Some(event) = self.line().await?.event() {
                return Ok(event);
            }
        }
    }

    /// Whether the guest is over (`-action shutdown=pause` keeps the VMM for this question).
    pub(crate) async fn is_over(&mut self) -> Result<bool, QmpError> {
        let status = self.command("query-status", Value::Null).await?;
        Ok(status.get("status").and_then(Value::as_str) == Some("shutdown"))
    }

    /// Presses the ACPI power button.
    pub(crate) async fn power_button(&mut self) -> Result<(), QmpError> {
        self.command("system_powerdown", Value::Null).await.map(drop)
    }

    /// The end of what the guest's kernel wrote to the serial console; each byte is read once.
    pub(crate) async fn console_tail(&mut self) -> Result<String, QmpError> {
        let mut tail = String::new();
        // The ring holds 64 KiB; what is read is gone, so the last piece is the end.
        for _ in 0..8 {
            let piece =
                self.command("ringbuf-read", json!({"device": "console", "size": CONSOLE_TAIL})).await?;
            match piece.as_str() {
                Some(piece) if !piece.is_empty() => {
                    if tail.len() > CONSOLE_TAIL as usize {
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
        let answer = async {
            self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).await?;
            loop {
                let line = self.line().await?;
                if let Some(event) = line.event() {
                    self.missed = Some(event);
                }
                if let Some(error) = line.error {
                    return Err(QmpError::Refused(crate::text::clean(&error.to_string())));
                }
                if let Some(answer) = line.answer {
                    return Ok(answer);
                }
            }
        };
        tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(|_| QmpError::Silence)?
    }

    async fn line(&mut self) -> Result<Line, QmpError> {
        let left = LINE.saturating_sub(self.partial.len() as u64);
        // Bytes of an incomplete line stay in `partial` when this is cancelled.
        let count = (&mut self.stream).take(left).read_until(b'\n', &mut self.partial).await?;
        if self.partial.last() != Some(&b'\n') {
            return Err(if count == 0 && left > 0 { QmpError::Closed } else { QmpError::LongLine });
        }
        let line = serde_json::from_slice(&self.partial);
        self.partial.clear();
        Ok(line?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_between_command_and_answer_is_kept() {
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
        assert!(qmp.is_over().await.unwrap());
        assert_eq!(qmp.event().await.unwrap(), Event::GuestReset);
        drop(vmm.await.unwrap());
        assert!(matches!(qmp.event().await, Err(QmpError::Closed)));
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move { while theirs.write_all(&[b'x'; 4096]).await.is_ok() {} });
        assert!(matches!(Qmp::open(ours).await, Err(QmpError::LongLine)));
    }
}
