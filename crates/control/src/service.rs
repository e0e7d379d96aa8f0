//! What the platform does, one file per noun. A function that changes something takes the permit for it.

pub(crate) mod api_keys;
pub(crate) mod app_services;
pub(crate) mod apps;
pub(crate) mod audit;
pub(crate) mod devices;
pub(crate) mod environment;
pub(crate) mod guests;
pub(crate) mod health;
pub(crate) mod machine;
pub(crate) mod networks;
pub(crate) mod quick_deploy;
pub(crate) mod sign_in;
pub(crate) mod users;
pub(crate) mod visitors;
pub(crate) mod workspace_logs;
pub(crate) mod workspaces;

use rigbox_core::plans::MachineCapacity;
use rigbox_proto::node::NodeDescription;

/// What the node has, as the rules count it.
fn machine_of(description: &NodeDescription) -> MachineCapacity {
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    MachineCapacity {
        vcpus: description.vcpus,
        ram_mb: small(description.ram_mb),
        disk_total_mb: small(description.disk_total_mb),
    }
}
