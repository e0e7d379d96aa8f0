//! Delivery of secrets to running boots: the workspace's environment and its own key, through guestio to the
//! agent. The node, which runs as root, never sees them. Deliveries are tracked in memory; after a restart
//! everything is delivered again, except keys, of which only hashes are stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::guest::DeliverSecretsRequest;
use rigbox_store::tokens::{TokenKey, WorkspaceKey};
use rigbox_store::{Error, Store};
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tracing::info;

use crate::guests::client::{GuestClient, GuestError};

/// Variable with a host name that Vite's development server accepts besides `localhost`. A leading dot stands for all names below.
/// Without it, the server refuses the requests of its own app.
const VITE_HOSTS_VARIABLE: &str = "__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS";

/// State that was delivered to a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Delivered {
    boot: String,
    /// Revision of the environment.
    revision: i64,
}

/// Key that has been generated for a boot and is not delivered yet.
struct PendingKey {
    boot: String,
    key: WorkspaceKey,
}

/// Service that delivers secrets.
#[derive(Clone)]
pub struct SecretDelivery(Arc<Inner>);

struct Inner {
    store: Store,
    token_key: TokenKey,
    guests: GuestClient,
    /// Domain for apps.
    apps_domain: String,
    pending: Mutex<HashMap<WorkspaceId, PendingKey>>,
    delivered: watch::Sender<HashMap<WorkspaceId, Delivered>>,
}

impl SecretDelivery {
    /// Creates the service of an installation whose apps are below `apps_domain`.
    pub fn new(store: Store, token_key: TokenKey, guests: GuestClient, apps_domain: &str) -> Self {
        let apps_domain = apps_domain.to_owned();
        let (pending, delivered) = (Mutex::default(), watch::channel(HashMap::new()).0);
        Self(Arc::new(Inner { store, token_key, guests, apps_domain, pending, delivered }))
    }

    /// Generates the key of a boot that has started.
    pub async fn prepare(&self, id: &WorkspaceId, boot: &str) -> Result<(), Error> {
        let key = WorkspaceKey::mint()?;
        let hash = self.0.token_key.hash(key.reveal());
        if self.0.store.set_workspace_key(id, boot, &hash).await? {
            self.pending().insert(id.clone(), PendingKey { boot: boot.to_owned(), key });
        }
        Ok(())
    }

    /// Delivers all secrets to a boot.
    pub async fn deliver(&self, id: &WorkspaceId, boot: &str) -> Result<Result<(), GuestError>, Error> {
        if self.pending_key(id, boot).is_none() && !self.0.store.has_workspace_key(id, boot).await? {
            // The process that generated the key has ended before delivering it.
            self.prepare(id, boot).await?;
        }
        let workspace_key = self.pending_key(id, boot).map_or(String::new(), |key| key.reveal().to_owned());
        // The workspace was deleted.
        let Some(environment) = self.0.store.environment(id).await? else { return Ok(Ok(())) };
        let expose = |(name, value): (_, &secrecy::SecretString)| (name, value.expose_secret().to_owned());
        // The workspace's own variables come later, so they count.
        let platform = [(VITE_HOSTS_VARIABLE.to_owned(), format!(".{}", self.0.apps_domain))];
        let own = environment.variables.iter().map(|(name, value)| expose((name.to_string(), value)));
        let env = platform.into_iter().chain(own).collect();
        let started_at = Instant::now();
        if let Err(error) = self.0.guests.deliver(id, DeliverSecretsRequest { env, workspace_key }).await {
            return Ok(Err(error));
        }
        let took_ms = u64::try_from(started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(workspace = %id, boot, revision = environment.revision, took_ms, "delivered secrets");
        let delivered = Delivered { boot: boot.to_owned(), revision: environment.revision };
        self.0.delivered.send_modify(|all| drop(all.insert(id.clone(), delivered)));
        Ok(Ok(()))
    }

    /// Removes the pending key, after the effect of its delivery is stored. From now on only the VM has it.
    pub async fn finish(&self, id: &WorkspaceId, boot: &str) -> Result<(), Error> {
        let was_minted = self.pending_key(id, boot).is_some();
        if was_minted {
            if !self.0.store.has_workspace_key(id, boot).await? {
                // The boot ran without a key before.
                self.0.store.workspace_key_delivered(id, boot).await?;
            }
            self.pending().remove(id);
        }
        Ok(())
    }

    /// Returns whether a boot has its key and this revision of its environment.
    pub fn is_delivered(&self, id: &WorkspaceId, boot: &str, revision: i64) -> bool {
        let expected = Delivered { boot: boot.to_owned(), revision };
        self.0.delivered.borrow().get(id) == Some(&expected)
    }

    /// Waits until a boot has this revision of its environment, or a later one. Returns `false` after
    /// `limit`.
    pub async fn wait_delivered(&self, id: &WorkspaceId, boot: &str, revision: i64, limit: Duration) -> bool {
        let mut delivered = self.0.delivered.subscribe();
        let arrived = delivered
            .wait_for(|all| all.get(id).is_some_and(|has| has.boot == boot && has.revision >= revision));
        matches!(tokio::time::timeout(limit, arrived).await, Ok(Ok(_)))
    }

    /// Removes the state of a deleted workspace.
    pub fn remove(&self, id: &WorkspaceId) {
        self.0.delivered.send_modify(|all| drop(all.remove(id)));
        self.pending().remove(id);
    }

    fn pending_key(&self, id: &WorkspaceId, boot: &str) -> Option<WorkspaceKey> {
        self.pending().get(id).filter(|pending| pending.boot == boot).map(|pending| pending.key.clone())
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<WorkspaceId, PendingKey>> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
