//! Readiness of this process, and health of what lies beside its database.

use rigbox_core::authz::{Diagnose, Permit};
use rigbox_store::{RevocationLogHealth, Store};
use tokio::sync::watch;

use crate::error::ServiceError;

/// Readiness check.
pub struct Health {
    store: Store,
    synced: watch::Receiver<bool>,
}

impl Health {
    /// Creates the check.
    pub fn new(store: Store, synced: watch::Receiver<bool>) -> Self {
        Self { store, synced }
    }

    /// Returns the problem that keeps the process from working, if there is one.
    pub async fn problem(&self) -> Option<&'static str> {
        if self.store.ping().await.is_err() {
            return Some("The database does not answer.");
        }
        (!*self.synced.borrow()).then_some("The node does not answer.")
    }

    /// Compares the log of revocations with the database.
    pub async fn revocation_log(&self, _: &Permit<Diagnose>) -> Result<RevocationLogHealth, ServiceError> {
        Ok(self.store.revocation_log_health().await?)
    }
}
