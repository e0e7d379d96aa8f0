//! Identity of the VM that a memory image belongs to: one CPU, one monitor, one state of the disk. Any other would go on wrongly.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Memory image that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryImage {
    /// VM that it belongs to.
    pub(crate) identity: Identity,
    /// Space that is reserved for it, MiB.
    pub(crate) reserved_mb: u32,
}

/// Identity of the VM that a memory image belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Monitor, its version and its accelerator.
    pub(crate) vmm: String,
    /// Image, with its kernel, and the agent.
    pub(crate) kernel: String,
    pub(crate) ram_mb: u32,
    pub(crate) vcpu_count: u32,
    /// Model and features of the host's CPU.
    pub(crate) cpu: String,
    pub(crate) disk: DiskState,
}

/// State of a disk that nobody writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskState {
    inode: u64,
    size: u64,
    /// Time of the last write.
    modified: (i64, i64),
}

impl Identity {
    /// Returns how `found`, the identity of a VM that could be booted now, differs from this one, for people.
    pub(crate) fn difference(&self, found: &Self) -> Option<&'static str> {
        [
            (self.vmm == found.vmm, "of another monitor, or another version of it"),
            (self.kernel == found.kernel, "of another kernel or agent"),
            (self.ram_mb == found.ram_mb && self.vcpu_count == found.vcpu_count, "of a VM of another size"),
            (self.cpu == found.cpu, "of another CPU"),
            (self.disk == found.disk, "of another state of the disk"),
        ]
        .into_iter()
        .find_map(|(is_same, difference)| (!is_same).then_some(difference))
    }
}

impl DiskState {
    /// Returns the state of a disk, which is made durable: the memory knows what is on it.
    pub(crate) fn of(disk: &File) -> io::Result<Self> {
        disk.sync_all()?;
        let meta = disk.metadata()?;
        Ok(Self { inode: meta.ino(), size: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}

/// Returns the model and the features of the host's CPU.
pub(crate) fn host_cpu() -> io::Result<String> {
    Ok(cpu_of(&fs::read_to_string(Path::new("/proc/cpuinfo"))?))
}

fn cpu_of(cpuinfo: &str) -> String {
    let names = ["vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags"];
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let fields = first.lines().filter_map(|line| line.split_once(':'));
    let told: Vec<&str> =
        fields.filter(|(name, _)| names.contains(&name.trim())).map(|(_, value)| value.trim()).collect();
    let model = told.get(3).copied().unwrap_or("unknown");
    let hash = blake3::hash(told.join("\n").as_bytes()).to_hex();
    format!("{model} {}", hash.get(..16).unwrap_or_default())
}

#[cfg(test)]
impl MemoryImage {
    pub(crate) fn for_tests() -> Self {
        let disk = DiskState { inode: 1, size: 2, modified: (3, 4) };
        let [vmm, kernel, cpu] = ["qemu", "base", "cpu"].map(str::to_owned);
        Self { identity: Identity { vmm, kernel, ram_mb: 512, vcpu_count: 1, cpu, disk }, reserved_mb: 640 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Identity);

    fn identity() -> Identity {
        MemoryImage::for_tests().identity
    }

    #[test]
    fn any_difference_is_named() {
        let kept = identity();
        assert_eq!(kept.difference(&identity()), None);
        let changes: [(Change, &str); 6] = [
            (|found| found.vmm.push('2'), "monitor"),
            (|found| found.kernel.push('2'), "kernel"),
            (|found| found.ram_mb = 1024, "size"),
            (|found| found.vcpu_count = 2, "size"),
            (|found| found.cpu.push('2'), "CPU"),
            (|found| found.disk.modified.1 += 1, "disk"),
        ];
        for (change, expected) in changes {
            let mut found = identity();
            change(&mut found);
            assert!(kept.difference(&found).unwrap().contains(expected), "{expected}");
        }
    }

    #[test]
    fn cpu_is_told_by_its_model_and_features() {
        let info = |flags: &str, mhz: &str| {
            let one = format!(
                "processor\t: 0\nvendor_id\t: Vendor\ncpu family\t: 6\nmodel\t\t: 1\nmodel name\t: CPU 1\n\
                 stepping\t: 1\nmicrocode\t: 0x1\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n"
            );
            cpu_of(&format!("{one}\n{one}"))
        };
        assert!(info("fpu", "1000").starts_with("CPU 1 "));
        assert_eq!(info("fpu", "1000"), info("fpu", "2000"));
        assert_ne!(info("fpu", "1000"), info("fpu avx", "1000"));
        assert_eq!(host_cpu().unwrap(), host_cpu().unwrap());
    }

    #[test]
    fn write_changes_the_state_of_a_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = DiskState::of(file.as_file()).unwrap();
        assert_eq!(before, DiskState::of(file.as_file()).unwrap());
        file.as_file().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_ne!(before, DiskState::of(file.as_file()).unwrap());
    }
}
