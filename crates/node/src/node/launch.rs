//! Resources of a boot, created in order: folder, disk, tap, control group, and then the VMM in its jail.

use rigbox_core::ids::WorkspaceId;

use super::Node;
use crate::error::Error;
use crate::memory::MemoryKey;
use crate::record::Record;
use crate::sandbox::jail::Launched;
use crate::vmm::{Machine, Memory, Place};

/// Creates the resources of a VM and starts it. Leftovers of an earlier attempt are removed first.
pub(super) fn launch(
    node: &Node,
    id: &WorkspaceId,
    record: &Record,
    memory_key: Option<MemoryKey>,
) -> Result<Launched, Error> {
    let spec = record.known_spec()?;
    node.remove_boot_resources(id)?;
    let image = node.images.version(&record.image_version)?;
    // Gone from the disk before anything runs.
    let memory = match memory_key {
        Some(key) => Some(Memory { image: node.memory_images.take(id)?, key }),
        None => None,
    };
    node.forget_memory(id)?;
    let machine = Machine {
        ram_mb: spec.ram_mb,
        vcpu_count: spec.vcpu_count,
        hostname: spec.name.clone(),
        kernel: image.kernel.clone(),
        initramfs: image.initramfs.clone(),
        disk_size_bytes: u64::from(record.disk_size_mb) << 20,
        disk_limits: node.config.vmm.disk.lowered(&spec.disk_limits),
        memory,
    };
    let (vm_dir, netns, uid) = (node.config.vm_dir(id), node.config.netns(id), node.vm_uid(record.slot));
    std::fs::create_dir_all(&vm_dir).map_err(Error::at("create", &vm_dir))?;
    let disk = node.disks.open_disk(id, uid, record.disk_size_mb)?;
    let tap = crate::net::create(&node.config, &netns, &record.network, node.uplink_for(record.slot))?;
    if machine.memory.is_some() {
        crate::net::set_link(&netns, false)?;
    }
    let vmm = &node.driver.vmm;
    // Dropped once the VMM is in them.
    let groups = node.cgroups.create(id.as_str(), vmm.limits(&machine))?;
    let mount_point = node.jail_mount_point();
    let cgroup_procs = groups.procs.clone();
    vmm.boot(machine, Place { disk, tap, netns, vm_dir, uid, cgroup_procs, mount_point })
}
