//! Limits of VMs by the plans and overrides of their owners, and which of them the node has been told. An owner's limits also change by other
//! processes (`rigboxd admin`).

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    told: Arc<Mutex<Told>>,
}

/// Limits of which the node has been told.
#[derive(Default)]
struct Told {
    /// Epoch of grants up to which changes have been found.
    epoch: Option<i64>,
    networks: BTreeMap<WorkspaceId, NetworkLimits>,
}

impl OwnerLimits {
    /// Creates the service.
    pub fn new(store: Store, plans: Plans) -> Self {
        Self { store, plans, told: Arc::default() }
    }

    /// Returns the limits of a VM's network, to be sent to the node.
    pub(crate) fn of_network(&self, id: &WorkspaceId) -> Result<NetworkLimits, Error> {
        // Locked before it is read, so that an older number is not remembered in place of a newer one.
        let mut told = self.told();
        let limits = of_network(&self.of(id)?);
        told.networks.insert(id.clone(), limits);
        Ok(limits)
    }

    /// Returns the limits of a VM's disk, for a boot.
    pub(crate) fn of_disk(&self, id: &WorkspaceId) -> Result<DiskLimits, Error> {
        let VmLimits { disk_mb_per_s, disk_iops, .. } = self.of(id)?;
        Ok(DiskLimits { mb_per_s: disk_mb_per_s.map(MbPerS::get), iops: disk_iops.map(NonZeroU32::get) })
    }

    /// Returns the workspaces that run with limits of which the node has not been told. Whatever changes a user advances the epoch of grants.
    pub(crate) async fn changed(&self) -> Result<Vec<WorkspaceId>, Error> {
        let epoch = self.store.grants_epoch()?;
        let found = self.told().epoch;
        if found == Some(epoch) {
            return Ok(Vec::new());
        }
        let running: BTreeMap<_, _> = self
            .store
            .running_owner_limits()
            .await?
            .into_iter()
            .map(|(id, plan, user)| (id, of_network(&self.plans.entitlements(plan, user).vm_limits())))
            .collect();
        let mut told = self.told();
        told.epoch = Some(epoch);
        told.networks.retain(|id, _| running.contains_key(id));
        // What ran before this process is pushed once the node has reported it.
        if found.is_none() {
            return Ok(Vec::new());
        }
        let is_told = |(id, limits): &(&WorkspaceId, &NetworkLimits)| told.networks.get(*id) == Some(*limits);
        Ok(running.iter().filter(|entry| !is_told(entry)).map(|(id, _)| id.clone()).collect())
    }

    fn of(&self, id: &WorkspaceId) -> Result<VmLimits, Error> {
        let owner = self.store.owner_limits(id)?;
        Ok(owner.map(|(plan, user)| self.plans.entitlements(plan, user).vm_limits()).unwrap_or_default())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
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
