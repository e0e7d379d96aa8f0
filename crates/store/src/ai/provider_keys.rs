//! Operator's keys at providers, each in an envelope.

use rigbox_core::ids::{ProviderKeyId, UserId};
use rigbox_core::time::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::audit::{self, AuditEvent};
use crate::secrets::envelope::{self, Column};
use crate::{Error, Store, parse, timestamp};

/// Column of the keys.
pub(crate) static VALUE: Column = Column { table: "ai_provider_keys", column: "secret", row: &["id"] };

/// Key at a provider, without the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderKey {
    /// Id of the key.
    pub id: ProviderKeyId,
    /// Name of the upstream in the configuration.
    pub upstream: String,
    /// Name for the operator.
    pub label: String,
    /// Organization at the provider. Keys of one may replace each other within a conversation.
    pub organization: String,
    /// Time at which it was stored.
    pub created_at: Timestamp,
    /// Time of the last call that was made with it.
    pub last_used_at: Option<Timestamp>,
}

/// Key at a provider.
#[derive(Debug)]
pub struct ProviderKeySecret {
    /// Id of the key.
    pub id: ProviderKeyId,
    /// Name of the upstream in the configuration.
    pub upstream: String,
    /// Organization at the provider.
    pub organization: String,
    /// The key.
    pub secret: SecretString,
}

impl Store {
    /// Stores a key. The proxy is told.
    pub async fn add_provider_key(
        &self,
        key: &ProviderKey,
        secret: &SecretString,
        operator: &UserId,
    ) -> Result<(), Error> {
        let (mut tx, master) = self.begin_sealed_write().await?;
        let cell = [key.id.as_str()];
        let record = envelope::seal(&master, &VALUE.at(&cell), secret.expose_secret().as_bytes())?;
        sqlx::query(
            "INSERT INTO ai_provider_keys (id, upstream, label, organization, secret, master_key, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(key.id.as_str())
        .bind(&key.upstream)
        .bind(&key.label)
        .bind(&key.organization)
        .bind(record)
        .bind(master.id().to_string())
        .bind(key.created_at.unix_ms())
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE ai_proxy SET revision = revision + 1").execute(&mut *tx).await?;
        let event = AuditEvent::by_operator(operator, "provider_key.set", &key.id);
        audit::append(&mut tx, &self.chain, &event, key.created_at).await?;
        Ok(tx.commit().await?)
    }

    /// Removes a key. The proxy is told. Returns `false` if there is no such key.
    pub async fn remove_provider_key(
        &self,
        id: &ProviderKeyId,
        operator: &UserId,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let query = sqlx::query("DELETE FROM ai_provider_keys WHERE id = $1").bind(id.as_str());
        if query.execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("UPDATE ai_proxy SET revision = revision + 1").execute(&mut *tx).await?;
        let event = AuditEvent::by_operator(operator, "provider_key.remove", id);
        audit::append(&mut tx, &self.chain, &event, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Lists the keys in the order in which they are tried.
    pub async fn provider_keys(&self) -> Result<Vec<ProviderKey>, Error> {
        let rows = sqlx::query(
            "SELECT id, upstream, label, organization, created_at, last_used_at FROM ai_provider_keys \
             ORDER BY upstream, created_at, id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(provider_key).collect()
    }

    /// Returns the keys themselves, in the order in which they are tried.
    pub async fn provider_key_secrets(&self) -> Result<Vec<ProviderKeySecret>, Error> {
        let rows = sqlx::query(
            "SELECT id, upstream, organization, secret FROM ai_provider_keys ORDER BY upstream, created_at, id",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            let id: &str = row.try_get("id")?;
            let secret = self.unseal(&VALUE.at(&[id]), row.try_get("secret")?).await?;
            let secret = std::str::from_utf8(&secret).map_err(|error| Error::Damaged(error.to_string()))?;
            keys.push(ProviderKeySecret {
                id: parse(id)?,
                upstream: row.try_get("upstream")?,
                organization: row.try_get("organization")?,
                secret: SecretString::from(secret),
            });
        }
        Ok(keys)
    }
}

fn provider_key(row: &SqliteRow) -> Result<ProviderKey, Error> {
    Ok(ProviderKey {
        id: parse(row.try_get("id")?)?,
        upstream: row.try_get("upstream")?,
        label: row.try_get("label")?,
        organization: row.try_get("organization")?,
        created_at: Timestamp::from_unix_ms(row.try_get("created_at")?),
        last_used_at: timestamp(row, "last_used_at")?,
    })
}
