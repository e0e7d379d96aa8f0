//! What a boot needs, made in its order: folder, disk, tap, sockets, control group, and then the VMM in its jail.

use std::os::fd::OwnedFd;
use std::path::Path;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::StartRequest;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::config::{agent_socket, qmp_socket};
use crate::error::Error;
use crate::jail;
use crate::journal::Record;
use crate::node::Node;
use crate::vmm::{Machine, Room, Wires};

/// Makes everything that the VM needs, and the VM. What an earlier try left is removed first.
pub(crate) fn launch(
    node: &Node,
    id: &WorkspaceId,
    record: &Record,
    request: &StartRequest,
) -> Result<jail::Launched, Error> {
    node.tear_down(id)?;
    let image = node.images.version(&record.image_version)?;
    let machine = Machine {
        ram_mb: request.ram_mb,
        vcpu_count: request.vcpu_count,
        hostname: request.name.clone(),
        kernel: image.kernel.clone(),
        initramfs: image.initramfs.clone(),
        disk_size_bytes: u64::from(record.disk_size_mb) << 20,
    };
    let vm_dir = node.config.vm_dir(id);
    std::fs::create_dir_all(&vm_dir).map_err(Error::at("cannot be made", &vm_dir))?;
    let wires = Wires {
        disk: node.disks.open_disk(id)?,
        tap: crate::net::create(&node.config.netns(id), &record.network, node.way_out(record.slot))?,
        agent: listening(&agent_socket(&vm_dir))?,
        monitor: listening(&qmp_socket(&vm_dir))?,
    };
    let room = Room {
        uid: node.vm_uid(record.slot),
        cgroup_procs: node.cgroups.create(id.as_str(), node.vmm.limits(&machine))?,
        mount_point: node.jail_mount_point(),
    };
    node.vmm.boot(&machine, wires, room)
}

/// A listening socket in the workspace's folder, which only root can enter or change.
fn listening(path: &Path) -> Result<OwnedFd, Error> {
    let listen_at = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, 4)?;
        Ok::<_, rustix::io::Errno>(socket)
    };
    listen_at().map_err(|errno| Error::at("cannot listen", path)(errno.into()))
}
