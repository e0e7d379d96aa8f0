//! Limits of VMs by the plans and overrides of their owners.

use std::num::{NonZeroU16, NonZeroU32};

use rigbox_core::ids::WorkspaceId;
use rigbox_core::plans::Plans;
use rigbox_core::vm_limits::{MbPerS, VmLimits};
use rigbox_proto::node::{DiskLimits, NetworkLimits};
use rigbox_store::{Error, Store};

/// Limits of workspaces' VMs.
#[derive(Clone)]
pub struct OwnerLimits {
    store: Store,
    plans: Plans,
}

impl OwnerLimits {
    /// Creates the service.
    pub fn new(store: Store, plans: Plans) -> Self {
        Self { store, plans }
    }

    /// Returns the limits of a VM's network, to be sent to the node.
    pub(crate) fn of_network(&self, id: &WorkspaceId) -> Result<NetworkLimits, Error> {
        Ok(of_network(&self.of(id)?))
    }

    /// Returns the limits of a VM's disk, for a boot.
    pub(crate) fn of_disk(&self, id: &WorkspaceId) -> Result<DiskLimits, Error> {
        let VmLimits { disk_mb_per_s, disk_iops, .. } = self.of(id)?;
        Ok(DiskLimits { mb_per_s: disk_mb_per_s.map(MbPerS::get), iops: disk_iops.map(NonZeroU32::get) })
    }

    fn of(&self, id: &WorkspaceId) -> Result<VmLimits, Error> {
        let owner = self.store.owner_limits(id)?;
        Ok(owner.map(|(plan, user)| self.plans.entitlements(plan, user).vm_limits()).unwrap_or_default())
    }
}

fn of_network(limits: &VmLimits) -> NetworkLimits {
    let narrow = |number: NonZeroU16| u32::from(number.get());
    NetworkLimits {
        connections: limits.connections.map(NonZeroU32::get),
        new_connections_per_s: limits.new_connections_per_s.map(NonZeroU32::get),
        bandwidth_mb_per_s: limits.bandwidth_mb_per_s.map(MbPerS::get),
        bridge_connections: limits.bridge_connections.map(narrow),
        dns_queries: limits.dns_queries.map(narrow),
        dns_queries_per_s: limits.dns_queries_per_s.map(NonZeroU32::get),
    }
}
