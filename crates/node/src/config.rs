//! What the node is told about its installation, and every name that it derives from that. All names carry the installation's id or
//! lie in its folders, so two installations on one machine never meet, and a node that was restarted finds what it made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;

/// Settings of the node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The installation: 8 characters of a hash of its state folder.
    pub installation: String,
    /// This node's part of the state folder.
    pub state_dir: PathBuf,
    /// This node's part of the run folder (root only).
    pub run_dir: PathBuf,
    /// Where control calls.
    pub node_socket: PathBuf,
    /// Where guestio calls.
    pub attend_socket: PathBuf,
    /// Where guestio asks for descriptors.
    pub fd_socket: PathBuf,
    /// Where `edge` asks for connections to VMs.
    pub dial_socket: PathBuf,
    /// Where connections that VMs make to their bridge are brought.
    pub bridge_socket: PathBuf,
    /// The only uid that may use `node_socket`.
    pub control_uid: u32,
    /// The only uid that may use `attend_socket` and `fd_socket`.
    pub guestio_uid: u32,
    /// The only uid that may use `dial_socket`.
    pub edge_uid: u32,
    /// First of the uids that VMMs run as.
    pub vm_uid_base: u32,
    /// How many there are: also the most workspaces this node can have.
    pub vm_uid_count: u32,
    /// Cache folder of built images.
    pub image_cache: PathBuf,
    /// Folder with the static binaries `init` (the agent) and `rig` for use in the VM.
    pub guest_dir: PathBuf,
    /// QEMU for this machine's architecture.
    pub qemu: PathBuf,
    /// How VMs reach the outside.
    pub uplink: UplinkMode,
    /// How much of a disk's size is set aside for it, 0.0 to 1.0.
    pub disk_reserve: f64,
    /// From the VMM's start to the agent's hello.
    pub boot_timeout: Duration,
}

/// How VMs reach the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkMode {
    /// By a veth pair into the host's own network, which masquerades them.
    Veth,
    /// Not at all.
    None,
}

impl Config {
    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.state_dir.join("journal")
    }

    pub(crate) fn vms_dir(&self) -> PathBuf {
        self.run_dir.join("vms")
    }

    /// The workspace's folder of sockets.
    pub(crate) fn vm_dir(&self, workspace: &WorkspaceId) -> PathBuf {
        self.vms_dir().join(workspace.as_str())
    }

    pub(crate) fn netns_dir(&self) -> PathBuf {
        self.run_dir.join("netns")
    }

    /// Where the workspace's network namespace is kept.
    pub(crate) fn netns(&self, workspace: &WorkspaceId) -> PathBuf {
        self.netns_dir().join(workspace.as_str())
    }

    /// Name of the control groups of this installation's VMs.
    pub(crate) fn cgroup(&self) -> String {
        format!("rigbox-{}", self.installation)
    }
}

/// Socket of the agent's stream in a VM's folder.
pub(crate) fn agent_socket(vm_dir: &Path) -> PathBuf {
    vm_dir.join("agent.sock")
}

/// Socket of QMP in a VM's folder.
pub(crate) fn qmp_socket(vm_dir: &Path) -> PathBuf {
    vm_dir.join("qmp.sock")
}
