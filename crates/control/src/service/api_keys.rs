//! The account's API keys: made, listed, replaced, revoked. A secret leaves once, in the answer that made it.

use std::collections::BTreeSet;
use std::time::Duration;

use rigbox_core::authz::{InvalidRole, ListKeys, ManageKeys, Permit, Role, Scope};
use rigbox_core::ids::{InvalidId, KeyId, WorkspaceId};
use rigbox_core::time::Timestamp;
use rigbox_store::tokens::{ApiKey, TokenKey};
use rigbox_store::{AuditEvent, IdempotencyKey, KeyRecord, NewKey, NewSecret, Replay, Store};

use super::workspaces::Problem;
use crate::clock;

/// Keys of one user.
const MOST: u32 = 100;
/// Workspaces that one key may be limited to.
const MOST_WORKSPACES: usize = 100;
const MAX_NAME_LEN: usize = 64;
const LONGEST_GRACE: Duration = Duration::from_hours(7 * 24);

#[derive(Clone)]
pub(crate) struct ApiKeys {
    store: Store,
    token_key: TokenKey,
}

/// What a new key is to be.
pub(crate) struct WantedKey {
    pub(crate) name: String,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) workspaces: Option<Vec<String>>,
    pub(crate) role: Option<String>,
}

impl ApiKeys {
    pub(crate) fn new(store: Store, token_key: TokenKey) -> Self {
        Self { store, token_key }
    }

    pub(crate) async fn list(&self, permit: &Permit<ListKeys>) -> Result<Vec<KeyRecord>, Problem> {
        Ok(self.store.keys_of(&permit.principal().user).await?)
    }

    pub(crate) async fn create(
        &self,
        permit: &Permit<ManageKeys>,
        wanted: WantedKey,
        once: Option<&IdempotencyKey>,
    ) -> Result<(KeyRecord, ApiKey), Problem> {
        let now = clock::now();
        if wanted.expires_at.is_some_and(|end| end <= now) {
            return Err(Problem::InvalidValue("expires_at: this moment has passed".to_owned()));
        }
        let key = ApiKey::mint()?;
        let new = NewKey {
            name: name(wanted.name)?,
            secret: NewSecret::of(&key, &self.token_key),
            scope: scope(wanted.workspaces, wanted.role.as_deref())?,
            expires_at: wanted.expires_at,
            by_login: false,
        };
        let event = AuditEvent::by(permit.principal(), "key.create", "");
        match self.store.add_key(&permit.principal().user, &new, MOST, once, event, now).await? {
            Replay::Fresh(record) => Ok((record, key)),
            Replay::Repeated(id) => Err(Problem::ShownOnce(id)),
        }
    }

    /// Another secret for a key; the old one is good for `grace` more.
    pub(crate) async fn rotate(
        &self,
        permit: &Permit<ManageKeys>,
        id: &str,
        grace: Duration,
    ) -> Result<(KeyRecord, ApiKey), Problem> {
        if grace > LONGEST_GRACE {
            let most = LONGEST_GRACE.as_secs();
            return Err(Problem::InvalidValue(format!("grace_s: {} is more than {most}", grace.as_secs())));
        }
        let (key, id) = (ApiKey::mint()?, key_id(id)?);
        let secret = NewSecret::of(&key, &self.token_key);
        let now = clock::now();
        let (user, event) = (&permit.principal().user, AuditEvent::by(permit.principal(), "key.rotate", &id));
        let rotated = self.store.rotate_key(user, &id, &secret, now.after(grace), &event, now).await?;
        rotated.map(|record| (record, key)).ok_or_else(|| Problem::NoKey(id.to_string()))
    }

    /// Ends a key for the next request.
    pub(crate) async fn revoke(&self, permit: &Permit<ManageKeys>, id: &str) -> Result<KeyId, Problem> {
        let id = key_id(id)?;
        let event = AuditEvent::by(permit.principal(), "key.revoke", &id);
        match self.store.revoke_key(&permit.principal().user, &id, &event, clock::now()).await? {
            true => Ok(id),
            false => Err(Problem::NoKey(id.to_string())),
        }
    }
}

fn key_id(text: &str) -> Result<KeyId, Problem> {
    text.parse().map_err(|_: InvalidId| Problem::NoKey(text.chars().take(64).collect()))
}

fn name(name: String) -> Result<String, Problem> {
    let fits = (1..=MAX_NAME_LEN).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if fits {
        Ok(name)
    } else {
        Err(Problem::InvalidValue(format!("name: expected 1 to {MAX_NAME_LEN} printable characters")))
    }
}

fn scope(workspaces: Option<Vec<String>>, role: Option<&str>) -> Result<Scope, Problem> {
    let Some(workspaces) = workspaces else {
        return match role {
            None => Ok(Scope::Account),
            Some(_) => {
                let message =
                    "role: a role is for a key that is limited to some workspaces: list them in `workspaces`";
                Err(Problem::InvalidValue(message.to_owned()))
            }
        };
    };
    if !(1..=MOST_WORKSPACES).contains(&workspaces.len()) {
        let message =
            format!("workspaces: expected 1 to {MOST_WORKSPACES} ids; leave it out for the whole account");
        return Err(Problem::InvalidValue(message));
    }
    let role = role.map_or(Ok(Role::Read), str::parse);
    let role = role.map_err(|error: InvalidRole| Problem::InvalidValue(format!("role: {error}")))?;
    let ids = workspaces
        .iter()
        .map(|id| id.parse().map_err(|_: InvalidId| Problem::NotFound(id.chars().take(64).collect())));
    Ok(Scope::Workspaces { ids: ids.collect::<Result<BTreeSet<WorkspaceId>, _>>()?, role })
}
