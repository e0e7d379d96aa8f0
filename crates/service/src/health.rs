//! Whether this process can do its work.

use rigbox_store::Store;
use tokio::sync::watch;

pub struct Health {
    store: Store,
    synced: watch::Receiver<bool>,
}

impl Health {
    pub fn new(store: Store, synced: watch::Receiver<bool>) -> Self {
        Self { store, synced }
    }

    /// What keeps it from working, if anything does.
    pub async fn obstacle(&self) -> Option<&'static str> {
        if self.store.ping().await.is_err() {
            return Some("the database does not answer");
        }
        (!*self.synced.borrow()).then_some("the node does not answer")
    }
}
