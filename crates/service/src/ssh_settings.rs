//! SSH settings of workspaces.

use rigbox_core::authz::{OperateWorkspace, Permit, ReadWorkspace};
use rigbox_store::{AuditEvent, Store};

use crate::error::{ServiceError, id_of};

/// Service for SSH settings.
#[derive(Clone)]
pub struct SshSettings {
    store: Store,
}

impl SshSettings {
    /// Creates the service.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Returns whether a stopped workspace is started when its owner connects.
    pub async fn start_on_connect(&self, permit: &Permit<ReadWorkspace>) -> Result<bool, ServiceError> {
        let id = id_of(permit)?;
        self.store.start_on_connect(id).await?.ok_or_else(|| ServiceError::NotFound(id.to_string()))
    }

    /// Sets whether a stopped workspace is started when its owner connects.
    pub async fn set_start_on_connect(
        &self,
        permit: &Permit<OperateWorkspace>,
        start: bool,
    ) -> Result<(), ServiceError> {
        let id = id_of(permit)?;
        let event = AuditEvent::by(permit.principal(), "workspace.start_on_connect", id);
        let is_set = self.store.set_start_on_connect(id, start, &event, self.store.now()).await?;
        if is_set { Ok(()) } else { Err(ServiceError::NotFound(id.to_string())) }
    }
}
