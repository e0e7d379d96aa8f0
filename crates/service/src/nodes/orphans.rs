//! Workspaces that a node has and the database does not: their list, and what one becomes when it is adopted.

use rigbox_core::authz::{Diagnose, Permit};
use rigbox_core::ids::UserId;
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::names::WorkspaceName;
use rigbox_core::resources::{ResourceError, Resources};
use rigbox_core::templates::Template;
use rigbox_core::time::Timestamp;
use rigbox_store::{EnvironmentNames, Orphan, Store, Workspace};

use crate::error::ServiceError;

/// Service for orphans.
#[derive(Clone)]
pub struct Orphans {
    store: Store,
}

impl Orphans {
    /// Creates the service.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Returns all orphans, longest known first.
    pub async fn list(&self, _: &Permit<Diagnose>) -> Result<Vec<Orphan>, ServiceError> {
        Ok(self.store.orphans().await?)
    }
}

/// Returns the workspace that an orphan becomes: stopped, of this owner, with the disk that it has. Memory and CPUs are the template's,
/// because the node does not know them.
pub fn adopted(
    orphan: &Orphan,
    owner: UserId,
    name: WorkspaceName,
    template: &Template,
    now: Timestamp,
) -> Result<Workspace, ResourceError> {
    Ok(Workspace {
        id: orphan.id.clone(),
        user_id: owner,
        node_id: orphan.node_id.clone(),
        name,
        template_id: template.id.to_owned(),
        image: template.image.to_owned(),
        resources: Resources::new(template.ram_mb, template.vcpu_count, orphan.disk_size_mb)?,
        revision: 1,
        // The request that stopped it has the next generation, and may not be reported yet.
        lifecycle: Lifecycle::adopted(orphan.generation.saturating_add(1), now),
        environment: EnvironmentNames::default(),
        created_at: now,
        updated_at: now,
    })
}
