//! Grows the root file system to its disk. The host never touches a guest's file system, so a larger disk is taken into use here.

use std::fs::{self, File};
use std::io;

/// Later than the first commands, sooner than anybody needs the room.
const NICE: i32 = 10;

/// Does nothing when the file system already fills its device. A failure is told on the console: the VM works with less room.
pub(super) fn to_device() {
    // For this thread alone; a failure costs a moment.
    let _ = rustix::process::setpriority_process(None, NICE);
    if let Err(error) = try_to_device() {
        eprintln!("rigbox-agent: the root file system cannot be grown to its disk: {error}");
    }
}

fn try_to_device() -> io::Result<()> {
    let device = rigbox_sys::block::device_size(&File::open("/dev/vda")?)?;
    let root = File::open("/")?;
    let file_system = rustix::fs::statvfs("/")?;
    let blocks = device / file_system.f_frsize;
    // `f_blocks` counts without the file system's own overhead; the kernel knows the real size and refuses to shrink, and asking
    // for what is there already is cheap.
    if file_system.f_blocks >= blocks {
        return Ok(());
    }
    if fs::exists("/sys/fs/ext4/vda")? { rigbox_sys::block::grow_ext4(&root, blocks) } else { Ok(()) }
}
