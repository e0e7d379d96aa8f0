//! Registered SSH keys in the workspaces of their users: written into `authorized_keys` once a workspace runs, and again when the user's keys
//! change. The gateway does not need them there; who reaches a workspace in another way may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::status::Status;
use rigbox_store::{Error, SshKey, Store, Workspace};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::guests::client::{Guest, GuestClient, GuestError};
use crate::transitions::{Change, WorkspaceTransitions};

/// Interval at which failed attempts are repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Service that syncs keys.
#[derive(Clone)]
pub struct SshKeySync(Arc<Inner>);

struct Inner {
    store: Store,
    guests: GuestClient,
    /// Users whose keys have changed.
    changed: Mutex<BTreeSet<UserId>>,
    woken: Notify,
}

/// Failure to sync the keys of a workspace.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The guest has failed.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The database has failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Boot with the lines that it has.
type Synced = (String, Vec<String>);

impl SshKeySync {
    /// Creates the service.
    pub fn new(store: Store, guests: GuestClient) -> Self {
        Self(Arc::new(Inner { store, guests, changed: Mutex::default(), woken: Notify::new() }))
    }

    /// Has the keys of a user's workspaces synced soon.
    pub fn keys_changed(&self, user: &UserId) {
        self.changed().insert(user.clone());
        self.0.woken.notify_one();
    }

    /// Writes the keys of its owner into a running workspace. Returns them.
    ///
    /// # Errors
    /// [`SyncError`]
    pub async fn sync(&self, workspace: &Workspace) -> Result<Vec<SshKey>, SyncError> {
        let keys = self.0.store.ssh_keys_of(&workspace.user_id).await?;
        let guest = Guest { workspace: &workspace.id, owner: &workspace.user_id };
        self.0.guests.sync_ssh_keys(guest, lines(&keys)).await?;
        Ok(keys)
    }

    /// Keeps running workspaces in sync for as long as it is polled.
    pub async fn run(&self, transitions: &WorkspaceTransitions) {
        let mut changes = transitions.subscribe();
        let mut retries = tokio::time::interval(RETRY_INTERVAL);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut due, mut failed) = (self.running(None).await, BTreeSet::new());
        let mut synced: BTreeMap<WorkspaceId, Synced> = BTreeMap::new();
        // One task for each workspace at most, so that a guest that does not answer holds up no other.
        let (mut tasks, mut busy) = (JoinSet::new(), BTreeSet::new());
        loop {
            for id in due.difference(&busy).cloned().collect::<Vec<_>>() {
                due.remove(&id);
                busy.insert(id.clone());
                tasks.spawn(self.clone().attempt(id.clone(), synced.get(&id).cloned()));
            }
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(change) => due.extend(new_boot(&change, &synced)),
                    Err(RecvError::Lagged(_)) => due.extend(self.running(None).await),
                    Err(RecvError::Closed) => return,
                },
                () = self.0.woken.notified() => {
                    let users = std::mem::take(&mut *self.changed());
                    due.extend(self.running(Some(&users)).await);
                }
                Some(Ok((id, outcome))) = tasks.join_next() => {
                    busy.remove(&id);
                    match outcome {
                        Ok(Some(now)) => drop(synced.insert(id, now)),
                        Ok(None) => drop(synced.remove(&id)),
                        Err(error) => {
                            warn!(workspace = %id, %error, "SSH keys not synced; trying again");
                            failed.insert(id);
                        }
                    }
                }
                _ = retries.tick(), if !failed.is_empty() => due.append(&mut failed),
            }
        }
    }

    /// Syncs a workspace, unless it is not running or has its keys. Returns what it has.
    async fn attempt(
        self,
        id: WorkspaceId,
        synced: Option<Synced>,
    ) -> (WorkspaceId, Result<Option<Synced>, SyncError>) {
        let attempt = async {
            let workspace = self.0.store.workspace(&id).await?;
            let Some((workspace, boot)) = workspace.as_ref().and_then(running_boot) else { return Ok(None) };
            let wanted = (boot.to_owned(), lines(&self.0.store.ssh_keys_of(&workspace.user_id).await?));
            // A new boot may have the keys of the one before on its disk, or older ones.
            if synced.as_ref() != Some(&wanted) {
                let keys = self.sync(workspace).await?;
                info!(workspace = %id, boot = wanted.0, keys = keys.len(), "synced SSH keys");
            }
            Ok(Some(wanted))
        };
        let done = attempt.await;
        (id, done)
    }

    /// Returns the workspaces that run, of some users or of all. Without the database none, until something changes.
    async fn running(&self, users: Option<&BTreeSet<UserId>>) -> BTreeSet<WorkspaceId> {
        let running = self.0.store.running_with_owners().await.unwrap_or_else(|error| {
            warn!(%error, "running workspaces are not known; their SSH keys stay as they are");
            Vec::new()
        });
        let is_theirs = |owner: &UserId| users.is_none_or(|users| users.contains(owner));
        running.into_iter().filter(|(_, owner)| is_theirs(owner)).map(|(id, _)| id).collect()
    }

    fn changed(&self) -> MutexGuard<'_, BTreeSet<UserId>> {
        self.0.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the workspace of a change, if a boot runs that has no keys yet.
fn new_boot(change: &Change, synced: &BTreeMap<WorkspaceId, Synced>) -> Option<WorkspaceId> {
    let (workspace, boot) = running_boot(change.after.as_deref()?)?;
    let has_keys = synced.get(&workspace.id).is_some_and(|(of, _)| of == boot);
    (!has_keys).then(|| workspace.id.clone())
}

fn running_boot(workspace: &Workspace) -> Option<(&Workspace, &str)> {
    let is_running = workspace.lifecycle.status == Status::Running && !workspace.lifecycle.agent_lost();
    workspace.lifecycle.boot().filter(|_| is_running).map(|boot| (workspace, boot))
}

/// Returns the lines of `authorized_keys`.
pub(crate) fn lines(keys: &[SshKey]) -> Vec<String> {
    let line = |key: &SshKey| match key.no_touch_required {
        true => format!("no-touch-required {}", key.public_key),
        false => key.public_key.clone(),
    };
    keys.iter().map(line).collect()
}
