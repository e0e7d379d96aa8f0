//! Ioctls of block devices and of ext4.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

mod request {
    // linux/fs.h: BLKGETSIZE64 is _IOR(0x12, 114, size_t); fs/ext4/ext4.h: EXT4_IOC_RESIZE_FS is _IOW('f', 16, __u64).
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_write_ptr!(ext4_resize_fs, b'f', 16, u64);
}

/// Returns the size of a block device in bytes.
///
/// # Errors
/// Fails if `device` is not a block device.
pub fn device_size(device: &File) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one u64 to the pointer, which lives through the call.
    unsafe { request::blkgetsize64(device.as_raw_fd(), &mut bytes) }?;
    Ok(bytes)
}

/// Grows the mounted ext4 file system of `root` to `blocks` file system blocks, online (`EXT4_IOC_RESIZE_FS`).
///
/// # Errors
/// Fails if the file system is not ext4, the caller lacks permission, or the device is smaller than `blocks`.
pub fn grow_ext4(root: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one u64 from the pointer, which lives through the call.
    unsafe { request::ext4_resize_fs(root.as_raw_fd(), &blocks) }?;
    Ok(())
}
