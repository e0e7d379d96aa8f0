//! Readiness of this process.

use rigbox_store::Store;
use tokio::sync::watch;

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
}
