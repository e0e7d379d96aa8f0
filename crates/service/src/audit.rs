//! Audit log of an account, read by its owner. Entries are written by the services that act.

use rigbox_core::authz::{Permit, ReadAudit};
use rigbox_store::{AuditEntry, Store};

use crate::error::ServiceError;

/// Service for the audit log.
#[derive(Clone)]
pub struct Audit {
    store: Store,
}

impl Audit {
    /// Creates the service.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Returns entries before `before`, newest first.
    pub async fn list(
        &self,
        permit: &Permit<ReadAudit>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, ServiceError> {
        Ok(self.store.audit_of(&permit.principal().user, before, limit).await?)
    }
}
