//! API keys: stored only as keyed hashes, each with its scope and expiry.

use std::collections::BTreeSet;

use rigbox_core::authz::{Credential, Principal, Role, Scope};
use rigbox_core::ids::{KeyId, UserId, WorkspaceId};
use rigbox_core::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::audit::{self, AuditEvent};
use crate::idempotency::{self, IdempotencyKey, Replay};
use crate::revocations::entry::Revocation;
use crate::sqlite::connection::Connection;
use crate::tokens::{ApiKey, TokenHash, TokenKey};
use crate::{Error, Store, parse, random, timestamp, user_limits};

/// Secret to be stored, as hash and preview. It grants nothing by itself.
#[derive(Debug, Clone)]
pub struct NewSecret {
    hash: TokenHash,
    preview: String,
}

impl NewSecret {
    /// Returns the record of `key`.
    pub fn of(key: &ApiKey, token_key: &TokenKey) -> Self {
        Self { hash: token_key.hash(key.reveal()), preview: key.preview() }
    }
}

/// API key to be stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Name chosen by the owner.
    pub name: String,
    /// Hash and preview of the secret.
    pub secret: NewSecret,
    /// Part of the account that the key opens.
    pub scope: Scope,
    /// Expiry; `None` means never.
    pub expires_at: Option<Timestamp>,
    /// True if `rig login` created the key, so that `rig logout` revokes it.
    pub by_login: bool,
}

impl NewKey {
    /// Creates a key for the whole account that does not expire.
    pub fn of(key: &ApiKey, name: &str, token_key: &TokenKey) -> Self {
        let secret = NewSecret::of(key, token_key);
        Self { name: name.to_owned(), secret, scope: Scope::Account, expires_at: None, by_login: false }
    }
}

/// API key as shown to its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Id of the key.
    pub id: KeyId,
    /// Name chosen by the owner.
    pub name: String,
    /// First characters of the secret.
    pub preview: String,
    /// Part of the account that the key opens.
    pub scope: Scope,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Expiry.
    pub expires_at: Option<Timestamp>,
    /// Time of the last use, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// End of the grace period of the previous secret.
    pub old_secret_until: Option<Timestamp>,
}

/// Holder of a valid key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHolder {
    /// The user and the key's scope.
    pub principal: Principal,
    /// Time of the last use.
    pub last_used_at: Option<Timestamp>,
}

macro_rules! keys {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, preview, role, created_at, expires_at, last_used_at, old_hash_until FROM api_keys ",
            $rest
        )
    };
}

impl Store {
    /// Reads the holder of a key that is valid at `now`, and the time until which it is valid, if it expires.
    pub(crate) async fn read_holder(
        &self,
        hash: &TokenHash,
        now: Timestamp,
    ) -> Result<Option<(KeyHolder, Option<Timestamp>)>, Error> {
        let row = sqlx::query(
            "SELECT api_keys.id, api_keys.role, api_keys.last_used_at, api_keys.expires_at, \
             CASE WHEN api_keys.hash = $1 THEN NULL ELSE api_keys.old_hash_until END AS replaced_at, \
             users.id AS user_id, users.plan, users.limits \
             FROM api_keys JOIN users ON users.id = api_keys.user_id \
             WHERE (api_keys.hash = $1 OR (api_keys.old_hash = $1 AND api_keys.old_hash_until > $2)) \
             AND (api_keys.expires_at IS NULL OR api_keys.expires_at > $2) AND users.disabled_at IS NULL",
        )
        .bind(hash.as_str())
        .bind(now.unix_ms())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut connection = self.pool.acquire().await?;
        let key: KeyId = parse(row.try_get("id")?)?;
        let scope = scope(&mut connection, &key, row.try_get("role")?).await?;
        let (user, plan) = (parse(row.try_get("user_id")?)?, parse(row.try_get("plan")?)?);
        let limits = user_limits::read(row.try_get("limits")?)?;
        let holder = KeyHolder {
            principal: Principal { user, plan, limits, credential: Credential::Key(key), scope, from: None },
            last_used_at: timestamp(&row, "last_used_at")?,
        };
        let ends = [timestamp(&row, "expires_at")?, timestamp(&row, "replaced_at")?];
        Ok(Some((holder, ends.into_iter().flatten().min())))
    }

    /// Records that a key was used.
    pub async fn key_used(&self, key: &KeyId, now: Timestamp) -> Result<(), Error> {
        sqlx::query("UPDATE api_keys SET last_used_at = $1 WHERE id = $2")
            .bind(now.unix_ms())
            .bind(key.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Adds a key for a user who has fewer than `max` keys. With `idempotency_key`, a repetition returns the
    /// id stored the first time (the secret is not stored). The new id becomes the target of `event`.
    pub async fn add_key(
        &self,
        user: &UserId,
        key: &NewKey,
        max: u32,
        idempotency_key: Option<&IdempotencyKey>,
        event: AuditEvent,
        now: Timestamp,
    ) -> Result<Replay<KeyRecord>, Error> {
        let mut tx = self.begin_write().await?;
        if let Some(idempotency_key) = idempotency_key
            && let Some(id) = idempotency::stored_response(&mut tx, user, idempotency_key, now).await?
        {
            tx.commit().await?;
            return Ok(Replay::Repeated(id));
        }
        let keys: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM api_keys WHERE user_id = $1")
            .bind(user.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if keys >= i64::from(max) {
            let used = u64::try_from(keys).unwrap_or(0);
            return Err(Error::Quota { limit_name: "max_api_keys", limit: max.into(), used });
        }
        let id = insert(&mut tx, user, key, now).await?;
        if let Some(idempotency_key) = idempotency_key {
            idempotency::store_response(&mut tx, user, idempotency_key, id.as_str(), now).await?;
        }
        audit::append(&mut tx, &self.chain, &event.to(&id), now).await?;
        tx.commit().await?;
        Ok(Replay::Fresh(KeyRecord {
            id,
            name: key.name.clone(),
            preview: key.secret.preview.clone(),
            scope: key.scope.clone(),
            created_at: now,
            expires_at: key.expires_at,
            last_used_at: None,
            old_secret_until: None,
        }))
    }

    /// Returns a user's keys, oldest first.
    pub async fn keys_of(&self, user: &UserId) -> Result<Vec<KeyRecord>, Error> {
        let rows = sqlx::query(keys!("WHERE user_id = $1 ORDER BY created_at, id"))
            .bind(user.as_str())
            .fetch_all(&self.pool)
            .await?;
        let mut connection = self.pool.acquire().await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            keys.push(record(&mut connection, row).await?);
        }
        Ok(keys)
    }

    /// Returns the name of a user's key.
    pub async fn key_name(&self, user: &UserId, key: &KeyId) -> Result<Option<String>, Error> {
        Ok(sqlx::query_scalar("SELECT name FROM api_keys WHERE id = $1 AND user_id = $2")
            .bind(key.as_str())
            .bind(user.as_str())
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Replaces the secret of a user's key. The previous secret stays valid until `old_until`, the one before
    /// it is revoked. Returns `None` if the user has no such key.
    pub async fn rotate_key(
        &self,
        user: &UserId,
        key: &KeyId,
        secret: &NewSecret,
        old_until: Timestamp,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<Option<KeyRecord>, Error> {
        let mut tx = self.begin_write().await?;
        sqlx::query(
            "UPDATE api_keys SET old_hash = hash, old_hash_until = $1, hash = $2, preview = $3 \
             WHERE id = $4 AND user_id = $5",
        )
        .bind(old_until.unix_ms())
        .bind(secret.hash.as_str())
        .bind(&secret.preview)
        .bind(key.as_str())
        .bind(user.as_str())
        .execute(&mut *tx)
        .await?;
        let row = sqlx::query(keys!("WHERE id = $1 AND user_id = $2"))
            .bind(key.as_str())
            .bind(user.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else { return Ok(None) };
        audit::append(&mut tx, &self.chain, event, now).await?;
        let rotated = record(&mut tx, &row).await?;
        let query = "SELECT old_hash FROM api_keys WHERE id = $1";
        let change = Revocation::RotatedKey {
            key: key.to_string(),
            hash: secret.hash.as_str().to_owned(),
            preview: secret.preview.clone(),
            old_hash: sqlx::query_scalar(query).bind(key.as_str()).fetch_one(&mut *tx).await?,
            old_hash_until: old_until.unix_ms(),
        };
        self.commit_revoking(tx, vec![change], now).await?;
        Ok(Some(rotated))
    }

    /// Revokes a key that `rig login` created. Returns `false` if it did not.
    pub async fn end_login_key(
        &self,
        key: &KeyId,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let done = sqlx::query("DELETE FROM api_keys WHERE id = $1 AND by_login")
            .bind(key.as_str())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        audit::append(&mut tx, &self.chain, event, now).await?;
        self.commit_revoking(tx, vec![Revocation::RevokedKey { key: key.to_string() }], now).await?;
        Ok(true)
    }

    /// Revokes a user's key. Returns `false` if the user has no such key.
    pub async fn revoke_key(
        &self,
        user: &UserId,
        key: &KeyId,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let done = sqlx::query("DELETE FROM api_keys WHERE id = $1 AND user_id = $2")
            .bind(key.as_str())
            .bind(user.as_str())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        audit::append(&mut tx, &self.chain, event, now).await?;
        self.commit_revoking(tx, vec![Revocation::RevokedKey { key: key.to_string() }], now).await?;
        Ok(true)
    }
}

pub(crate) async fn insert(
    connection: &mut Connection,
    user: &UserId,
    key: &NewKey,
    now: Timestamp,
) -> Result<KeyId, Error> {
    let id = KeyId::from_random(random()?);
    let role = match &key.scope {
        Scope::Account => None,
        Scope::OwnWorkspace(id) => {
            return Err(Error::Damaged(format!("an API key cannot have the scope of {id} itself")));
        }
        Scope::Workspaces { role, .. } => Some(role.as_str()),
    };
    sqlx::query(
        "INSERT INTO api_keys (id, user_id, name, hash, preview, created_at, expires_at, role, by_login) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(id.as_str())
    .bind(user.as_str())
    .bind(&key.name)
    .bind(key.secret.hash.as_str())
    .bind(&key.secret.preview)
    .bind(now.unix_ms())
    .bind(key.expires_at.map(Timestamp::unix_ms))
    .bind(role)
    .bind(key.by_login)
    .execute(&mut *connection)
    .await?;
    if let Scope::Workspaces { ids, .. } = &key.scope {
        for workspace in ids {
            // Only the user's own workspaces, checked in the statement that writes.
            let done = sqlx::query(
                "INSERT INTO api_key_workspaces (key_id, workspace_id) \
                 SELECT $1, id FROM workspaces WHERE id = $2 AND user_id = $3",
            )
            .bind(id.as_str())
            .bind(workspace.as_str())
            .bind(user.as_str())
            .execute(&mut *connection)
            .await?;
            if done.rows_affected() != 1 {
                return Err(Error::NoWorkspace(workspace.clone()));
            }
        }
    }
    Ok(id)
}

async fn scope(connection: &mut Connection, key: &KeyId, role: Option<&str>) -> Result<Scope, Error> {
    let Some(role) = role else { return Ok(Scope::Account) };
    let role: Role = parse(role)?;
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT workspace_id FROM api_key_workspaces WHERE key_id = $1")
            .bind(key.as_str())
            .fetch_all(connection)
            .await?;
    let ids = ids.iter().map(|id| parse(id)).collect::<Result<BTreeSet<WorkspaceId>, Error>>()?;
    Ok(Scope::Workspaces { ids, role })
}

async fn record(connection: &mut Connection, row: &SqliteRow) -> Result<KeyRecord, Error> {
    let id: KeyId = parse(row.try_get("id")?)?;
    let scope = scope(connection, &id, row.try_get("role")?).await?;
    Ok(KeyRecord {
        id,
        name: row.try_get("name")?,
        preview: row.try_get("preview")?,
        scope,
        created_at: Timestamp::from_unix_ms(row.try_get("created_at")?),
        expires_at: timestamp(row, "expires_at")?,
        last_used_at: timestamp(row, "last_used_at")?,
        old_secret_until: timestamp(row, "old_hash_until")?,
    })
}
