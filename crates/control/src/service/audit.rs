//! The account's audit log, for its owner to read. It is written where things are done.

use rigbox_core::authz::{Permit, ReadAudit};
use rigbox_store::{AuditEntry, Store};

use super::workspaces::Problem;

#[derive(Clone)]
pub(crate) struct Audit {
    store: Store,
}

impl Audit {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Entries before `before`, newest first.
    pub(crate) async fn list(
        &self,
        permit: &Permit<ReadAudit>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, Problem> {
        Ok(self.store.audit_of(&permit.principal().user, before, limit).await?)
    }
}
