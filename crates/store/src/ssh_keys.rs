//! SSH keys of users, by which they log in to their workspaces. A key may be registered by several users, by each of them once.

use rigbox_core::ids::{SshKeyId, UserId};
use rigbox_core::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::audit::{self, AuditEvent};
use crate::idempotency::{self, IdempotencyKey, Replay};
use crate::revocations::entry::Revocation;
use crate::sqlite::connection::Connection;
use crate::{Error, Store, parse, random, timestamp};

/// SSH key to be stored.
#[derive(Debug, Clone)]
pub struct NewSshKey {
    /// Name chosen by the owner.
    pub name: String,
    /// Line as in `authorized_keys`, without options.
    pub public_key: String,
    /// Key as SSH writes it in messages.
    pub blob: Vec<u8>,
    /// Fingerprint of the blob.
    pub fingerprint: String,
    /// True if signatures count that were made without a touch of the hardware token.
    pub no_touch_required: bool,
}

/// SSH key as shown to its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey {
    /// Id of the key.
    pub id: SshKeyId,
    /// Name chosen by the owner.
    pub name: String,
    /// Line as in `authorized_keys`, without options.
    pub public_key: String,
    /// Fingerprint, `SHA256:` and base64.
    pub fingerprint: String,
    /// True if signatures count that were made without a touch of the hardware token.
    pub no_touch_required: bool,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last log-in.
    pub last_used_at: Option<Timestamp>,
}

/// User who has registered a key, and may be disabled at any time after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKeyOwner {
    /// Id of the user.
    pub user: UserId,
    /// Id of the user's key.
    pub key: SshKeyId,
    /// Key as SSH writes it in messages.
    pub blob: Vec<u8>,
    /// True if signatures count that were made without a touch of the hardware token.
    pub no_touch_required: bool,
}

macro_rules! ssh_keys {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, public_key, fingerprint, no_touch_required, created_at, last_used_at FROM ssh_keys ",
            $rest
        )
    };
}

impl Store {
    /// Adds a key for a user who has fewer than `max` keys, and not this one. With `idempotency_key`, a repetition returns the id stored
    /// the first time. The new id and the fingerprint become the target of `event`.
    pub async fn add_ssh_key(
        &self,
        user: &UserId,
        key: &NewSshKey,
        max: u32,
        idempotency_key: Option<&IdempotencyKey>,
        event: AuditEvent,
        now: Timestamp,
    ) -> Result<Replay<SshKey>, Error> {
        let mut tx = self.begin_write().await?;
        if let Some(idempotency_key) = idempotency_key
            && let Some(id) = idempotency::stored_response(&mut tx, user, idempotency_key, now).await?
        {
            tx.commit().await?;
            return Ok(Replay::Repeated(id));
        }
        check_room(&mut tx, user, &key.fingerprint, max).await?;
        let id = insert(&mut tx, user, key, now).await?;
        if let Some(idempotency_key) = idempotency_key {
            idempotency::store_response(&mut tx, user, idempotency_key, id.as_str(), now).await?;
        }
        audit::append(&mut tx, &self.chain, &event.to(target(&id, &key.fingerprint)), now).await?;
        tx.commit().await?;
        Ok(Replay::Fresh(SshKey {
            id,
            name: key.name.clone(),
            public_key: key.public_key.clone(),
            fingerprint: key.fingerprint.clone(),
            no_touch_required: key.no_touch_required,
            created_at: now,
            last_used_at: None,
        }))
    }

    /// Returns a user's keys, oldest first.
    pub async fn ssh_keys_of(&self, user: &UserId) -> Result<Vec<SshKey>, Error> {
        let query = sqlx::query(ssh_keys!("WHERE user_id = $1 ORDER BY created_at, id"));
        query.bind(user.as_str()).fetch_all(&self.pool).await?.iter().map(record).collect()
    }

    /// Returns a user's key.
    pub async fn ssh_key(&self, user: &UserId, key: &SshKeyId) -> Result<Option<SshKey>, Error> {
        let query = sqlx::query(ssh_keys!("WHERE id = $1 AND user_id = $2"));
        let row = query.bind(key.as_str()).bind(user.as_str()).fetch_optional(&self.pool).await?;
        row.as_ref().map(record).transpose()
    }

    /// Returns the users who have registered a key with this fingerprint, without those that are disabled.
    pub async fn ssh_key_owners(&self, fingerprint: &str) -> Result<Vec<SshKeyOwner>, Error> {
        let rows = sqlx::query(
            "SELECT ssh_keys.id, ssh_keys.user_id, ssh_keys.blob, ssh_keys.no_touch_required \
             FROM ssh_keys JOIN users ON users.id = ssh_keys.user_id \
             WHERE ssh_keys.fingerprint = $1 AND users.disabled_at IS NULL ORDER BY ssh_keys.created_at, ssh_keys.id",
        )
        .bind(fingerprint)
        .fetch_all(&self.pool)
        .await?;
        let owner = |row: &SqliteRow| {
            Ok(SshKeyOwner {
                user: parse(row.try_get("user_id")?)?,
                key: parse(row.try_get("id")?)?,
                blob: row.try_get("blob")?,
                no_touch_required: row.try_get("no_touch_required")?,
            })
        };
        rows.iter().map(owner).collect()
    }

    /// Removes a user's key. Returns `false` if the user has no such key. The id and the fingerprint become the target of `event`.
    pub async fn remove_ssh_key(
        &self,
        user: &UserId,
        key: &SshKeyId,
        event: AuditEvent,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let query = "DELETE FROM ssh_keys WHERE id = $1 AND user_id = $2 RETURNING fingerprint";
        let removed: Option<String> =
            sqlx::query_scalar(query).bind(key.as_str()).bind(user.as_str()).fetch_optional(&mut *tx).await?;
        let Some(fingerprint) = removed else { return Ok(false) };
        audit::append(&mut tx, &self.chain, &event.to(target(key, &fingerprint)), now).await?;
        self.commit_revoking(tx, vec![Revocation::RemovedSshKey { key: key.to_string() }], now).await?;
        Ok(true)
    }
}

/// Returns the target of an event: what of a key is known also after its removal.
fn target(id: &SshKeyId, fingerprint: &str) -> String {
    format!("{id} {fingerprint}")
}

/// Checks that a user has not registered the key yet, and may have another one.
async fn check_room(
    connection: &mut Connection,
    user: &UserId,
    fingerprint: &str,
    max: u32,
) -> Result<(), Error> {
    let same: Option<(String, String)> =
        sqlx::query_as("SELECT id, name FROM ssh_keys WHERE user_id = $1 AND fingerprint = $2")
            .bind(user.as_str())
            .bind(fingerprint)
            .fetch_optional(&mut *connection)
            .await?;
    if let Some((id, name)) = same {
        return Err(Error::SshKeyExists { id: parse(&id)?, name });
    }
    let keys: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM ssh_keys WHERE user_id = $1")
        .bind(user.as_str())
        .fetch_one(connection)
        .await?;
    if keys >= i64::from(max) {
        let used = u64::try_from(keys).unwrap_or(0);
        return Err(Error::Quota { limit_name: "max_ssh_keys", limit: max.into(), used });
    }
    Ok(())
}

async fn insert(
    connection: &mut Connection,
    user: &UserId,
    key: &NewSshKey,
    now: Timestamp,
) -> Result<SshKeyId, Error> {
    let id = SshKeyId::from_random(random()?);
    sqlx::query(
        "INSERT INTO ssh_keys (id, user_id, name, public_key, blob, fingerprint, no_touch_required, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(id.as_str())
    .bind(user.as_str())
    .bind(&key.name)
    .bind(&key.public_key)
    .bind(&key.blob)
    .bind(&key.fingerprint)
    .bind(key.no_touch_required)
    .bind(now.unix_ms())
    .execute(connection)
    .await?;
    Ok(id)
}

fn record(row: &SqliteRow) -> Result<SshKey, Error> {
    Ok(SshKey {
        id: parse(row.try_get("id")?)?,
        name: row.try_get("name")?,
        public_key: row.try_get("public_key")?,
        fingerprint: row.try_get("fingerprint")?,
        no_touch_required: row.try_get("no_touch_required")?,
        created_at: Timestamp::from_unix_ms(row.try_get("created_at")?),
        last_used_at: timestamp(row, "last_used_at")?,
    })
}
