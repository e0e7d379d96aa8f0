//! Handshake that opens a session on a byte stream between guestio and the agent in a VM. Both ends are here.
//!
//! A virtio-serial port has no connections: if the host reconnects quickly, the guest sees no end of file, and up to 150 kB of the old
//! session are still in flight. So the host first sends the [`FLUSH`] bytes, which no HTTP/2 frame survives. Then it sends [`HELLO`] with
//! a nonce every [`HELLO_INTERVAL`] until it is echoed, then [`GO`] with the nonce, and waits for the echo of that, discarding all other
//! bytes. While no session is open, the guest scans for these two messages and echoes them. After the echo of `GO` both ends speak
//! HTTP/2, with the guest as server. Within a session [`HELLO`] is an invalid frame (its length field is 0xffffff) and ends the session
//! at once.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// First message of a handshake, followed by the nonce.
pub const HELLO: [u8; 16] = *b"\xff\xff\xff\xffrigbox-hello";
/// Last message of a handshake, followed by the nonce.
pub const GO: [u8; 16] = *b"\xff\xff\xff\xffrigbox-go!!!";
/// Filler that is longer than any incomplete frame (`SETTINGS_MAX_FRAME_SIZE` is 16,384 by default). The bytes after such a frame are then
/// read as a frame header, which they are not (RFC 9113, 4.1 and 4.2).
pub static FLUSH: [u8; 16_384 + 9] = [0xff; 16_384 + 9];
/// Interval at which the host repeats its hello.
pub const HELLO_INTERVAL: Duration = Duration::from_millis(100);
/// Time after which the host gives up without an echo.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes other than the echo after which the host gives up.
pub const MAX_HANDSHAKE_BYTES: usize = 64 << 20;
/// Maximum payload of one message on the stream.
pub const MAX_CHUNK_BYTES: usize = 32 * 1024;
/// Concurrent calls to one agent. Control's share of a workspace is smaller, so that the calls on which the workspace's life depends
/// always find a stream.
pub const MAX_CONCURRENT_STREAMS: u32 = 256;
/// HTTP/2 flow-control window of a stream. Larger windows were slower on an emulated CPU.
pub const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// HTTP/2 flow-control window of a connection: that of all its streams, so that stalled readers, however many, stall no other call.
pub const CONNECTION_WINDOW_BYTES: u32 = MAX_CONCURRENT_STREAMS * STREAM_WINDOW_BYTES;
/// Maximum size of a message.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// Ports of vsock(7) on which an agent listens where its VM has no virtio-serial: that of its session, and that for commands and files. Only
/// root can listen below 1024.
pub const VSOCK_PORTS: [u32; 2] = [101, 102];

/// Length of a nonce in bytes.
pub const NONCE_LEN: usize = 16;
const MAGIC_LEN: usize = 16;
/// Length of a handshake message: magic and nonce.
const MESSAGE_LEN: usize = MAGIC_LEN + NONCE_LEN;

/// Reason why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// No echo within [`HANDSHAKE_TIMEOUT`].
    #[error("the agent did not respond to the handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    /// More than [`MAX_HANDSHAKE_BYTES`] without an echo.
    #[error("the guest sent more than {} MiB without a response to the handshake", MAX_HANDSHAKE_BYTES >> 20)]
    TooMuchData,
    /// The stream ended or broke.
    #[error("connection to the agent lost: {0}")]
    Io(#[from] io::Error),
}

fn message(magic: [u8; MAGIC_LEN], nonce: [u8; NONCE_LEN]) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    let (first, second) = message.split_at_mut(MAGIC_LEN);
    first.copy_from_slice(&magic);
    second.copy_from_slice(&nonce);
    message
}

/// The last [`MESSAGE_LEN`] bytes that were received.
struct Window {
    bytes: [u8; MESSAGE_LEN],
}

impl Window {
    fn push(&mut self, byte: u8) {
        self.bytes.rotate_left(1);
        if let Some(last) = self.bytes.last_mut() {
            *last = byte;
        }
    }

    fn nonce_after(&self, magic: [u8; MAGIC_LEN]) -> Option<[u8; NONCE_LEN]> {
        self.bytes.strip_prefix(&magic).and_then(|nonce| nonce.try_into().ok())
    }
}

/// Performs the host's side of the handshake. On return both ends may speak HTTP/2.
///
/// # Errors
/// [`HandshakeError`]. The stream is then unusable.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    nonce: [u8; NONCE_LEN],
) -> Result<(), HandshakeError> {
    open_with_timeout(stream, nonce, HANDSHAKE_TIMEOUT).await
}

async fn open_with_timeout<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    nonce: [u8; NONCE_LEN],
    timeout: Duration,
) -> Result<(), HandshakeError> {
    tokio::time::timeout(timeout, exchange(stream, nonce)).await.map_err(|_| HandshakeError::Timeout)?
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    nonce: [u8; NONCE_LEN],
) -> Result<(), HandshakeError> {
    let (hello, go) = (message(HELLO, nonce), message(GO, nonce));
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (set_echoed, mut echoed) = tokio::sync::watch::channel(false);
    let send = async {
        writer.write_all(&FLUSH).await?;
        while !*echoed.borrow() {
            writer.write_all(&hello).await?;
            // The sender lives as long as this function.
            let _ = tokio::time::timeout(HELLO_INTERVAL, echoed.changed()).await;
        }
        writer.write_all(&go).await?;
        std::future::pending::<io::Result<()>>().await
    };
    let receive = async {
        let mut window = Window { bytes: [0; MESSAGE_LEN] };
        let mut budget = MAX_HANDSHAKE_BYTES;
        // Reading one byte at a time would be slow, and reading beyond the echo would swallow HTTP/2. So each read asks for the minimum
        // that is missing until the window can hold the echo.
        loop {
            let missing = missing(&window.bytes, &go);
            let mut chunk = [0; MESSAGE_LEN];
            let chunk = chunk.get_mut(..missing).unwrap_or_default();
            let count = reader.read(chunk).await?;
            if count == 0 {
                return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            budget = budget.checked_sub(count).ok_or(HandshakeError::TooMuchData)?;
            for byte in chunk.iter().take(count) {
                window.push(*byte);
                if window.bytes == hello {
                    set_echoed.send_replace(true);
                }
            }
            if window.bytes == go {
                return Ok(());
            }
        }
    };
    tokio::select! {
        result = receive => result,
        Err(error) = send => Err(error.into()),
    }
}

/// Returns the minimum number of further bytes after which `seen` can end with `wanted`.
fn missing(seen: &[u8], wanted: &[u8]) -> usize {
    (1..=wanted.len())
        .find(|missing| {
            let have = wanted.len() - missing;
            wanted.get(..have) == seen.get(seen.len() - have..)
        })
        .unwrap_or(wanted.len())
}

/// Performs the guest's side of the handshake, waiting for a host without limit. On return both ends may speak HTTP/2.
///
/// # Errors
/// Fails if the stream ends or breaks.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    // Possibly the start of a message, followed by the bytes just read.
    let mut seen = Vec::with_capacity(MESSAGE_LEN + HELLO_READ_BYTES);
    let nonce = await_hello(stream, &mut seen).await?;
    await_go(stream, nonce, seen).await
}

/// Read size while waiting for a hello. The host has repeated its hello while the guest booted, after a long flush. Large reads are safe,
/// because nothing after a hello belongs to a session before the echo, and it is echoed once.
const HELLO_READ_BYTES: usize = 4096;

/// Waits for a hello and echoes the last one of a read. Leaves the bytes after it in `seen`.
async fn await_hello<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    seen: &mut Vec<u8>,
) -> io::Result<[u8; NONCE_LEN]> {
    loop {
        let scanned = seen.len().saturating_sub(MESSAGE_LEN - 1);
        seen.drain(..scanned);
        let start = seen.len();
        seen.resize(start + HELLO_READ_BYTES, 0);
        let count = stream.read(seen.get_mut(start..).unwrap_or_default()).await?;
        seen.truncate(start + count);
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((end, nonce)) = last_hello(seen) {
            seen.drain(..end);
            stream.write_all(&message(HELLO, nonce)).await?;
            return Ok(nonce);
        }
    }
}

/// Returns the end of the last hello in `bytes`, and its nonce.
fn last_hello(bytes: &[u8]) -> Option<(usize, [u8; NONCE_LEN])> {
    let (at, hello) =
        bytes.windows(MESSAGE_LEN).enumerate().rfind(|(_, message)| message.starts_with(&HELLO))?;
    Some((at + MESSAGE_LEN, hello.get(MAGIC_LEN..)?.try_into().ok()?))
}

/// Waits for the go of the host whose hello was echoed, or of another host after its hello, and echoes it.
async fn await_go<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    nonce: [u8; NONCE_LEN],
    buffered: Vec<u8>,
) -> io::Result<()> {
    let (mut window, mut nonce) = (Window { bytes: [0; MESSAGE_LEN] }, nonce);
    buffered.into_iter().for_each(|byte| window.push(byte));
    loop {
        // Bytes after the go belong to the session.
        let mut chunk = [0; MESSAGE_LEN];
        let chunk = chunk.get_mut(..missing(&window.bytes, &message(GO, nonce))).unwrap_or_default();
        let count = stream.read(chunk).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for byte in chunk.iter().take(count) {
            window.push(*byte);
            if let Some(newer) = window.nonce_after(HELLO) {
                nonce = newer;
                stream.write_all(&message(HELLO, nonce)).await?;
            }
        }
        if window.bytes == message(GO, nonce) {
            return stream.write_all(&message(GO, nonce)).await;
        }
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn session_opens_after_leftover_bytes_of_an_old_session() {
        let (mut host, mut guest) = tokio::io::duplex(64);
        let guest_side = async {
            guest.write_all(&[0x17; 100_000]).await.unwrap();
            guest.write_all(&message(HELLO, [9; NONCE_LEN])).await.unwrap();
            guest.write_all(&message(GO, [9; NONCE_LEN])).await.unwrap();
            accept(&mut guest).await.unwrap();
            guest.write_all(b"first").await.unwrap();
            let mut byte = [0; 6];
            guest.read_exact(&mut byte).await.unwrap();
            assert_eq!(&byte, b"second");
        };
        let host_side = async {
            open(&mut host, [7; NONCE_LEN]).await.unwrap();
            let mut byte = [0; 5];
            host.read_exact(&mut byte).await.unwrap();
            assert_eq!(&byte, b"first");
            host.write_all(b"second").await.unwrap();
        };
        tokio::join!(guest_side, host_side);
    }

    #[tokio::test]
    async fn silent_guest_times_out() {
        let (mut host, _guest) = tokio::io::duplex(1 << 20);
        let result = open_with_timeout(&mut host, [1; NONCE_LEN], Duration::from_millis(20)).await;
        assert!(matches!(result, Err(HandshakeError::Timeout)));
    }

    #[tokio::test]
    async fn flood_without_echo_is_refused() {
        let (host, mut guest) = tokio::io::duplex(1 << 20);
        let mut host = host;
        let flood = async { while guest.write_all(&[0; 65_536]).await.is_ok() {} };
        let result = async {
            let result = open(&mut host, [1; NONCE_LEN]).await;
            drop(host);
            result
        };
        let (result, ()) = tokio::join!(result, flood);
        assert!(matches!(result, Err(HandshakeError::TooMuchData)));
    }

    #[test]
    fn missing_bytes_follow_from_the_longest_matching_suffix() {
        assert_eq!(missing(b"xxabc", b"abcd"), 1);
        assert_eq!(missing(b"aabab", b"ababc"), 1);
        assert_eq!(missing(b"zzzzz", b"abcde"), 5);
    }
}
