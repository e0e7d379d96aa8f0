//! The rules of the one byte stream between guestio and the agent in a VM, for both ends: how a session opens.
//!
//! A virtio-serial port has no connections: when the host reconnects quickly the guest sees no end of file, and up to 150 kB of
//! the old session are still on their way. So the host first sends [`FLUSH`] bytes that no HTTP/2 frame survives, then
//! [`HELLO`] and a nonce every [`HELLO_EVERY`] until they come back, then [`GO`] and the nonce, and waits for the echo of
//! that, dropping all other bytes. The guest, while no session runs, looks for these two and echoes them. After the echo of
//! `GO` both speak HTTP/2, the guest as server. Inside a session [`HELLO`] is an invalid frame (its length field is
//! 0xffffff), which ends the session at once.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Opens a handshake; the nonce follows.
pub const HELLO: [u8; 16] = *b"\xff\xff\xff\xffrigbox-hello";
/// Ends a handshake; the nonce follows.
pub const GO: [u8; 16] = *b"\xff\xff\xff\xffrigbox-go!!!";
/// Longer than any frame that may be half-way (the default of `SETTINGS_MAX_FRAME_SIZE` is 16,384), so that what follows is read
/// as the header of a frame, which these bytes are not (RFC 9113, 4.1 and 4.2).
pub static FLUSH: [u8; 16_384 + 9] = [0xff; 16_384 + 9];
/// How often the host repeats its hello.
pub const HELLO_EVERY: Duration = Duration::from_millis(100);
/// The host gives up after so long without an echo ...
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// ... or after so many bytes that are none (64 MiB).
pub const GIVE_UP_BYTES: usize = 64 << 20;
/// Payload of one message on the stream, bytes.
pub const CHUNK: usize = 32 * 1024;
/// HTTP/2 flow-control window of one stream, bytes. Larger ones were slower on an emulated CPU.
pub const WINDOW: u32 = 256 * 1024;
/// The same of a whole connection: large, so that calls whose readers have stopped do not stop the others.
pub const CONNECTION_WINDOW: u32 = 64 * WINDOW;
/// A message larger than this is refused, bytes.
pub const MESSAGE_LIMIT: usize = 128 * 1024;

/// Length of a nonce, bytes.
pub const NONCE: usize = 16;
const WORD: usize = 16 + NONCE;

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// No echo within [`GIVE_UP_AFTER`].
    #[error("the agent did not answer the handshake within {} s", GIVE_UP_AFTER.as_secs())]
    Silence,
    /// More than [`GIVE_UP_BYTES`] came that were no echo.
    #[error("the guest sent more than {} MiB that were no answer to the handshake", GIVE_UP_BYTES >> 20)]
    Flood,
    /// The stream ended or broke.
    #[error("the stream to the agent broke: {0}")]
    Io(#[from] io::Error),
}

fn word(magic: [u8; 16], nonce: [u8; NONCE]) -> [u8; WORD] {
    let mut word = [0; WORD];
    let (first, second) = word.split_at_mut(16);
    first.copy_from_slice(&magic);
    second.copy_from_slice(&nonce);
    word
}

/// The last [`WORD`] bytes that were seen.
struct Window {
    bytes: [u8; WORD],
}

impl Window {
    fn push(&mut self, byte: u8) {
        self.bytes.rotate_left(1);
        if let Some(last) = self.bytes.last_mut() {
            *last = byte;
        }
    }

    fn nonce_after(&self, magic: [u8; 16]) -> Option<[u8; NONCE]> {
        self.bytes.strip_prefix(&magic).and_then(|nonce| nonce.try_into().ok())
    }
}

/// The host's half: returns when both ends may speak HTTP/2.
///
/// # Errors
/// [`HandshakeError`]; the stream is then of no further use.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    nonce: [u8; NONCE],
) -> Result<(), HandshakeError> {
    open_within(stream, nonce, GIVE_UP_AFTER).await
}

async fn open_within<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    nonce: [u8; NONCE],
    limit: Duration,
) -> Result<(), HandshakeError> {
    tokio::time::timeout(limit, open_unbounded(stream, nonce)).await.map_err(|_| HandshakeError::Silence)?
}

async fn open_unbounded<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    nonce: [u8; NONCE],
) -> Result<(), HandshakeError> {
    let (hello, go) = (word(HELLO, nonce), word(GO, nonce));
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (greeted, mut is_greeted) = tokio::sync::watch::channel(false);
    let speak = async {
        writer.write_all(&FLUSH).await?;
        while !*is_greeted.borrow() {
            writer.write_all(&hello).await?;
            // The sender lives as long as this function.
            let _ = tokio::time::timeout(HELLO_EVERY, is_greeted.changed()).await;
        }
        writer.write_all(&go).await?;
        std::future::pending::<io::Result<()>>().await
    };
    let listen = async {
        let mut window = Window { bytes: [0; WORD] };
        let mut left = GIVE_UP_BYTES;
        // One byte at a time from here on would be slow, more than the echo must not be taken: so the size of each read is
        // what is missing at least until the window can hold the echo.
        loop {
            let missing = missing(&window.bytes, &go);
            let mut chunk = [0; WORD];
            let chunk = chunk.get_mut(..missing).unwrap_or_default();
            let count = reader.read(chunk).await?;
            if count == 0 {
                return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            left = left.checked_sub(count).ok_or(HandshakeError::Flood)?;
            for byte in chunk.iter().take(count) {
                window.push(*byte);
                if window.bytes == hello {
                    greeted.send_replace(true);
                }
            }
            if window.bytes == go {
                return Ok(());
            }
        }
    };
    tokio::select! {
        result = listen => result,
        Err(error) = speak => Err(error.into()),
    }
}

/// How many more bytes are needed at the least until `seen` can end with `wanted`.
fn missing(seen: &[u8], wanted: &[u8]) -> usize {
    (1..=wanted.len())
        .find(|missing| {
            let have = wanted.len() - missing;
            wanted.get(..have) == seen.get(seen.len() - have..)
        })
        .unwrap_or(wanted.len())
}

/// The guest's half: waits for a host as long as it takes and returns when both ends may speak HTTP/2.
///
/// # Errors
/// The stream ended or broke.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    // What may be the beginning of a word, and then what has just come.
    let mut seen = Vec::with_capacity(WORD + GREETING_CHUNK);
    let nonce = greet(stream, &mut seen).await?;
    go_on(stream, nonce, seen).await
}

/// The host has been repeating itself while the guest booted, behind a long flush: read in large pieces, because nothing behind a
/// hello belongs to a session before it has been echoed, and echoed once.
const GREETING_CHUNK: usize = 4096;

/// Waits for a hello and echoes the last of those that came together. Leaves the bytes behind it in `seen`.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    seen: &mut Vec<u8>,
) -> io::Result<[u8; NONCE]> {
    loop {
        let kept = seen.len().saturating_sub(WORD - 1);
        seen.drain(..kept);
        let start = seen.len();
        seen.resize(start + GREETING_CHUNK, 0);
        let count = stream.read(seen.get_mut(start..).unwrap_or_default()).await?;
        seen.truncate(start + count);
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((end, nonce)) = last_hello(seen) {
            seen.drain(..end);
            stream.write_all(&word(HELLO, nonce)).await?;
            return Ok(nonce);
        }
    }
}

/// Where the last hello in `bytes` ends, and its nonce.
fn last_hello(bytes: &[u8]) -> Option<(usize, [u8; NONCE])> {
    let (at, word) = bytes.windows(WORD).enumerate().rfind(|(_, word)| word.starts_with(&HELLO))?;
    Some((at + WORD, word.get(16..)?.try_into().ok()?))
}

/// Waits for the go of the host that was greeted, or of another one after its hello, and echoes it.
async fn go_on<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    nonce: [u8; NONCE],
    behind: Vec<u8>,
) -> io::Result<()> {
    let (mut window, mut nonce) = (Window { bytes: [0; WORD] }, nonce);
    behind.into_iter().for_each(|byte| window.push(byte));
    loop {
        // Nothing behind the go belongs to the handshake.
        let mut chunk = [0; WORD];
        let chunk = chunk.get_mut(..missing(&window.bytes, &word(GO, nonce))).unwrap_or_default();
        let count = stream.read(chunk).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for byte in chunk.iter().take(count) {
            window.push(*byte);
            if let Some(another) = window.nonce_after(HELLO) {
                nonce = another;
                stream.write_all(&word(HELLO, nonce)).await?;
            }
        }
        if window.bytes == word(GO, nonce) {
            return stream.write_all(&word(GO, nonce)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_opens_behind_the_rubbish_of_an_old_one() {
        let (mut host, mut guest) = tokio::io::duplex(64);
        let guest_side = async {
            guest.write_all(&[0x17; 100_000]).await.unwrap();
            guest.write_all(&word(HELLO, [9; NONCE])).await.unwrap();
            guest.write_all(&word(GO, [9; NONCE])).await.unwrap();
            accept(&mut guest).await.unwrap();
            guest.write_all(b"first").await.unwrap();
            let mut byte = [0; 6];
            guest.read_exact(&mut byte).await.unwrap();
            assert_eq!(&byte, b"second");
        };
        let host_side = async {
            open(&mut host, [7; NONCE]).await.unwrap();
            let mut byte = [0; 5];
            host.read_exact(&mut byte).await.unwrap();
            assert_eq!(&byte, b"first");
            host.write_all(b"second").await.unwrap();
        };
        tokio::join!(guest_side, host_side);
    }

    #[tokio::test]
    async fn silence_is_given_up() {
        let (mut host, _guest) = tokio::io::duplex(1 << 20);
        let result = open_within(&mut host, [1; NONCE], Duration::from_millis(20)).await;
        assert!(matches!(result, Err(HandshakeError::Silence)));
    }

    #[tokio::test]
    async fn a_flood_is_given_up() {
        let (host, mut guest) = tokio::io::duplex(1 << 20);
        let mut host = host;
        let flood = async { while guest.write_all(&[0; 65_536]).await.is_ok() {} };
        let result = async {
            let result = open(&mut host, [1; NONCE]).await;
            drop(host);
            result
        };
        let (result, ()) = tokio::join!(result, flood);
        assert!(matches!(result, Err(HandshakeError::Flood)));
    }

    #[test]
    fn the_longest_end_that_fits_counts() {
        assert_eq!(missing(b"xxabc", b"abcd"), 1);
        assert_eq!(missing(b"aabab", b"ababc"), 1);
        assert_eq!(missing(b"zzzzz", b"abcde"), 5);
    }
}
