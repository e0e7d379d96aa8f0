//! Credentials of users for one host each, in envelopes: what the proxy adds to requests of their workspaces.

use rigbox_core::egress::Egress;
use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::proxied_secret::{SecretHeader, SecretHost, SecretName};
use rigbox_core::time::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::audit::{self, AuditEvent};
use crate::networks::NetworkSettings;
use crate::revocations::entry::Revocation;
use crate::secrets::envelope::{self, Column};
use crate::{Error, Store, json, parse};

/// Column of the credentials.
pub(crate) static VALUE: Column =
    Column { table: "proxied_secrets", column: "secret", row: &["user_id", "name"] };
/// Maximum number of a user's credentials.
const MAX_PROXIED_SECRETS: u64 = 64;

/// Credential without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedSecret {
    /// Name, unique per user.
    pub name: SecretName,
    /// Workspace that alone may use it; none: all of the user's.
    pub workspace: Option<WorkspaceId>,
    /// Host that gets it.
    pub host: SecretHost,
    /// Header that carries it.
    pub header: SecretHeader,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

/// Credential with its value, for one request of a workspace.
#[derive(Debug)]
pub struct OpenedSecret {
    /// Credential.
    pub secret: ProxiedSecret,
    /// Its value.
    pub value: SecretString,
    /// User who has it.
    pub owner: UserId,
    /// Egress policy of the workspace.
    pub egress: Egress,
    /// The workspace has switched its proxy off.
    pub is_switched_off: bool,
}

impl Store {
    /// Lists a user's credentials by name.
    pub async fn proxied_secrets(&self, user: &UserId) -> Result<Vec<ProxiedSecret>, Error> {
        let rows = sqlx::query(
            "SELECT name, workspace_id, host, header, format, updated_at FROM proxied_secrets WHERE user_id = $1 ORDER BY name",
        )
        .bind(user.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(secret).collect()
    }

    /// Stores a credential in place of another one of its name.
    ///
    /// # Errors
    /// [`Error::NoWorkspace`], if the user does not have the workspace; [`Error::Quota`]
    pub async fn set_proxied_secret(
        &self,
        user: &UserId,
        secret: &ProxiedSecret,
        value: &SecretString,
        event: &AuditEvent,
    ) -> Result<(), Error> {
        let (mut tx, master) = self.begin_sealed_write().await?;
        if let Some(workspace) = &secret.workspace {
            let known = sqlx::query("SELECT id FROM workspaces WHERE id = $1 AND user_id = $2");
            let known = known.bind(workspace.as_str()).bind(user.as_str());
            if known.fetch_optional(&mut *tx).await?.is_none() {
                return Err(Error::NoWorkspace(workspace.clone()));
            }
        }
        let row = [user.as_str(), secret.name.as_str()];
        let record = envelope::seal(&master, &VALUE.at(&row), value.expose_secret().as_bytes())?;
        sqlx::query(
            "INSERT INTO proxied_secrets (user_id, name, workspace_id, host, header, format, secret, master_key, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (user_id, name) DO UPDATE SET \
             workspace_id = excluded.workspace_id, host = excluded.host, header = excluded.header, format = excluded.format, \
             secret = excluded.secret, master_key = excluded.master_key, updated_at = excluded.updated_at",
        )
        .bind(user.as_str())
        .bind(secret.name.as_str())
        .bind(secret.workspace.as_ref().map(WorkspaceId::as_str))
        .bind(secret.host.to_string())
        .bind(secret.header.name())
        .bind(secret.header.format())
        .bind(record)
        .bind(master.id().to_string())
        .bind(secret.updated_at.unix_ms())
        .execute(&mut *tx)
        .await?;
        let count = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM proxied_secrets WHERE user_id = $1");
        let used = count.bind(user.as_str()).fetch_one(&mut *tx).await?.unsigned_abs();
        if used > MAX_PROXIED_SECRETS {
            let limit = MAX_PROXIED_SECRETS;
            return Err(Error::Quota { limit_name: "max_proxied_secrets", limit, used: used - 1 });
        }
        audit::append(&mut tx, &self.chain, event, secret.updated_at).await?;
        let change = gone(user, &secret.name, secret.updated_at.unix_ms());
        self.commit_revoking(tx, vec![change], secret.updated_at).await
    }

    /// Removes a credential. Returns false if there is none of that name.
    pub async fn remove_proxied_secret(
        &self,
        user: &UserId,
        name: &SecretName,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let done = sqlx::query("DELETE FROM proxied_secrets WHERE user_id = $1 AND name = $2")
            .bind(user.as_str())
            .bind(name.as_str())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        audit::append(&mut tx, &self.chain, event, now).await?;
        let change = gone(user, name, now.unix_ms().saturating_add(1));
        self.commit_revoking(tx, vec![change], now).await?;
        Ok(true)
    }

    /// Returns a credential for a request of a workspace, or `None` if the workspace may use none of that name.
    pub async fn open_proxied_secret(
        &self,
        workspace: &WorkspaceId,
        name: &SecretName,
    ) -> Result<Option<OpenedSecret>, Error> {
        let row = sqlx::query(
            "SELECT s.user_id, s.name, s.workspace_id, s.host, s.header, s.format, s.updated_at, s.secret, \
             w.network, w.ai_proxy_off FROM proxied_secrets s JOIN workspaces w ON w.user_id = s.user_id \
             JOIN users u ON u.id = s.user_id WHERE w.id = $1 AND s.name = $2 AND u.disabled_at IS NULL \
             AND (s.workspace_id IS NULL OR s.workspace_id = w.id)",
        )
        .bind(workspace.as_str())
        .bind(name.as_str())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let network: NetworkSettings = json::parse(row.try_get("network")?)?;
        let place = [row.try_get("user_id")?, name.as_str()];
        let value = self.unseal(&VALUE.at(&place), row.try_get("secret")?).await?;
        let value = std::str::from_utf8(&value).map_err(|error| Error::Damaged(error.to_string()))?;
        Ok(Some(OpenedSecret {
            secret: secret(&row)?,
            value: SecretString::from(value),
            owner: parse(row.try_get("user_id")?)?,
            egress: network.egress,
            is_switched_off: row.try_get("ai_proxy_off")?,
        }))
    }
}

/// Returns the change by which what was stored before `until` stays gone when an older database is put back.
fn gone(user: &UserId, name: &SecretName, until: i64) -> Revocation {
    Revocation::ProxiedSecret { secret: format!("{user}/{name}"), until }
}

fn secret(row: &SqliteRow) -> Result<ProxiedSecret, Error> {
    let header = SecretHeader::new(row.try_get("header")?, Some(row.try_get("format")?));
    Ok(ProxiedSecret {
        name: parse(row.try_get("name")?)?,
        workspace: row.try_get::<Option<&str>, _>("workspace_id")?.map(parse).transpose()?,
        host: parse(row.try_get("host")?)?,
        header: header.map_err(|error| Error::Damaged(error.to_string()))?,
        updated_at: Timestamp::from_unix_ms(row.try_get("updated_at")?),
    })
}
