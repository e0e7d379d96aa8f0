//! The virtio-serial ports to the host.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rigbox_sys::async_file::AsyncFile;

/// Finds the device of a port.
pub(super) fn find(port: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == port) {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no port named {port}")))
}

/// Opens the port in non-blocking mode. Without a host at the other end, a read returns end of file, and a blocking write would block
/// forever.
pub(super) fn open(path: &Path) -> io::Result<AsyncFile> {
    AsyncFile::new(File::options().read(true).write(true).open(path)?)
}
