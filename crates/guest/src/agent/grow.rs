//! Growth of the root file system to the size of its disk. The host never touches a guest's file system, so the agent does it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

const SUPERBLOCK_OFFSET: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;

/// Grows the root file system, unless it already fills its device. A failure is logged on the console, and the VM works with less space.
pub(super) fn grow_root() {
    if let Err(error) = try_grow_root() {
        eprintln!("rigbox-agent: failed to grow the root file system: {error}");
    }
}

fn try_grow_root() -> io::Result<()> {
    if !fs::exists("/sys/fs/ext4/vda")? {
        return Ok(());
    }
    let device = File::open("/dev/vda")?;
    let mut superblock = [0; SUPERBLOCK_BYTES];
    device.read_exact_at(&mut superblock, SUPERBLOCK_OFFSET)?;
    let blocks = rigbox_sys::block::device_size(&device)? / rustix::fs::statvfs("/")?.f_frsize;
    // The ioctl writes the journal out even if there is nothing to grow, which takes a third of a start's own time.
    if block_count(&superblock) == blocks {
        return Ok(());
    }
    rigbox_sys::block::grow_ext4(&File::open("/")?, blocks)
}

/// Returns the number of blocks of a file system: `s_blocks_count_lo` and `s_blocks_count_hi` of its superblock (ext4's documentation in
/// Linux, `filesystems/ext4/super.rst`).
fn block_count(superblock: &[u8; SUPERBLOCK_BYTES]) -> u64 {
    let field = |offset: usize| {
        let bytes = superblock.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok());
        u64::from(u32::from_le_bytes(bytes.unwrap_or_default()))
    };
    (field(0x150) << 32) | field(4)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn block_count_is_the_one_of_mkfs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fs");
        File::create(&path).unwrap().set_len(9 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(&path).status().unwrap();
        assert!(made.success());
        let mut superblock = [0; SUPERBLOCK_BYTES];
        File::open(&path).unwrap().read_exact_at(&mut superblock, SUPERBLOCK_OFFSET).unwrap();
        assert_eq!(block_count(&superblock), (9 << 20) / 4096);
    }
}
