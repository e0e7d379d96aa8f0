//! The virtio-serial port to the host.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rigbox_sys::async_file::AsyncFile;

/// Name that the host gave the port.
const NAME: &str = "rigbox.agent";

/// Path of the port's device.
pub(super) fn find() -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == NAME) {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no port named {NAME}")))
}

/// Opens the port. A read without a host at the other end is an end of file; a blocking write would then block for ever, so nothing
/// here blocks.
pub(super) fn open(path: &Path) -> io::Result<AsyncFile> {
    AsyncFile::new(File::options().read(true).write(true).open(path)?)
}
