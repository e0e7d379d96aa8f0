//! Targets: everything that a node is told of a workspace, built in one place from what is wanted.

use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Desired, Target};
use rigbox_proto::node::egress::Mode;
use rigbox_proto::node::{Desired as WireDesired, Egress as WireEgress, NetworkPolicy, SetTargetRequest};
use rigbox_store::{Error, Store, Workspace};

use crate::vm_limits::OwnerLimits;

/// Time for a guest to shut down in order.
const GRACE_PERIOD_MS: u32 = 30_000;

/// Builder of targets.
#[derive(Clone)]
pub struct Targets {
    store: Store,
    limits: OwnerLimits,
    api_url: String,
}

impl Targets {
    /// Creates the builder of an installation whose API is at `api_url`.
    pub fn new(store: Store, limits: OwnerLimits, api_url: String) -> Self {
        Self { store, limits, api_url }
    }

    /// Returns the whole target of a workspace. `None` if it was removed meanwhile.
    pub async fn request(&self, workspace: &Workspace) -> Result<Option<SetTargetRequest>, Error> {
        let id = &workspace.id;
        // The revision first: a change that comes between has a later one, which follows.
        let Some(revisions) = self.store.network_revisions(id)? else { return Ok(None) };
        Ok(Some(SetTargetRequest {
            create: !workspace.lifecycle.has_disk,
            image: workspace.image.clone(),
            disk_size_mb: workspace.resources.disk_size_mb(),
            ram_mb: workspace.resources.ram_mb(),
            vcpu_count: workspace.resources.vcpu_count(),
            name: workspace.name.to_string(),
            metadata_json: self.metadata(workspace).await?,
            owner: workspace.user_id.to_string(),
            network: Some(self.policy(id)?),
            network_revision: revisions.wanted,
            disk: Some(self.limits.of_disk(id)?),
            ..without_details(id, workspace.lifecycle.wanted)
        }))
    }

    /// Returns the network policy that the node is to enforce.
    fn policy(&self, id: &WorkspaceId) -> Result<NetworkPolicy, Error> {
        let without_list = |mode: Mode| WireEgress { mode: mode.into(), ..WireEgress::default() };
        let egress = match self.store.network(id)?.unwrap_or_default().egress {
            Egress::Internet => without_list(Mode::Internet),
            Egress::List { domains, cidrs, allow_ech } => {
                let (domains, cidrs) = (to_strings(domains), to_strings(cidrs));
                WireEgress { mode: Mode::List.into(), domains, cidrs, allow_ech }
            }
            Egress::None => without_list(Mode::None),
        };
        let app_ports = self.store.app_ports(id)?.into_iter().map(u32::from).collect();
        let limits = Some(self.limits.of_network(id)?);
        Ok(NetworkPolicy { app_ports, egress: Some(egress), limits })
    }

    /// Returns the metadata that the VM may read about itself.
    async fn metadata(&self, workspace: &Workspace) -> Result<String, Error> {
        let owner = self.store.user(&workspace.user_id).await?;
        let metadata = serde_json::json!({
            "id": workspace.id.as_str(),
            "name": workspace.name.as_str(),
            "owner_email": owner.map(|owner| owner.email),
            "api_url": self.api_url,
        });
        Ok(metadata.to_string())
    }
}

/// Returns the target of a workspace that nothing else is known of. It creates nothing, and the network policy stays as it is.
pub fn without_details(id: &WorkspaceId, target: Target) -> SetTargetRequest {
    let desired = match target.state {
        Desired::Stopped => WireDesired::Stopped,
        Desired::Running => WireDesired::Running,
        Desired::Deleted => WireDesired::Deleted,
    };
    SetTargetRequest {
        workspace_id: id.to_string(),
        generation: target.generation,
        desired: desired.into(),
        grace_ms: GRACE_PERIOD_MS,
        ..SetTargetRequest::default()
    }
}

fn to_strings<T: Into<String>>(entries: Vec<T>) -> Vec<String> {
    entries.into_iter().map(Into::into).collect()
}
