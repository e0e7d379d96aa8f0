//! API keys of an account: creation, listing, rotation and revocation. A secret is shown once, when it is
//! created.

use std::collections::BTreeSet;
use std::time::Duration;

use rigbox_core::authz::{InvalidRole, ListKeys, ManageKeys, Permit, Role, Scope};
use rigbox_core::ids::{InvalidId, KeyId, WorkspaceId};
use rigbox_core::time::Timestamp;
use rigbox_store::tokens::{ApiKey, TokenKey};
use rigbox_store::{AuditEvent, IdempotencyKey, KeyRecord, NewKey, NewSecret, Replay, Store};

use crate::error::ServiceError;
use crate::{clock, key_names};

/// Maximum number of keys of one user.
const MAX_KEYS: u32 = 100;
/// Maximum number of workspaces in the scope of one key.
const MAX_LISTED_WORKSPACES: usize = 100;
const MAX_GRACE_PERIOD: Duration = Duration::from_hours(7 * 24);

/// Service for API keys.
#[derive(Clone)]
pub struct ApiKeys {
    store: Store,
    token_key: TokenKey,
}

/// Specification of a new key.
pub struct NewApiKey {
    /// Name chosen by the owner.
    pub name: String,
    /// Expiry; `None` means never.
    pub expires_at: Option<Timestamp>,
    /// Workspaces that the key is limited to; `None` means the whole account.
    pub workspaces: Option<Vec<String>>,
    /// Role in these workspaces; `None` means `read`.
    pub role: Option<String>,
}

impl ApiKeys {
    /// Creates the service.
    pub fn new(store: Store, token_key: TokenKey) -> Self {
        Self { store, token_key }
    }

    /// Lists the caller's keys.
    pub async fn list(&self, permit: &Permit<ListKeys>) -> Result<Vec<KeyRecord>, ServiceError> {
        Ok(self.store.keys_of(&permit.principal().user).await?)
    }

    /// Creates a key. Returns its record and its secret.
    pub async fn create(
        &self,
        permit: &Permit<ManageKeys>,
        spec: NewApiKey,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<(KeyRecord, ApiKey), ServiceError> {
        let now = clock::now();
        if spec.expires_at.is_some_and(|end| end <= now) {
            return Err(ServiceError::InvalidValue(
                "expires_at: The time is in the past. Use a future time.".to_owned(),
            ));
        }
        let key = ApiKey::mint()?;
        let new = NewKey {
            name: key_names::checked(spec.name)?,
            secret: NewSecret::of(&key, &self.token_key),
            scope: scope(spec.workspaces, spec.role.as_deref())?,
            expires_at: spec.expires_at,
            by_login: false,
        };
        let event = AuditEvent::by(permit.principal(), "key.create", "");
        match self
            .store
            .add_key(&permit.principal().user, &new, MAX_KEYS, idempotency_key, event, now)
            .await?
        {
            Replay::Fresh(record) => Ok((record, key)),
            Replay::Repeated(id) => Err(ServiceError::SecretAlreadyShown(id)),
        }
    }

    /// Replaces the secret of a key. The previous one stays valid for `grace`.
    pub async fn rotate(
        &self,
        permit: &Permit<ManageKeys>,
        id: &str,
        grace: Duration,
    ) -> Result<(KeyRecord, ApiKey), ServiceError> {
        if grace > MAX_GRACE_PERIOD {
            let max = MAX_GRACE_PERIOD.as_secs();
            return Err(ServiceError::InvalidValue(format!(
                "grace_s: {} exceeds the maximum of {max}.",
                grace.as_secs()
            )));
        }
        let (key, id) = (ApiKey::mint()?, key_id(id)?);
        let secret = NewSecret::of(&key, &self.token_key);
        let now = clock::now();
        let (user, event) = (&permit.principal().user, AuditEvent::by(permit.principal(), "key.rotate", &id));
        let rotated = self.store.rotate_key(user, &id, &secret, now.after(grace), &event, now).await?;
        rotated.map(|record| (record, key)).ok_or_else(|| ServiceError::KeyNotFound(id.to_string()))
    }

    /// Revokes a key, effective with the next request.
    pub async fn revoke(&self, permit: &Permit<ManageKeys>, id: &str) -> Result<KeyId, ServiceError> {
        let id = key_id(id)?;
        let event = AuditEvent::by(permit.principal(), "key.revoke", &id);
        match self.store.revoke_key(&permit.principal().user, &id, &event, clock::now()).await? {
            true => Ok(id),
            false => Err(ServiceError::KeyNotFound(id.to_string())),
        }
    }
}

fn key_id(text: &str) -> Result<KeyId, ServiceError> {
    text.parse().map_err(|_: InvalidId| ServiceError::KeyNotFound(text.chars().take(64).collect()))
}

fn scope(workspaces: Option<Vec<String>>, role: Option<&str>) -> Result<Scope, ServiceError> {
    let Some(workspaces) = workspaces else {
        return match role {
            None => Ok(Scope::Account),
            Some(_) => {
                let message = "role: A role requires a list of workspaces. Add `workspaces`.";
                Err(ServiceError::InvalidValue(message.to_owned()))
            }
        };
    };
    if !(1..=MAX_LISTED_WORKSPACES).contains(&workspaces.len()) {
        let message = format!(
            "workspaces: The list is invalid. Use 1 to {MAX_LISTED_WORKSPACES} ids, or omit it for the whole account."
        );
        return Err(ServiceError::InvalidValue(message));
    }
    let role = role.map_or(Ok(Role::Read), str::parse);
    let role = role.map_err(|error: InvalidRole| ServiceError::InvalidValue(format!("role: {error}")))?;
    let ids = workspaces
        .iter()
        .map(|id| id.parse().map_err(|_: InvalidId| ServiceError::NotAnId(id.chars().take(64).collect())));
    Ok(Scope::Workspaces { ids: ids.collect::<Result<BTreeSet<WorkspaceId>, _>>()?, role })
}
