//! What running boots have been given: the workspace's environment and its own key, over guestio straight to the agent. The node, which
//! is root, never sees them. This remembers what was delivered since this process began; after a restart everything is delivered once
//! more, except keys, of which only hashes are kept.

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

/// What a boot has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Delivered {
    boot: String,
    /// Of the environment.
    revision: i64,
}

/// A key that was pending for a boot and is on its way there.
struct PendingKey {
    boot: String,
    key: WorkspaceKey,
}

#[derive(Clone)]
pub struct SecretDelivery(Arc<Parts>);

struct Parts {
    store: Store,
    token_key: TokenKey,
    guests: GuestClient,
    pending: Mutex<HashMap<WorkspaceId, PendingKey>>,
    delivered: watch::Sender<HashMap<WorkspaceId, Delivered>>,
}

impl SecretDelivery {
    pub fn new(store: Store, token_key: TokenKey, guests: GuestClient) -> Self {
        let (pending, delivered) = (Mutex::default(), watch::channel(HashMap::new()).0);
        Self(Arc::new(Parts { store, token_key, guests, pending, delivered }))
    }

    /// Mints the key of a boot that has begun.
    pub async fn prepare(&self, id: &WorkspaceId, boot: &str) -> Result<(), Error> {
        let key = WorkspaceKey::mint()?;
        let hash = self.0.token_key.hash(key.reveal());
        if self.0.store.set_workspace_key(id, boot, &hash).await? {
            self.pending().insert(id.clone(), PendingKey { boot: boot.to_owned(), key });
        }
        Ok(())
    }

    /// Hands a boot all that it is to have.
    pub async fn deliver(&self, id: &WorkspaceId, boot: &str) -> Result<Result<(), GuestError>, Error> {
        if self.pending_key(id, boot).is_none() && !self.0.store.has_workspace_key(id, boot).await? {
            // The process that pending it has ended.
            self.prepare(id, boot).await?;
        }
        let workspace_key = self.pending_key(id, boot).map_or(String::new(), |key| key.reveal().to_owned());
        // A workspace that is gone needs nothing.
        let Some(environment) = self.0.store.environment(id).await? else { return Ok(Ok(())) };
        let expose = |(name, value): (_, &secrecy::SecretString)| (name, value.expose_secret().to_owned());
        let env =
            environment.variables.iter().map(|(name, value)| expose((name.to_string(), value))).collect();
        let began = Instant::now();
        if let Err(error) = self.0.guests.deliver(id, DeliverSecretsRequest { env, workspace_key }).await {
            return Ok(Err(error));
        }
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(workspace = %id, boot, revision = environment.revision, took_ms, "secrets delivered");
        let delivered = Delivered { boot: boot.to_owned(), revision: environment.revision };
        self.0.delivered.send_modify(|all| drop(all.insert(id.clone(), delivered)));
        Ok(Ok(()))
    }

    /// After the delivery's effect is stored: the key is known to the VM alone.
    pub async fn finish(&self, id: &WorkspaceId, boot: &str) -> Result<(), Error> {
        let was_minted = self.pending_key(id, boot).is_some();
        if was_minted {
            if !self.0.store.has_workspace_key(id, boot).await? {
                // It ran before it had one.
                self.0.store.workspace_key_delivered(id, boot).await?;
            }
            self.pending().remove(id);
        }
        Ok(())
    }

    /// Whether a boot has its key and this revision of its environment.
    pub fn is_delivered(&self, id: &WorkspaceId, boot: &str, revision: i64) -> bool {
        let wanted = Delivered { boot: boot.to_owned(), revision };
        self.0.delivered.borrow().get(id) == Some(&wanted)
    }

    /// Waits until a boot has this revision of its environment, or a later one; `false` when it has not within `limit`.
    pub async fn wait_delivered(&self, id: &WorkspaceId, boot: &str, revision: i64, limit: Duration) -> bool {
        let mut delivered = self.0.delivered.subscribe();
        let there = delivered
            .wait_for(|all| all.get(id).is_some_and(|has| has.boot == boot && has.revision >= revision));
        matches!(tokio::time::timeout(limit, there).await, Ok(Ok(_)))
    }

    /// A workspace is gone.
    pub fn forget(&self, id: &WorkspaceId) {
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
