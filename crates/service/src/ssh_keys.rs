//! SSH keys of users: registration, listing and removal. They open the user's own workspaces, by the SSH gateway.

use rigbox_core::authz::{ListSshKeys, ManageSshKeys, Permit, ReadAuthorizedKeys, SyncAuthorizedKeys};
use rigbox_core::ids::{InvalidId, SshKeyId};
use rigbox_core::plans::Plans;
pub use rigbox_ssh_keys::public_key::MAX_KEY_LINE_LEN;
use rigbox_ssh_keys::public_key::PublicKey;
use rigbox_store::{AuditEvent, IdempotencyKey, NewSshKey, Replay, SshKey, Store};

use crate::error::ServiceError;
use crate::ssh_key_sync::{self, SshKeySync};
use crate::{clock, key_names};

/// Maximum number of keys of one user, whatever the plan: all of them, also the longest, fit into one message to an agent.
const MAX_SSH_KEYS: u32 = 64;

/// Service for SSH keys.
#[derive(Clone)]
pub struct SshKeys {
    store: Store,
    plans: Plans,
    sync: SshKeySync,
}

/// Key that may log in to a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizedKey {
    /// Fingerprint, `SHA256:` and base64.
    pub fingerprint: String,
    /// Type, as SSH names it.
    pub key_type: String,
    /// Comment of the key; may be empty.
    pub comment: String,
}

impl SshKeys {
    /// Creates the service.
    pub fn new(store: Store, plans: Plans, sync: SshKeySync) -> Self {
        Self { store, plans, sync }
    }

    /// Lists the caller's keys.
    pub async fn list(&self, permit: &Permit<ListSshKeys>) -> Result<Vec<SshKey>, ServiceError> {
        Ok(self.store.ssh_keys_of(&permit.principal().user).await?)
    }

    /// Registers a key, which is one line as in `authorized_keys`.
    pub async fn add(
        &self,
        permit: &Permit<ManageSshKeys>,
        name: String,
        public_key: &str,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<SshKey, ServiceError> {
        let caller = permit.principal();
        let name = key_names::checked(name)?;
        let key = PublicKey::parse(public_key)?;
        let new = NewSshKey {
            name,
            public_key: key.line(),
            blob: key.blob().to_vec(),
            fingerprint: key.fingerprint(),
            no_touch_required: key.no_touch_required(),
        };
        let max = self.plans.entitlements(caller.plan, caller.limits).max_ssh_keys().min(MAX_SSH_KEYS);
        let event = AuditEvent::by(caller, "ssh_key.add", "");
        match self.store.add_ssh_key(&caller.user, &new, max, idempotency_key, event, clock::now()).await? {
            Replay::Fresh(added) => {
                self.sync.keys_changed(&caller.user);
                Ok(added)
            }
            Replay::Repeated(id) => {
                let known = self.store.ssh_key(&caller.user, &key_id(&id)?).await?;
                known.ok_or(ServiceError::SshKeyNotFound(id))
            }
        }
    }

    /// Removes a key. It opens no log-in any more, and what is open by it ends.
    pub async fn remove(&self, permit: &Permit<ManageSshKeys>, id: &str) -> Result<SshKeyId, ServiceError> {
        let id = key_id(id)?;
        let event = AuditEvent::by(permit.principal(), "ssh_key.remove", &id);
        match self.store.remove_ssh_key(&permit.principal().user, &id, event, clock::now()).await? {
            true => {
                self.sync.keys_changed(&permit.principal().user);
                Ok(id)
            }
            false => Err(ServiceError::SshKeyNotFound(id.to_string())),
        }
    }

    /// Lists the keys that log in to the permit's workspace: those of its owner.
    pub async fn of_workspace(
        &self,
        permit: &Permit<ReadAuthorizedKeys>,
    ) -> Result<Vec<AuthorizedKey>, ServiceError> {
        let keys = self.store.ssh_keys_of(&permit.principal().user).await?;
        Ok(keys.into_iter().map(authorized).collect())
    }

    /// Returns the lines of `authorized_keys` for the permit's workspace, and what is in them.
    pub async fn to_sync(
        &self,
        permit: &Permit<SyncAuthorizedKeys>,
    ) -> Result<(Vec<String>, Vec<AuthorizedKey>), ServiceError> {
        let keys = self.store.ssh_keys_of(&permit.principal().user).await?;
        Ok((ssh_key_sync::lines(&keys), keys.into_iter().map(authorized).collect()))
    }
}

/// Returns the parts of a key's line.
fn authorized(key: SshKey) -> AuthorizedKey {
    let mut parts = key.public_key.splitn(3, ' ');
    let key_type = parts.next().unwrap_or_default().to_owned();
    let comment = parts.nth(1).unwrap_or_default().to_owned();
    AuthorizedKey { fingerprint: key.fingerprint, key_type, comment }
}

fn key_id(text: &str) -> Result<SshKeyId, ServiceError> {
    text.parse().map_err(|_: InvalidId| ServiceError::SshKeyNotFound(text.chars().take(64).collect()))
}
