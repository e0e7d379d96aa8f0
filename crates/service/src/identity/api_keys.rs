//! The account's API keys: made, listed, replaced, revoked. A secret leaves idempotency_key, in the answer that made it.

use std::collections::BTreeSet;
use std::time::Duration;

use rigbox_core::authz::{InvalidRole, ListKeys, ManageKeys, Permit, Role, Scope};
use rigbox_core::ids::{InvalidId, KeyId, WorkspaceId};
use rigbox_core::time::Timestamp;
use rigbox_store::tokens::{ApiKey, TokenKey};
use rigbox_store::{AuditEvent, IdempotencyKey, KeyRecord, NewKey, NewSecret, Replay, Store};

use crate::clock;
use crate::error::ServiceError;

/// Keys of one user.
const MAX_KEYS: u32 = 100;
/// Workspaces that one key may be limited to.
const MAX_LISTED_WORKSPACES: usize = 100;
const MAX_NAME_LEN: usize = 64;
const MAX_GRACE_PERIOD: Duration = Duration::from_hours(7 * 24);

#[derive(Clone)]
pub struct ApiKeys {
    store: Store,
    token_key: TokenKey,
}

/// What a new key is to be.
pub struct NewApiKey {
    pub name: String,
    pub expires_at: Option<Timestamp>,
    pub workspaces: Option<Vec<String>>,
    pub role: Option<String>,
}

impl ApiKeys {
    pub fn new(store: Store, token_key: TokenKey) -> Self {
        Self { store, token_key }
    }

    pub async fn list(&self, permit: &Permit<ListKeys>) -> Result<Vec<KeyRecord>, ServiceError> {
        Ok(self.store.keys_of(&permit.principal().user).await?)
    }

    pub async fn create(
        &self,
        permit: &Permit<ManageKeys>,
        wanted: NewApiKey,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<(KeyRecord, ApiKey), ServiceError> {
        let now = clock::now();
        if wanted.expires_at.is_some_and(|end| end <= now) {
            return Err(ServiceError::InvalidValue("expires_at: this moment has passed".to_owned()));
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
        match self
            .store
            .add_key(&permit.principal().user, &new, MAX_KEYS, idempotency_key, event, now)
            .await?
        {
            Replay::Fresh(record) => Ok((record, key)),
            Replay::Repeated(id) => Err(ServiceError::ShownOnce(id)),
        }
    }

    /// Another secret for a key; the old one is good for `grace` more.
    pub async fn rotate(
        &self,
        permit: &Permit<ManageKeys>,
        id: &str,
        grace: Duration,
    ) -> Result<(KeyRecord, ApiKey), ServiceError> {
        if grace > MAX_GRACE_PERIOD {
            let max = MAX_GRACE_PERIOD.as_secs();
            return Err(ServiceError::InvalidValue(format!(
                "grace_s: {} is more than {max}",
                grace.as_secs()
            )));
        }
        let (key, id) = (ApiKey::mint()?, key_id(id)?);
        let secret = NewSecret::of(&key, &self.token_key);
        let now = clock::now();
        let (user, event) = (&permit.principal().user, AuditEvent::by(permit.principal(), "key.rotate", &id));
        let rotated = self.store.rotate_key(user, &id, &secret, now.after(grace), &event, now).await?;
        rotated.map(|record| (record, key)).ok_or_else(|| ServiceError::NoKey(id.to_string()))
    }

    /// Ends a key for the next request.
    pub async fn revoke(&self, permit: &Permit<ManageKeys>, id: &str) -> Result<KeyId, ServiceError> {
        let id = key_id(id)?;
        let event = AuditEvent::by(permit.principal(), "key.revoke", &id);
        match self.store.revoke_key(&permit.principal().user, &id, &event, clock::now()).await? {
            true => Ok(id),
            false => Err(ServiceError::NoKey(id.to_string())),
        }
    }
}

fn key_id(text: &str) -> Result<KeyId, ServiceError> {
    text.parse().map_err(|_: InvalidId| ServiceError::NoKey(text.chars().take(64).collect()))
}

fn name(name: String) -> Result<String, ServiceError> {
    let fits = (1..=MAX_NAME_LEN).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if fits {
        Ok(name)
    } else {
        Err(ServiceError::InvalidValue(format!("name: expected 1 to {MAX_NAME_LEN} printable characters")))
    }
}

fn scope(workspaces: Option<Vec<String>>, role: Option<&str>) -> Result<Scope, ServiceError> {
    let Some(workspaces) = workspaces else {
        return match role {
            None => Ok(Scope::Account),
            Some(_) => {
                let message =
                    "role: a role is for a key that is limited to some workspaces: list them in `workspaces`";
                Err(ServiceError::InvalidValue(message.to_owned()))
            }
        };
    };
    if !(1..=MAX_LISTED_WORKSPACES).contains(&workspaces.len()) {
        let message = format!(
            "workspaces: expected 1 to {MAX_LISTED_WORKSPACES} ids; leave it out for the whole account"
        );
        return Err(ServiceError::InvalidValue(message));
    }
    let role = role.map_or(Ok(Role::Read), str::parse);
    let role = role.map_err(|error: InvalidRole| ServiceError::InvalidValue(format!("role: {error}")))?;
    let ids = workspaces
        .iter()
        .map(|id| id.parse().map_err(|_: InvalidId| ServiceError::NotFound(id.chars().take(64).collect())));
    Ok(Scope::Workspaces { ids: ids.collect::<Result<BTreeSet<WorkspaceId>, _>>()?, role })
}
