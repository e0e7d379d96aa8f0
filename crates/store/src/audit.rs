//! Audit log: written in the transaction of the audited change, never modified, and chained by keyed hashes
//! so that tampering shows. (A truncated log is consistent up to its end; only a copy elsewhere would reveal
//! that.) Its beginning is deleted after a while; a sealed record says where it starts.

use rigbox_core::authz::{Credential, Principal};
use rigbox_core::ids::{SshKeyId, UserId};
use rigbox_core::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::sqlite::connection::Connection;
use crate::tokens::TokenKey;
use crate::{Error, Store, parse};

/// Audited event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    user: UserId,
    credential: Option<Credential>,
    /// Address of the client, or the workspace that called by its bridge.
    address: Option<String>,
    action: String,
    target: String,
}

impl AuditEvent {
    /// Returns the event of `principal` performing `action` on `target`, e.g. `workspace.start` on
    /// `ws-aaaaaaaa`.
    pub fn by(principal: &Principal, action: impl Into<String>, target: impl ToString) -> Self {
        Self {
            user: principal.user.clone(),
            credential: Some(principal.credential.clone()),
            address: origin(principal),
            action: action.into(),
            target: target.to_string(),
        }
    }

    /// Returns the event of the operator changing a user's account on the host.
    pub fn by_operator(user: &UserId, action: &str, target: impl ToString) -> Self {
        let (action, target) = (action.to_owned(), target.to_string());
        Self { user: user.clone(), credential: None, address: None, action, target }
    }

    /// Returns the event of a user who has logged in with this key, which may be gone.
    pub(crate) fn by_ssh_key(
        user: UserId,
        key: SshKeyId,
        address: Option<String>,
        action: &str,
        target: String,
    ) -> Self {
        Self { user, credential: Some(Credential::SshKey(key)), address, action: action.to_owned(), target }
    }

    /// Returns the event with the address of a caller without a credential.
    pub(crate) fn with_address(self, address: String) -> Self {
        Self { address: Some(address), ..self }
    }

    /// Returns the event with another target, for one whose id was not known before.
    #[must_use]
    pub fn to(self, target: impl ToString) -> Self {
        Self { target: target.to_string(), ..self }
    }
}

/// Returns where a principal calls from. A workspace on its bridge has no address but its own id.
fn origin(principal: &Principal) -> Option<String> {
    match (principal.from, &principal.credential) {
        (Some(address), _) => Some(address.to_string()),
        (None, Credential::Workspace(id)) => Some(id.to_string()),
        (None, Credential::Key(_) | Credential::Session(_) | Credential::SshKey(_)) => None,
    }
}

/// Entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Position in the log, from 1.
    pub seq: i64,
    /// Time of the event.
    pub at: Timestamp,
    /// Account concerned.
    pub user: UserId,
    /// Id of the key or session; `None` for changes made on the host.
    pub key: Option<String>,
    /// Client address.
    pub address: Option<String>,
    /// Action.
    pub action: String,
    /// Target of the action.
    pub target: String,
}

/// Key of the hash chain. A copy of the database alone does not suffice to forge entries.
#[derive(Clone)]
pub(crate) struct ChainKey([u8; 32]);

impl std::fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChainKey(..)")
    }
}

impl ChainKey {
    pub(crate) fn of(token_key: &TokenKey) -> Self {
        Self(token_key.derive("Rigbox audit chain, version 1"))
    }

    /// Returns the hash of an entry that follows one with the hash `before`.
    fn hash(&self, before: &str, entry: &AuditEntry) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let (seq, at) = (entry.seq.to_string(), entry.at.unix_ms().to_string());
        // A missing value differs from an empty text.
        let optional =
            |text: &Option<String>| text.as_ref().map_or("-".to_owned(), |text| format!("={text}"));
        let (key, address) = (optional(&entry.key), optional(&entry.address));
        let parts = [before, &seq, &at, entry.user.as_str(), &key, &address, &entry.action, &entry.target];
        for part in parts {
            // Each part is preceded by its length, so that no two entries encode alike.
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Returns the seal of a deletion up to an entry with this position and hash.
    fn seal(&self, seq: i64, hash: &str) -> String {
        let text = format!("deleted up to {seq} {hash}");
        blake3::keyed_hash(&self.0, text.as_bytes()).to_hex().to_string()
    }
}

/// Returns position and hash of the last deleted entry, and the seal of both.
async fn deleted_up_to(connection: &mut Connection) -> Result<Option<(i64, String, String)>, Error> {
    let row = sqlx::query("SELECT seq, hash, seal FROM audit_start").fetch_optional(connection).await?;
    row.map(|row| Ok((row.try_get("seq")?, row.try_get("hash")?, row.try_get("seal")?))).transpose()
}

/// Appends an event. The transaction is a writing one, so appends are serialized.
pub(crate) async fn append(
    connection: &mut Connection,
    chain: &ChainKey,
    event: &AuditEvent,
    now: Timestamp,
) -> Result<(), Error> {
    let last = sqlx::query("SELECT seq, hash FROM audit_log ORDER BY seq DESC LIMIT 1")
        .fetch_optional(&mut *connection)
        .await?;
    let (last, before): (i64, String) = match last {
        Some(row) => (row.try_get("seq")?, row.try_get("hash")?),
        None => deleted_up_to(connection).await?.map(|(seq, hash, _)| (seq, hash)).unwrap_or_default(),
    };
    let entry = AuditEntry {
        seq: last + 1,
        at: now,
        user: event.user.clone(),
        key: event.credential.as_ref().map(ToString::to_string),
        address: event.address.clone(),
        action: event.action.clone(),
        target: event.target.clone(),
    };
    sqlx::query(
        "INSERT INTO audit_log (seq, at, user_id, key_id, address, action, target, hash) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(entry.seq)
    .bind(entry.at.unix_ms())
    .bind(entry.user.as_str())
    .bind(&entry.key)
    .bind(&entry.address)
    .bind(&entry.action)
    .bind(&entry.target)
    .bind(chain.hash(&before, &entry))
    .execute(connection)
    .await?;
    Ok(())
}

/// Number of entries read at once by the verification.
const PAGE_SIZE: i64 = 1_000;

impl Store {
    /// Returns a user's entries before position `before`, newest first.
    pub async fn audit_of(
        &self,
        user: &UserId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, Error> {
        let rows = sqlx::query(
            "SELECT seq, at, user_id, key_id, address, action, target, hash FROM audit_log \
             WHERE user_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3",
        )
        .bind(user.as_str())
        .bind(before.unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(entry).collect()
    }

    /// Appends events with their times.
    pub async fn add_audit_events(&self, events: &[(AuditEvent, Timestamp)]) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin_write().await?;
        for (event, at) in events {
            append(&mut tx, &self.chain, event, *at).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Deletes the beginning of the log with entries from before `before`, at most `max` of them. Returns their number.
    pub async fn delete_audit_before(&self, before: Timestamp, max: u32) -> Result<u64, Error> {
        let mut tx = self.begin_write().await?;
        let rows = sqlx::query("SELECT seq, at, hash FROM audit_log ORDER BY seq LIMIT $1")
            .bind(i64::from(max))
            .fetch_all(&mut *tx)
            .await?;
        let mut end = None;
        for row in &rows {
            if row.try_get::<i64, _>("at")? >= before.unix_ms() {
                break;
            }
            end = Some((row.try_get::<i64, _>("seq")?, row.try_get::<String, _>("hash")?));
        }
        let Some((seq, hash)) = end else { return Ok(0) };
        sqlx::query("DELETE FROM audit_start").execute(&mut *tx).await?;
        sqlx::query("INSERT INTO audit_start (seq, hash, seal) VALUES ($1, $2, $3)")
            .bind(seq)
            .bind(&hash)
            .bind(self.chain.seal(seq, &hash))
            .execute(&mut *tx)
            .await?;
        let done = sqlx::query("DELETE FROM audit_log WHERE seq <= $1").bind(seq).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// Verifies the whole chain. Returns the number of entries, or the position of the first invalid one.
    pub async fn verify_audit(&self) -> Result<Result<u64, i64>, Error> {
        let start = deleted_up_to(&mut self.pool.acquire().await?).await?;
        if let Some((seq, hash, seal)) = &start
            && self.chain.seal(*seq, hash) != *seal
        {
            return Ok(Err(*seq));
        }
        let (first, mut before) = start.map(|(seq, hash, _)| (seq, hash)).unwrap_or_default();
        let mut last = first;
        loop {
            let rows = sqlx::query(
                "SELECT seq, at, user_id, key_id, address, action, target, hash FROM audit_log \
                 WHERE seq > $1 ORDER BY seq LIMIT $2",
            )
            .bind(last)
            .bind(PAGE_SIZE)
            .fetch_all(&self.pool)
            .await?;
            if rows.is_empty() {
                return Ok(Ok(u64::try_from(last - first).unwrap_or(0)));
            }
            for row in &rows {
                let seq = row.try_get("seq")?;
                let hash: String = row.try_get("hash")?;
                // A row that does not parse was not written by this program.
                let fits = entry(row).is_ok_and(|entry| self.chain.hash(&before, &entry) == hash);
                if seq != last + 1 || !fits {
                    return Ok(Err(seq));
                }
                (last, before) = (seq, hash);
            }
        }
    }

    /// Records the address a key is used from. The first use from an address is an audit event.
    pub async fn key_used_from(&self, principal: &Principal, now: Timestamp) -> Result<(), Error> {
        let (Some(address), Credential::Key(key)) = (principal.from, &principal.credential) else {
            return Ok(());
        };
        let mut tx = self.begin_write().await?;
        let done = sqlx::query(
            "INSERT INTO api_key_addresses (key_id, address) SELECT id, $1 FROM api_keys WHERE id = $2 \
             ON CONFLICT DO NOTHING",
        )
        .bind(address.to_string())
        .bind(key.as_str())
        .execute(&mut *tx)
        .await?;
        // A key that was revoked meanwhile, perhaps by an attacker, was used all the same.
        let revoked = "SELECT COUNT(*) FROM api_keys WHERE id = $1";
        let revoked =
            sqlx::query_scalar::<_, i64>(revoked).bind(key.as_str()).fetch_one(&mut *tx).await? == 0;
        if done.rows_affected() == 1 || revoked {
            let event = AuditEvent::by(principal, "key.first_use", key);
            append(&mut tx, &self.chain, &event, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

fn entry(row: &SqliteRow) -> Result<AuditEntry, Error> {
    Ok(AuditEntry {
        seq: row.try_get("seq")?,
        at: Timestamp::from_unix_ms(row.try_get("at")?),
        user: parse(row.try_get("user_id")?)?,
        key: row.try_get("key_id")?,
        address: row.try_get("address")?,
        action: row.try_get("action")?,
        target: row.try_get("target")?,
    })
}
