//! Settings of the node, and the names and paths that it derives from them. All of them contain the installation's id or lie in its
//! folders, so two installations on one machine never collide, and a restarted node finds its resources again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rigbox_core::egress::BlockedNetworks;
use rigbox_core::ids::WorkspaceId;
#[cfg(test)]
use rigbox_core::vm_limits::DiskLimits;
use rigbox_core::vm_limits::NetworkLimits;

use crate::vmm::config::VmmConfig;

/// Settings of the node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Installation id: 8 characters of a hash of its state folder.
    pub installation: String,
    /// The node's part of the state folder.
    pub state_dir: PathBuf,
    /// The node's part of the run folder (root only).
    pub run_dir: PathBuf,
    /// Socket of the gRPC service for control.
    pub control_socket: PathBuf,
    /// Socket of the gRPC service for guestio.
    pub guestio_socket: PathBuf,
    /// Socket on which guestio requests descriptors.
    pub fd_socket: PathBuf,
    /// Socket on which `edge` requests connections to VMs.
    pub dial_socket: PathBuf,
    /// Socket on which `ssh` requests connections to VMs.
    pub ssh_dial_socket: PathBuf,
    /// Socket of the role that serves connections of VMs to their bridge.
    pub bridge_socket: PathBuf,
    /// The only uid that may use `control_socket`.
    pub control_uid: u32,
    /// The only uid that may use `guestio_socket` and `fd_socket`.
    pub guestio_uid: u32,
    /// The only uid that may use `dial_socket`.
    pub edge_uid: u32,
    /// The only uid that may use `ssh_dial_socket`.
    pub ssh_uid: u32,
    /// DNS resolvers that guestio may ask.
    pub resolvers: Vec<IpAddr>,
    /// First of the uids that VMMs run as.
    pub vm_uid_base: u32,
    /// Number of these uids, and thereby the maximum number of workspaces on this node.
    pub vm_uid_count: u32,
    /// Cache folder of built images.
    pub image_cache: PathBuf,
    /// Folder with the static binaries `init` (the agent) and `rig` for use in the VM.
    pub guest_dir: PathBuf,
    /// Settings of the VMM drivers.
    pub vmm: VmmConfig,
    /// Connection of VMs to the outside.
    pub uplink: UplinkMode,
    /// Limits of VMs' networks.
    pub network: NetworkConfig,
    /// Share of a disk's size that is reserved for it, 0.0 to 1.0.
    pub disk_reserve: f64,
    /// Boots at once; more wait in a queue.
    pub max_concurrent_boots: NonZeroUsize,
    /// Time from the VMM's start to the agent's hello.
    pub boot_timeout: Duration,
}

/// Connection of VMs to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkMode {
    /// A veth pair into the host's network, which masquerades them.
    Veth,
    /// None.
    None,
}

/// Limits of VMs' networks, which protect their neighbors, and what is around the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Networks that no VM reaches.
    pub blocked: BlockedNetworks,
    /// First and last uid of VMMs, which may send nothing themselves. `None` in tests that have no VMM.
    pub vmm_uids: Option<(u32, u32)>,
    /// Limits of a VM, where its policy has no lower ones.
    pub limits: NetworkLimits,
    /// Outward connections of all VMs at once. By default half of what the host's connection table holds.
    pub total_connections: Option<u32>,
}

impl Config {
    /// Returns a slot for another VM. Slot 0 belongs to the KVM probe.
    pub(crate) fn free_slot(&self, used: &BTreeSet<u32>) -> Option<u32> {
        (1..self.vm_uid_count).find(|slot| !used.contains(slot))
    }

    /// Returns settings without meaning, for tests that need a few of them.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let path = || PathBuf::from("/nonexistent");
        Self {
            installation: "tests".to_owned(),
            state_dir: path(),
            run_dir: path(),
            control_socket: path(),
            guestio_socket: path(),
            fd_socket: path(),
            dial_socket: path(),
            ssh_dial_socket: path(),
            bridge_socket: path(),
            control_uid: 1,
            guestio_uid: 2,
            edge_uid: 3,
            ssh_uid: 4,
            resolvers: Vec::new(),
            vm_uid_base: 16,
            vm_uid_count: 16,
            image_cache: path(),
            guest_dir: path(),
            vmm: VmmConfig {
                qemu: path(),
                firecracker: None,
                allow_emulation: true,
                kvm_probe_timeout: Duration::from_secs(1),
                disk: DiskLimits::default(),
            },
            uplink: UplinkMode::None,
            network: NetworkConfig::default(),
            disk_reserve: 1.0,
            max_concurrent_boots: NonZeroUsize::MIN,
            boot_timeout: Duration::from_secs(1),
        }
    }

    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.state_dir.join("journal")
    }

    pub(crate) fn vms_dir(&self) -> PathBuf {
        self.run_dir.join("vms")
    }

    /// Returns the folder of a workspace's sockets.
    pub(crate) fn vm_dir(&self, workspace: &WorkspaceId) -> PathBuf {
        self.vms_dir().join(workspace.as_str())
    }

    pub(crate) fn netns_dir(&self) -> PathBuf {
        self.run_dir.join("netns")
    }

    /// Returns the path at which a workspace's network namespace is mounted.
    pub(crate) fn netns(&self, workspace: &WorkspaceId) -> PathBuf {
        self.netns_dir().join(workspace.as_str())
    }

    /// Returns the file with the places of the parent control group. They end with this boot of the host, as the folder does.
    pub(crate) fn cgroup_record(&self) -> PathBuf {
        self.run_dir.join("cgroups")
    }

    /// Returns the name of the parent control group of this installation's VMs.
    pub(crate) fn cgroup(&self) -> String {
        format!("rigbox-{}", self.installation)
    }
}

/// Returns the socket of the agent's stream in a VM's folder.
pub(crate) fn agent_socket(vm_dir: &Path) -> PathBuf {
    vm_dir.join("agent.sock")
}

/// Returns the socket of the agent's second stream, for commands and files, in a VM's folder.
pub(crate) fn streams_socket(vm_dir: &Path) -> PathBuf {
    vm_dir.join("streams.sock")
}

/// Returns the socket of the VMM's own protocol in a VM's folder.
pub(crate) fn monitor_socket(vm_dir: &Path) -> PathBuf {
    vm_dir.join("monitor.sock")
}

/// Returns the file of Firecracker's configuration in a VM's folder.
pub(crate) fn firecracker_configuration(vm_dir: &Path) -> PathBuf {
    vm_dir.join("configuration.json")
}

/// Returns the named pipe of Firecracker's log in a VM's folder.
pub(crate) fn firecracker_log(vm_dir: &Path) -> PathBuf {
    vm_dir.join("log")
}

/// Returns the named pipe of Firecracker's metrics in a VM's folder.
pub(crate) fn firecracker_metrics(vm_dir: &Path) -> PathBuf {
    vm_dir.join("metrics")
}
