//! Memory images of running VMs: what they need of the machine, and where their memory comes from.

use std::fs::File;
use std::sync::PoisonError;

use rigbox_core::ids::WorkspaceId;

use super::Node;
use crate::error::Error;
use crate::memory::{
    DiskState, Identity, MemoryImage, MemoryKey, MemoryPipe, Source, empty_folder, host_cpu,
};
use crate::record::{Boot, Record};
use crate::sandbox::run_folder;
use crate::vmm::kind::VmmKind;

/// State of a VM's devices, and of what else is in an image beside the memory, MiB.
const DEVICES_MB: u32 = 128;
/// Memory that stays free on the host while there is a copy of a VM's, MiB.
const HOST_RESERVE_MB: u64 = 256;

fn boot_of(record: &Record) -> Result<&Boot, Error> {
    record.boot.as_ref().ok_or_else(|| Error::Refused("not_running", "there is no VM".to_owned()))
}

impl Node {
    /// Returns what an image of this VM's memory belongs to. Nobody may be writing to its disk.
    fn memory_identity(&self, id: &WorkspaceId, record: &Record) -> Result<Identity, Error> {
        let spec = record.known_spec()?;
        let path = self.disks.path(id);
        let disk = File::open(&path).and_then(|disk| DiskState::of(&disk));
        let image = self.images.version(&record.image_version)?;
        Ok(Identity {
            vmm: self.driver.vmm.version(),
            kernel: image.initramfs.display().to_string(),
            ram_mb: spec.ram_mb,
            vcpu_count: spec.vcpu_count,
            cpu: host_cpu().map_err(Error::system("read the model of the CPU"))?,
            disk: disk.map_err(Error::at("read disk", &path))?,
        })
    }

    /// Fails if the image of the record is not one of the VM that would be booted now.
    pub(super) fn check_memory(&self, id: &WorkspaceId, record: &Record) -> Result<(), Error> {
        let Some(image) = &record.memory else { return Ok(()) };
        let found = self.memory_identity(id, record)?;
        if let Some(difference) = image.identity.difference(&found) {
            return Err(Error::Refused("memory_mismatch", format!("it is {difference}")));
        }
        if self.driver.kind == VmmKind::Firecracker {
            // Each page that the guest writes to is there twice.
            ensure_memory(2 * image.identity.ram_mb)?;
        }
        Ok(())
    }

    pub(super) fn begin_save(&self, id: &WorkspaceId, record: &Record, key: &MemoryKey) -> Result<(), Error> {
        let (spec, boot) = (record.known_spec()?, boot_of(record)?);
        self.disks.reserve_memory(id, spec.ram_mb + DEVICES_MB)?;
        match boot.vmm {
            VmmKind::Qemu => {
                let (pipe, thread) =
                    self.memory_images.create_from_pipe(id, key, image_bytes(spec.ram_mb))?;
                let mut pipes = self.memory_pipes.lock().unwrap_or_else(PoisonError::into_inner);
                pipes.insert(id.clone(), (boot.boot_id.clone(), thread));
                self.attached_vms.set_memory_pipe(&boot.boot_id, Some(pipe));
            }
            VmmKind::Firecracker => {
                if spec.ram_mb > record.disk_size_mb {
                    // It may write no larger file than that.
                    let message = "its memory is larger than its disk".to_owned();
                    return Err(Error::Refused("memory_too_large", message));
                }
                ensure_memory(spec.ram_mb)?;
                self.cgroups.raise_memory(id.as_str(), 2 * image_bytes(spec.ram_mb))?;
            }
        }
        Ok(())
    }

    pub(super) fn finish_save(
        &self,
        id: &WorkspaceId,
        record: &Record,
        key: &MemoryKey,
    ) -> Result<MemoryImage, Error> {
        let (spec, boot) = (record.known_spec()?, boot_of(record)?);
        let lost = || Error::Refused("not_saving", "nobody was saving it".to_owned());
        let source = match boot.vmm {
            VmmKind::Qemu => Source::Pipe(self.take_memory_pipe(id).ok_or_else(lost)?),
            VmmKind::Firecracker => Source::Folder {
                folder: run_folder::open_for_memory(&self.config.vm_dir(id))?.ok_or_else(lost)?,
                uid: self.vm_uid(record.slot),
            },
        };
        self.memory_images.complete(id, key, source, image_bytes(spec.ram_mb))?;
        let identity = self.memory_identity(id, record)?;
        Ok(MemoryImage { identity, reserved_mb: spec.ram_mb + DEVICES_MB })
    }

    /// Takes the pipe of a memory that is being saved. Nobody else gets the other end of it.
    fn take_memory_pipe(&self, id: &WorkspaceId) -> Option<MemoryPipe> {
        let (boot_id, pipe) = self.memory_pipes.lock().unwrap_or_else(PoisonError::into_inner).remove(id)?;
        self.attached_vms.set_memory_pipe(&boot_id, None);
        Some(pipe)
    }

    /// Removes an image, and what there is of one that is being made or loaded.
    pub(super) fn forget_memory(&self, id: &WorkspaceId) -> Result<(), Error> {
        drop(self.take_memory_pipe(id));
        self.memory_images.remove(id)?;
        self.disks.release_memory(id);
        let vm_dir = self.config.vm_dir(id);
        match run_folder::open_for_memory(&vm_dir)? {
            Some(folder) => empty_folder(folder).map_err(Error::at("remove a memory image in", &vm_dir)),
            None => Ok(()),
        }
    }
}

/// Returns the size of a memory image at most.
fn image_bytes(ram_mb: u32) -> u64 {
    u64::from(ram_mb + DEVICES_MB) << 20
}

/// Fails if the host has no memory of this size to spare.
fn ensure_memory(size_mb: u32) -> Result<(), Error> {
    let info =
        std::fs::read_to_string("/proc/meminfo").map_err(Error::system("read the machine's memory"))?;
    let available = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kb: Option<u64> = available.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    let free_mb = kb.unwrap_or(0) / 1024;
    if free_mb >= u64::from(size_mb) + HOST_RESERVE_MB {
        return Ok(());
    }
    let message = format!("the host has {free_mb} MiB of free memory, and a copy of its own takes {size_mb}");
    Err(Error::Refused("memory_full", message))
}
