//! Resources of a boot, created in order: folder, disk, tap, sockets, control group, and then the VMM in its jail.

use std::os::fd::OwnedFd;
use std::path::Path;

use rigbox_core::ids::WorkspaceId;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::Node;
use crate::config::{agent_socket, monitor_socket, streams_socket};
use crate::error::Error;
use crate::record::Record;
use crate::sandbox::jail::Launched;
use crate::vmm::{JailSpec, Machine, VmmFds};

const LISTEN_BACKLOG: i32 = 4;

/// Creates the resources of a VM and starts it. Leftovers of an earlier attempt are removed first.
pub(super) fn launch(node: &Node, id: &WorkspaceId, record: &Record) -> Result<Launched, Error> {
    let unknown = || Error::Launch("control has not sent the size of the VM".to_owned());
    let spec = record.spec.as_ref().ok_or_else(unknown)?;
    node.remove_boot_resources(id)?;
    let image = node.images.version(&record.image_version)?;
    let machine = Machine {
        ram_mb: spec.ram_mb,
        vcpu_count: spec.vcpu_count,
        hostname: spec.name.clone(),
        kernel: image.kernel.clone(),
        initramfs: image.initramfs.clone(),
        disk_size_bytes: u64::from(record.disk_size_mb) << 20,
        disk_limits: node.config.vmm.disk.lowered(&spec.disk_limits),
    };
    let vm_dir = node.config.vm_dir(id);
    std::fs::create_dir_all(&vm_dir).map_err(Error::at("create", &vm_dir))?;
    let fds = VmmFds {
        disk: node.disks.open_disk(id, node.vm_uid(record.slot), record.disk_size_mb)?,
        tap: crate::net::create(
            &node.config,
            &node.config.netns(id),
            &record.network,
            node.uplink_for(record.slot),
        )?,
        agent: listen_at(&agent_socket(&vm_dir))?,
        streams: listen_at(&streams_socket(&vm_dir))?,
        monitor: listen_at(&monitor_socket(&vm_dir))?,
    };
    let vmm = &node.driver.vmm;
    // Dropped once the VMM is in them.
    let groups = node.cgroups.create(id.as_str(), vmm.limits(&machine))?;
    let jail = JailSpec {
        uid: node.vm_uid(record.slot),
        cgroup_procs: groups.procs.clone(),
        mount_point: node.jail_mount_point(),
    };
    vmm.boot(&machine, fds, jail)
}

/// Creates a listening socket in the workspace's folder, which only root can enter or change.
fn listen_at(path: &Path) -> Result<OwnedFd, Error> {
    let create = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, LISTEN_BACKLOG)?;
        Ok::<_, rustix::io::Errno>(socket)
    };
    create().map_err(|errno| Error::at("listen at", path)(errno.into()))
}
