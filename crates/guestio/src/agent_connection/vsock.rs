//! Connection to a port of a VM's vsock, through the socket on which Firecracker serves all of them: `CONNECT <port>`, answered by `OK <port>`.

use std::io;
use std::time::Duration;

use rigbox_proto::guest_stream::VSOCK_PORTS;
use rigbox_proto::guestio::fd_request::Channel;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Time for the guest to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Length of the answer with its line end: the port is a number of 32 bits.
const MAX_ANSWER_BYTES: usize = 16;

/// Reason why a port could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the VMM does not connect to the agent: {0}")]
    Io(#[from] io::Error),
    #[error("the VMM did not connect to the agent within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    #[error("the VMM gave no valid answer to CONNECT")]
    Answer,
}

/// Connects to the port of `channel`.
pub(super) async fn connect<S>(stream: &mut S, channel: Channel) -> Result<(), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let [agent, streams] = VSOCK_PORTS;
    let port = if channel == Channel::Streams { streams } else { agent };
    tokio::time::timeout(CONNECT_TIMEOUT, exchange(stream, port)).await.map_err(|_| ConnectError::Timeout)?
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, port: u32) -> Result<(), ConnectError> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    // One byte at a time: what follows the line is the guest's.
    while answer.last() != Some(&b'\n') {
        if answer.len() == MAX_ANSWER_BYTES {
            return Err(ConnectError::Answer);
        }
        answer.push(stream.read_u8().await?);
    }
    let text = std::str::from_utf8(&answer).map_err(|_| ConnectError::Answer)?;
    let port = text.strip_prefix("OK ").and_then(|port| port.trim_end().parse::<u32>().ok());
    port.map(drop).ok_or(ConnectError::Answer)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// Connects to a VMM that answers with these bytes. Returns what is left of them.
    async fn connected(answer: &[u8]) -> Result<Vec<u8>, ConnectError> {
        let (mut ours, mut theirs) = duplex(1024);
        theirs.write_all(answer).await?;
        theirs.shutdown().await?;
        connect(&mut ours, Channel::Streams).await?;
        let mut request = [0; 12];
        theirs.read_exact(&mut request).await?;
        assert_eq!(&request, b"CONNECT 102\n");
        let mut left = Vec::new();
        ours.read_to_end(&mut left).await?;
        Ok(left)
    }

    #[tokio::test]
    async fn nothing_behind_the_answer_is_lost_and_a_wrong_one_is_an_error() {
        assert_eq!(connected(b"OK 1073741824\nhello").await.unwrap(), b"hello");
        for answer in [&b"OK 99999999999\n"[..], b"OK\n", b"ERR 1\n", b"\xff\n", &[b'x'; 100]] {
            assert!(matches!(connected(answer).await, Err(ConnectError::Answer)), "{answer:?}");
        }
        assert!(matches!(connected(b"OK 1").await, Err(ConnectError::Io(_))), "it broke off");
    }

    #[tokio::test(start_paused = true)]
    async fn vmm_that_does_not_answer_is_given_up() {
        let (mut ours, _theirs) = duplex(1024);
        assert!(matches!(connect(&mut ours, Channel::Agent).await, Err(ConnectError::Timeout)));
    }
}
