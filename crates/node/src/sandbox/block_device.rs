//! Block device that carries a folder: the one for which control groups of version 2 limit the traffic of VMs' disks. Limits are for whole
//! devices, never for partitions.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rigbox_core::vm_limits::DiskLimits;

/// Folder with a link for each block device (sysfs(5)).
const DEVICES: &str = "/sys/dev/block";

/// Whole block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockDevice {
    major: u32,
    minor: u32,
}

impl BlockDevice {
    /// Returns the device with the file system of `path`. `None` if it has none that the kernel could limit, as that of Btrfs, overlays and
    /// file systems in memory.
    pub(super) fn below(path: &Path) -> io::Result<Option<Self>> {
        let device = fs::metadata(path)?.dev();
        let part = Self { major: rustix::fs::major(device), minor: rustix::fs::minor(device) };
        part.whole(Path::new(DEVICES))
    }

    /// Returns the device that this one is a partition of, or itself.
    fn whole(self, devices: &Path) -> io::Result<Option<Self>> {
        let link = devices.join(self.to_string());
        if !link.exists() {
            return Ok(None);
        }
        if !link.join("partition").exists() {
            return Ok(Some(self));
        }
        // The folder of a partition is in that of its device.
        let number = fs::read_to_string(fs::canonicalize(link)?.join("../dev"))?;
        Ok(Self::parse(number.trim()))
    }

    fn parse(number: &str) -> Option<Self> {
        let (major, minor) = number.split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// Returns the value of `io.max` that limits traffic to this device, in each direction.
    pub(super) fn limited(self, limits: DiskLimits) -> String {
        let bytes_per_s = u64::from(limits.mb_per_s.get()) * 1_000_000;
        let operations_per_s = limits.iops;
        format!(
            "{self} rbps={bytes_per_s} wbps={bytes_per_s} riops={operations_per_s} wiops={operations_per_s}"
        )
    }
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::storage::testbed::{in_own_namespace, mount_xfs};

    #[test]
    fn partition_is_limited_by_its_whole_device() {
        let sys = tempfile::tempdir().unwrap();
        let (devices, disk) = (sys.path().join("dev"), sys.path().join("devices/pci0/vda"));
        fs::create_dir(&devices).unwrap();
        fs::create_dir_all(disk.join("vda1")).unwrap();
        fs::write(disk.join("dev"), "254:0\n").unwrap();
        fs::write(disk.join("vda1/dev"), "254:1\n").unwrap();
        fs::write(disk.join("vda1/partition"), "1\n").unwrap();
        symlink("../devices/pci0/vda", devices.join("254:0")).unwrap();
        symlink("../devices/pci0/vda/vda1", devices.join("254:1")).unwrap();
        let whole = BlockDevice { major: 254, minor: 0 };
        for minor in [0, 1] {
            let found = BlockDevice { major: 254, minor }.whole(&devices).unwrap();
            assert_eq!(found, Some(whole), "{minor}");
        }
        // Btrfs has devices of its own, which sysfs does not know.
        assert_eq!(BlockDevice { major: 0, minor: 41 }.whole(&devices).unwrap(), None);
    }

    #[test]
    fn limit_counts_each_direction() {
        let device = BlockDevice { major: 7, minor: 3 };
        let expected = "7:3 rbps=500000000 wbps=500000000 riops=20000 wiops=20000";
        assert_eq!(device.limited(DiskLimits::DEFAULT), expected);
    }

    #[test]
    fn loop_device_of_the_volume_is_found() {
        if !in_own_namespace("sandbox::block_device::tests::loop_device_of_the_volume_is_found") {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let root = mount_xfs(scratch.path(), 512);
        let text = root.display().to_string();
        let source = crate::command::run("findmnt", &["-n", "-o", "MAJ:MIN", "--mountpoint", &text]).unwrap();
        let found = BlockDevice::below(&root).unwrap().unwrap();
        assert_eq!((found.major, found.to_string()), (7, source.trim().to_owned()));
        assert_eq!(BlockDevice::below(Path::new("/proc")).unwrap(), None);
    }
}
