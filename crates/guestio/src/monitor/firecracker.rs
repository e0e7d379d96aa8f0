//! Session with Firecracker. It sends no events: it ends when its guest resets the machine, and stays when the guest has powered off. What the
//! guest wrote to its console last tells which it was, so that is read all the time. Its API is asked for one thing only, to press
//! Ctrl-Alt-Del. It may have been taken over by its guest, so what it says is bounded.

mod log;
mod paced;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{FusedFuture, FutureExt};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rigbox_proto::guest::WatchSystemRequest;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::guest_ended::Cause;
use rigbox_sys::async_file::AsyncFile;
use tokio::io::{AsyncRead, AsyncWrite};

use self::paced::Paced;
use super::{announced, cause_of_end};
use crate::descriptors::DescriptorError;
use crate::sanitize::sanitize;
use crate::vm::{AgentState, Vm};

/// Size of the console's tail that is kept.
const CONSOLE_TAIL_BYTES: usize = 16 * 1024;
/// Size of an answer of the API.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the rest of the log once the VMM has ended.
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
    #[error("the log: {0}")]
    Log(std::io::Error),
}

/// Reason why a request failed.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    #[error("the VMM did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error("the VMM's API: {0}")]
    Http(#[from] hyper::Error),
    #[error("the VMM answered with more than {MAX_ANSWER_BYTES} bytes, or broke off")]
    Body,
    #[error("the VMM refused: {0}")]
    Refused(String),
}

/// Follows the guest until its VMM has ended.
pub(super) async fn session(vm: &Vm) -> Result<(), SessionError> {
    let console = vm.context.descriptors.get(&vm.boot_id, Channel::Console).await?;
    let mut console = Paced::new(AsyncFile::new(console.into()).map_err(SessionError::Console)?);
    let log = vm.context.descriptors.get(&vm.boot_id, Channel::Log).await?;
    let log = AsyncFile::new(log.into()).map_err(SessionError::Log)?;
    let mut log = pin!(log::read_lines(log, |line| tell(vm, line)).fuse());
    let mut tail = Tail::default();
    let mut shut_down = vm.shut_down.subscribe();
    shut_down.mark_changed();
    loop {
        tokio::select! {
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
            read = &mut log, if !log.is_terminated() => read.map_err(SessionError::Log)?,
            () = vm.power_button.notified() => press_keys(vm).await,
            Ok(()) = shut_down.changed() => {
                let is_requested = shut_down.borrow_and_update().is_some();
                // Without an agent session the keys are the only way to ask the guest.
                if is_requested && !matches!(*vm.agent.borrow(), AgentState::Ready(_)) {
                    press_keys(vm).await;
                }
            }
        }
    }
}

/// Writes a line of the VMM's log to ours, of which a VM has a share.
fn tell(vm: &Vm, line: &str) {
    if vm.log_rate.check().is_ok() {
        tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, line = sanitize(line), "log of the VMM");
    }
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
    let AgentState::Ready(mut agent) = vm.agent.borrow().clone() else { return false };
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
    let request = async {
        let stream = vm.context.descriptors.connect(&vm.boot_id, Channel::Monitor).await?;
        send(stream, Method::PUT, "/actions", r#"{"action_type":"SendCtrlAltDel"}"#).await
    };
    if let Err(error) = request.await {
        tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "failed to press Ctrl-Alt-Del");
    }
}

/// Sends one request to the API of the VMM, and returns the body of its answer.
async fn send<S>(stream: S, method: Method, path: &str, body: &'static str) -> Result<Bytes, ApiError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(MAX_ANSWER_BYTES).handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .map_err(|error| ApiError::Refused(error.to_string()))?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|_| ApiError::Body)?.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            Err(ApiError::Refused(format!("{status} {}", sanitize(&String::from_utf8_lossy(&body)))))
        };
        tokio::pin!(answer);
        // Polled here, so that it ends with the exchange.
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error.into()),
            },
        }
    };
    tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| ApiError::Timeout)?
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Answers a request with these bytes, and then with nothing, or with an end.
    async fn answered(bytes: &[u8], ends: bool) -> Result<Bytes, String> {
        let (ours, mut theirs) = duplex(1 << 20);
        let bytes = bytes.to_vec();
        let vmm = tokio::spawn(async move {
            let _ = theirs.read(&mut [0; 1024]).await;
            let _ = theirs.write_all(&bytes).await;
            if !ends {
                std::future::pending::<Infallible>().await;
            }
        });
        let answer = send(ours, Method::PUT, "/actions", "{}").await.map_err(|error| error.to_string());
        vmm.abort();
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn api_that_answers_wrongly_is_a_clear_error() {
        assert_eq!(answered(b"HTTP/1.1 204 \r\n\r\n", false).await.unwrap(), Bytes::new());
        const LONG: &[u8] = &[b'x'; 64 * 1024];
        let too_long = [&b"HTTP/1.1 200 \r\ncontent-length: 65536\r\n\r\n"[..], LONG].concat();
        for (bytes, ends, expected) in [
            (&b"HTTP/1.1 400 \r\ncontent-length: 5\r\n\r\nwrong"[..], false, "400 Bad Request wrong"),
            (&too_long, false, "more than"),
            (b"HTTP/1.1 200 \r\ncontent-length: 9\r\n\r\nshort", true, "broke off"),
            (b"HTTP/1.1 200 \r\ncontent-length: 9\r\n\r\nshort", false, "within 10 s"),
            (b"", false, "within 10 s"),
            (b"", true, "API"),
            (b"garbage\r\n\r\n", false, "API"),
            (LONG, false, "API"),
        ] {
            let error = answered(bytes, ends).await.unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

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
