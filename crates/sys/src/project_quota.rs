//! Project quotas: limits on the blocks of all files that have one project id, whatever creates these blocks. XFS and ext4 have them, where
//! the kernel and the mount do (quotactl(2), ioctl_fssetxattr(2)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;

/// Type of quota (`PRJQUOTA` of linux/quota.h).
const PROJECT: u32 = 2;
/// Commands of linux/dqblk_xfs.h, `XQM_CMD(n)`, which any file system with quotas knows.
const GET_QUOTA: u32 = 0x5803;
const SET_LIMIT: u32 = 0x5804;
const GET_STATE: u32 = 0x5808;
/// Version of [`State`] (`FS_QSTATV_VERSION1`).
const STATE_VERSION: i8 = 1;
/// Flags of [`State`]: project quotas are counted, and enforced (`FS_QUOTA_PDQ_ACCT`, `FS_QUOTA_PDQ_ENFD`).
const COUNTED_AND_ENFORCED: u16 = 1 << 4 | 1 << 5;
/// Version of [`Limits`] (`FS_DQUOT_VERSION`).
const LIMITS_VERSION: i8 = 1;
/// Flag of [`Limits`] (`FS_PROJ_QUOTA`).
const OF_PROJECT: i8 = 1 << 1;
/// Fields that are set (`FS_DQ_BSOFT`, `FS_DQ_BHARD`).
const BLOCK_LIMITS: u16 = 1 << 2 | 1 << 3;
/// Unit of the kernel's numbers, bytes.
const BASIC_BLOCK: u64 = 512;

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct fs_disk_quota` of linux/dqblk_xfs.h, up to the fields of real-time devices.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Limits {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    hard_blocks: u64,
    soft_blocks: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    blocks: u64,
    inodes: u64,
    rest: [u64; 7],
}

/// `struct fs_quota_statv` of linux/dqblk_xfs.h, of which only the beginning counts.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    cached: u32,
    rest: [u64; 19],
}

mod request {
    // linux/fs.h: FS_IOC_FSGETXATTR is _IOR('X', 31, struct fsxattr), FS_IOC_FSSETXATTR is _IOW('X', 32, struct fsxattr).
    nix::ioctl_read!(get_attributes, b'X', 31, super::Attributes);
    nix::ioctl_write_ptr!(set_attributes, b'X', 32, super::Attributes);
}

/// Blocks of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Hard limit, bytes. `None` if there is none.
    pub limit_bytes: Option<u64>,
    /// Bytes in use. What files share counts for each of them.
    pub used_bytes: u64,
}

/// Returns the id of a file's project. 0 is that of files without one, which is never limited.
///
/// # Errors
/// Fails where the file system knows no projects.
pub fn project(file: &File) -> io::Result<u32> {
    Ok(attributes(file)?.project)
}

/// Changes the project of a file. Its blocks count for the new one from now on.
///
/// # Errors
/// Fails where the file system knows no projects.
pub fn set_project(file: &File, project: u32) -> io::Result<()> {
    let changed = Attributes { project, ..attributes(file)? };
    // SAFETY: the kernel reads one `struct fsxattr` from the pointer, which lives through the call.
    unsafe { request::set_attributes(file.as_raw_fd(), &changed) }?;
    Ok(())
}

fn attributes(file: &File) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes one `struct fsxattr` to the pointer, which lives through the call.
    unsafe { request::get_attributes(file.as_raw_fd(), &mut attributes) }?;
    Ok(attributes)
}

/// Returns whether the file system of `file` enforces limits of projects.
///
/// # Errors
/// Fails if the kernel does not tell. One without quotas does.
pub fn is_enforced(file: &File) -> io::Result<bool> {
    let mut state = State { version: STATE_VERSION, ..State::default() };
    // SAFETY: the command reads and writes one `struct fs_quota_statv`.
    match unsafe { quotactl(file, GET_STATE, 0, &mut state) } {
        Ok(()) => Ok(state.flags & COUNTED_AND_ENFORCED == COUNTED_AND_ENFORCED),
        // Neither the kernel nor the file system has quotas of this type, or they are off.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::ESRCH)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Sets the hard limit of a project on the file system of `file`, rounded up to blocks. `None` removes it.
///
/// # Errors
/// Fails where project quotas are not enforced, or if the caller is not root.
pub fn set_limit(file: &File, project: u32, bytes: Option<u64>) -> io::Result<()> {
    let mut limits = Limits {
        version: LIMITS_VERSION,
        flags: OF_PROJECT,
        fields: BLOCK_LIMITS,
        id: project,
        hard_blocks: bytes.map_or(0, |bytes| bytes.div_ceil(BASIC_BLOCK)),
        ..Limits::default()
    };
    // SAFETY: the command reads one `struct fs_disk_quota`.
    unsafe { quotactl(file, SET_LIMIT, project, &mut limits) }
}

/// Returns the limit and the blocks of a project on the file system of `file`.
///
/// # Errors
/// Fails where project quotas are not enforced, or if the caller is not root.
pub fn usage(file: &File, project: u32) -> io::Result<Usage> {
    let mut limits = Limits::default();
    // SAFETY: the command writes one `struct fs_disk_quota`.
    match unsafe { quotactl(file, GET_QUOTA, project, &mut limits) } {
        // Nothing was ever counted or limited.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        result => result?,
    }
    let limit_bytes = (limits.hard_blocks > 0).then_some(limits.hard_blocks * BASIC_BLOCK);
    Ok(Usage { limit_bytes, used_bytes: limits.blocks * BASIC_BLOCK })
}

/// Calls `quotactl_fd(2)` for project quotas on the file system of `file`.
///
/// # Safety
/// `T` has to be the type that the command reads or writes.
unsafe fn quotactl<T>(file: &File, command: u32, project: u32, argument: &mut T) -> io::Result<()> {
    let command = command << 8 | PROJECT;
    let argument = std::ptr::from_mut(argument);
    // SAFETY: the descriptor is open, and by the caller's word the kernel expects a `T` at the pointer, which lives through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, project, argument) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernels() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<Limits>(), 112);
        assert_eq!(size_of::<State>(), 160);
    }

    #[test]
    fn file_system_without_quotas_enforces_none() {
        let file = File::open("/proc").unwrap();
        assert!(!is_enforced(&file).unwrap());
        assert!(set_limit(&file, 1, Some(1)).is_err());
    }
}
