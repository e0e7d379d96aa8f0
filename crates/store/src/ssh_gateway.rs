//! SSH gateway: its secrets, and what its sessions are decided by.

use rigbox_core::authz::{Credential, Principal, Scope};
use rigbox_core::ids::{SshKeyId, UserId, WorkspaceId};
use rigbox_core::time::Timestamp;
use sqlx::Row;
use zeroize::Zeroizing;

use crate::audit::{self, AuditEvent};
use crate::secrets::envelope::{self, Column};
use crate::{Error, Store, parse, user_limits};

/// Column of the secrets.
pub(crate) static VALUE: Column = Column { table: "ssh_secrets", column: "value", row: &["name"] };

/// Length of a secret in bytes.
pub const SSH_SECRET_LEN: usize = 32;

/// Secret of the SSH gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshSecret {
    /// Seed of the Ed25519 key by which clients know the gateway.
    HostKey,
    /// Seed of the key that will replace it, once it was announced.
    NextHostKey,
    /// Secret from which the keys of boots derive.
    BootKeys,
}

impl SshSecret {
    fn name(self) -> &'static str {
        match self {
            Self::HostKey => "host_key",
            Self::NextHostKey => "next_host_key",
            Self::BootKeys => "boot_keys",
        }
    }
}

impl Store {
    /// Returns a secret, which is made once.
    pub async fn ssh_secret(&self, secret: SshSecret, now: Timestamp) -> Result<Zeroizing<Vec<u8>>, Error> {
        if let Some(value) = self.stored_ssh_secret(secret).await? {
            return Ok(value);
        }
        self.make_ssh_secret(secret, None, now).await?;
        // Another process may have been first.
        let stored = self.stored_ssh_secret(secret).await?;
        stored.ok_or_else(|| Error::Damaged(format!("the secret `{}` is gone", secret.name())))
    }

    /// Makes the next host key. Returns `false` if there is one already.
    pub async fn make_next_ssh_host_key(&self, event: &AuditEvent, now: Timestamp) -> Result<bool, Error> {
        self.make_ssh_secret(SshSecret::NextHostKey, Some(event), now).await
    }

    /// Puts the next host key in the place of the current one. Returns `false` if there is no next one.
    pub async fn replace_ssh_host_key(&self, event: &AuditEvent, now: Timestamp) -> Result<bool, Error> {
        let Some(next) = self.stored_ssh_secret(SshSecret::NextHostKey).await? else { return Ok(false) };
        let (mut tx, master) = self.begin_sealed_write().await?;
        let name = SshSecret::HostKey.name();
        let record = envelope::seal(&master, &VALUE.at(&[name]), &next)?;
        let removed = sqlx::query("DELETE FROM ssh_secrets WHERE name = $1")
            .bind(SshSecret::NextHostKey.name())
            .execute(&mut *tx)
            .await?;
        // Another process was first.
        if removed.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO ssh_secrets (name, value, master_key, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (name) DO UPDATE SET value = $2, master_key = $3, created_at = $4",
        )
        .bind(name)
        .bind(record)
        .bind(master.id().to_string())
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        audit::append(&mut tx, &self.chain, event, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Makes a secret, unless there is one. Returns whether it was made.
    async fn make_ssh_secret(
        &self,
        secret: SshSecret,
        event: Option<&AuditEvent>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut value = Zeroizing::new(vec![0; SSH_SECRET_LEN]);
        getrandom::fill(&mut value).map_err(|error| Error::Random(error.to_string()))?;
        let (mut tx, master) = self.begin_sealed_write().await?;
        let record = envelope::seal(&master, &VALUE.at(&[secret.name()]), &value)?;
        let made = sqlx::query(
            "INSERT INTO ssh_secrets (name, value, master_key, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(secret.name())
        .bind(record)
        .bind(master.id().to_string())
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            return Ok(false);
        }
        if let Some(event) = event {
            audit::append(&mut tx, &self.chain, event, now).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Returns a secret, or `None` if it was not made yet.
    pub async fn stored_ssh_secret(&self, secret: SshSecret) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let row = sqlx::query("SELECT value FROM ssh_secrets WHERE name = $1")
            .bind(secret.name())
            .fetch_optional(&self.pool)
            .await?;
        match row {
            Some(row) => Ok(Some(self.unseal(&VALUE.at(&[secret.name()]), row.try_get("value")?).await?)),
            None => Ok(None),
        }
    }

    /// Returns the workspaces that run, with their owners.
    pub async fn running_with_owners(&self) -> Result<Vec<(WorkspaceId, UserId)>, Error> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT id, user_id FROM workspaces WHERE status = 'running'")
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(|(id, owner)| Ok((parse(id)?, parse(owner)?))).collect()
    }

    /// Returns the user of a key as principal, unless the user is disabled.
    pub async fn ssh_key_principal(&self, key: &SshKeyId) -> Result<Option<Principal>, Error> {
        let row = sqlx::query(
            "SELECT users.id, users.plan, users.limits FROM ssh_keys JOIN users ON users.id = ssh_keys.user_id \
             WHERE ssh_keys.id = $1 AND users.disabled_at IS NULL",
        )
        .bind(key.as_str())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let user: UserId = parse(row.try_get("id")?)?;
        Ok(Some(Principal {
            user,
            plan: parse(row.try_get("plan")?)?,
            limits: user_limits::read(row.try_get("limits")?)?,
            credential: Credential::SshKey(key.clone()),
            scope: Scope::Account,
            from: None,
        }))
    }
}
