//! The account's audit log, for its owner to read. It is written where things are done.

use rigbox_core::authz::{Permit, ReadAudit};
use rigbox_store::{AuditEntry, Store};

use crate::error::ServiceError;

#[derive(Clone)]
pub struct Audit {
    store: Store,
}

impl Audit {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Entries before `before`, newest first.
    pub async fn list(
        &self,
        permit: &Permit<ReadAudit>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, ServiceError> {
        Ok(self.store.audit_of(&permit.principal().user, before, limit).await?)
    }
}
