//! Nodes: the interface of a node and its client, a node's capacity, and workspaces that only a node has.

use rigbox_core::plans::MachineCapacity;
use rigbox_proto::node::NodeDescription;

pub mod api;
pub mod capacity;
pub mod client;
mod grpc;
pub mod orphans;
pub mod report;
mod session;

/// Returns a node's capacity as the domain rules count it.
pub fn machine_capacity(description: &NodeDescription) -> MachineCapacity {
    let saturating = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    MachineCapacity {
        vcpus: description.vcpus,
        ram_mb: saturating(description.ram_mb),
        disk_total_mb: saturating(description.disk_total_mb),
    }
}
