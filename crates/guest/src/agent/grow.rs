//! Growth of the root file system to the size of its disk. The host never touches a guest's file system, so the agent does it.

use std::fs::{self, File};
use std::io;

/// Grows the root file system, unless it already fills its device. A failure is logged on the console, and the VM works with less space.
pub(super) fn grow_root() {
    if let Err(error) = try_grow_root() {
        eprintln!("rigbox-agent: failed to grow the root file system: {error}");
    }
}

fn try_grow_root() -> io::Result<()> {
    let device = rigbox_sys::block::device_size(&File::open("/dev/vda")?)?;
    let root = File::open("/")?;
    let file_system = rustix::fs::statvfs("/")?;
    let blocks = device / file_system.f_frsize;
    // `f_blocks` excludes the file system's overhead. The kernel knows the real size and refuses to shrink, and a redundant request is
    // cheap.
    if file_system.f_blocks >= blocks {
        return Ok(());
    }
    if fs::exists("/sys/fs/ext4/vda")? { rigbox_sys::block::grow_ext4(&root, blocks) } else { Ok(()) }
}
