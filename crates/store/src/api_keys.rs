//! API keys: stored as keyed hashes only, each with what it opens and until when.

use std::collections::BTreeSet;

use rigbox_core::ids::{KeyId, UserId, WorkspaceId};
use rigbox_core::permit::{Credential, Principal, Role, Scope};
use rigbox_core::time::Moment;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::audit::{self, Act};
use crate::idempotency::{self, Once, Replay};
use crate::secret::{ApiKey, TokenHash, TokenKey};
use crate::{Error, Store, moment, parsed, random, user_limits};

/// A secret about to be stored: nothing in it opens anything.
#[derive(Debug, Clone)]
pub struct NewSecret {
    hash: TokenHash,
    preview: String,
}

impl NewSecret {
    /// The record of `key`.
    pub fn of(key: &ApiKey, token_key: &TokenKey) -> Self {
        Self { hash: token_key.hash(key.reveal()), preview: key.preview() }
    }
}

/// A key about to be stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// For its owner's eyes.
    pub name: String,
    /// What it is told by.
    pub secret: NewSecret,
    /// What it opens.
    pub scope: Scope,
    /// When it ends; never when none.
    pub expires_at: Option<Moment>,
    /// Whether `rig login` made it: then `rig logout` ends it.
    pub by_login: bool,
}

impl NewKey {
    /// A key to the whole account, for ever.
    pub fn of(key: &ApiKey, name: &str, token_key: &TokenKey) -> Self {
        let secret = NewSecret::of(key, token_key);
        Self { name: name.to_owned(), secret, scope: Scope::Account, expires_at: None, by_login: false }
    }
}

/// A key as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Which one.
    pub id: KeyId,
    /// As its owner named it.
    pub name: String,
    /// The first characters of its secret.
    pub preview: String,
    /// What it opens.
    pub scope: Scope,
    /// Since when it is there.
    pub created_at: Moment,
    /// When it ends.
    pub expires_at: Option<Moment>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<Moment>,
    /// Until when the secret before the last rotation is good.
    pub old_secret_until: Option<Moment>,
}

/// The holder of a key that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who, and how much of the account.
    pub principal: Principal,
    /// When the key was used last.
    pub last_used_at: Option<Moment>,
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
    /// Whose key this is, if it is good at this moment, and until when it is, if it ends by itself.
    pub(crate) async fn read_holder(
        &self,
        hash: &TokenHash,
        now: Moment,
    ) -> Result<Option<(Holder, Option<Moment>)>, Error> {
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
        let key: KeyId = parsed(row.try_get("id")?)?;
        let scope = scope(&mut connection, &key, row.try_get("role")?).await?;
        let (user, plan) = (parsed(row.try_get("user_id")?)?, parsed(row.try_get("plan")?)?);
        let limits = user_limits::read(row.try_get("limits")?)?;
        let holder = Holder {
            principal: Principal { user, plan, limits, credential: Credential::Key(key), scope, from: None },
            last_used_at: moment(&row, "last_used_at")?,
        };
        let ends = [moment(&row, "expires_at")?, moment(&row, "replaced_at")?];
        Ok(Some((holder, ends.into_iter().flatten().min())))
    }

    /// Notes that a key was used.
    pub async fn key_used(&self, key: &KeyId, now: Moment) -> Result<(), Error> {
        sqlx::query("UPDATE api_keys SET last_used_at = $1 WHERE id = $2")
            .bind(now.unix_ms())
            .bind(key.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Adds a key for a user who has fewer than `most`; with `once`, only if that was not done before (the answer kept is the id: the
    /// secret is kept nowhere). `act` gets the new id as its target.
    pub async fn add_key(
        &self,
        user: &UserId,
        key: &NewKey,
        most: u32,
        once: Option<&Once>,
        act: Act,
        now: Moment,
    ) -> Result<Replay<KeyRecord>, Error> {
        let mut tx = self.write().await?;
        if let Some(once) = once
            && let Some(id) = idempotency::recall(&mut tx, user, once, now).await?
        {
            tx.commit().await?;
            return Ok(Replay::Before(id));
        }
        let keys: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM api_keys WHERE user_id = $1")
            .bind(user.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if keys >= i64::from(most) {
            return Err(Error::Quota { limit_name: "max_api_keys", limit: most.into() });
        }
        let id = insert(&mut tx, user, key, now).await?;
        if let Some(once) = once {
            idempotency::remember(&mut tx, user, once, id.as_str(), now).await?;
        }
        audit::append(&mut tx, &self.chain, &act.to(&id), now).await?;
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

    /// A user's keys, oldest first.
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

    /// Gives a user's key another secret; the one before is good until `old_until`, the one before that no more. `None`: the user has
    /// no such key.
    pub async fn rotate_key(
        &self,
        user: &UserId,
        key: &KeyId,
        secret: &NewSecret,
        old_until: Moment,
        act: &Act,
        now: Moment,
    ) -> Result<Option<KeyRecord>, Error> {
        let mut tx = self.write().await?;
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
        let rotated = match &row {
            Some(row) => {
                audit::append(&mut tx, &self.chain, act, now).await?;
                Some(record(&mut tx, row).await?)
            }
            None => None,
        };
        tx.commit().await?;
        Ok(rotated)
    }

    /// Ends a key if `rig login` made it; `false`: it did not.
    pub async fn end_login_key(&self, key: &KeyId, act: &Act, now: Moment) -> Result<bool, Error> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM api_keys WHERE id = $1 AND by_login")
            .bind(key.as_str())
            .execute(&mut *tx)
            .await?;
        let ended = done.rows_affected() == 1;
        if ended {
            audit::append(&mut tx, &self.chain, act, now).await?;
        }
        tx.commit().await?;
        Ok(ended)
    }

    /// Ends a user's key; `false`: the user has no such key.
    pub async fn revoke_key(
        &self,
        user: &UserId,
        key: &KeyId,
        act: &Act,
        now: Moment,
    ) -> Result<bool, Error> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM api_keys WHERE id = $1 AND user_id = $2")
            .bind(key.as_str())
            .bind(user.as_str())
            .execute(&mut *tx)
            .await?;
        let revoked = done.rows_affected() == 1;
        if revoked {
            audit::append(&mut tx, &self.chain, act, now).await?;
        }
        tx.commit().await?;
        Ok(revoked)
    }
}

pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    user: &UserId,
    key: &NewKey,
    now: Moment,
) -> Result<KeyId, Error> {
    let id = KeyId::from_random(random()?);
    let role = match &key.scope {
        Scope::Account => None,
        Scope::Within(id) => return Err(Error::Damaged(format!("an API key cannot be {id}'s own"))),
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
    .bind(key.expires_at.map(Moment::unix_ms))
    .bind(role)
    .bind(key.by_login)
    .execute(&mut *connection)
    .await?;
    if let Scope::Workspaces { ids, .. } = &key.scope {
        for workspace in ids {
            // Only what is the user's own, checked where it is written.
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

async fn scope(connection: &mut SqliteConnection, key: &KeyId, role: Option<&str>) -> Result<Scope, Error> {
    let Some(role) = role else { return Ok(Scope::Account) };
    let role: Role = parsed(role)?;
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT workspace_id FROM api_key_workspaces WHERE key_id = $1")
            .bind(key.as_str())
            .fetch_all(connection)
            .await?;
    let ids = ids.iter().map(|id| parsed(id)).collect::<Result<BTreeSet<WorkspaceId>, Error>>()?;
    Ok(Scope::Workspaces { ids, role })
}

async fn record(connection: &mut SqliteConnection, row: &SqliteRow) -> Result<KeyRecord, Error> {
    let id: KeyId = parsed(row.try_get("id")?)?;
    let scope = scope(connection, &id, row.try_get("role")?).await?;
    Ok(KeyRecord {
        id,
        name: row.try_get("name")?,
        preview: row.try_get("preview")?,
        scope,
        created_at: Moment::from_unix_ms(row.try_get("created_at")?),
        expires_at: moment(row, "expires_at")?,
        last_used_at: moment(row, "last_used_at")?,
        old_secret_until: moment(row, "old_hash_until")?,
    })
}
