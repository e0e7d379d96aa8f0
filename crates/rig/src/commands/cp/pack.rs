//! Archive of local files, as a stream.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use crate::failure::Failure;

/// Bytes per part.
const PART_BYTES: usize = 64 * 1024;

/// Writes the archive of a file or directory under another name, and returns its size.
pub(super) fn pack(source: &Path, name: &Path, sender: Sender<Vec<u8>>) -> Result<u64, Failure> {
    let mut writer = PartWriter { sender, part: Vec::with_capacity(PART_BYTES), written: 0 };
    let failed = |error: io::Error| Failure::new("copy_failed", format!("{}: {error}", source.display()));
    {
        let mut archive = tar::Builder::new(&mut writer);
        archive.follow_symlinks(false);
        // What was named itself is followed, as cp(1) does.
        let packed = if fs::metadata(source).map_err(failed)?.is_dir() {
            archive.append_dir_all(name, source)
        } else {
            archive.append_file(name, &mut fs::File::open(source).map_err(failed)?)
        };
        packed.and_then(|()| archive.finish()).map_err(failed)?;
    }
    writer.flush().map_err(failed)?;
    Ok(writer.written)
}

/// Returns the reader of an archive.
pub(super) fn reader(receiver: Receiver<Vec<u8>>) -> impl AsyncRead + Send + Unpin + 'static {
    StreamReader::new(ReceiverStream::new(receiver).map(|part| Ok::<_, io::Error>(Bytes::from(part))))
}

/// Writer of parts.
struct PartWriter {
    sender: Sender<Vec<u8>>,
    part: Vec<u8>,
    written: u64,
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        self.written += bytes.len() as u64;
        if self.part.len() >= PART_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART_BYTES));
        self.sender.blocking_send(part).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
