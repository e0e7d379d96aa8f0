//! Workspace keys: one per boot, stored as keyed hash, good until the boot ends or its workspace leaves `running`.

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::permit::{Credential, Principal, Scope};
use rigbox_core::status::Status;
use sqlx::{Row, SqliteConnection};

use crate::secret::TokenHash;
use crate::{Error, Store, parsed, user_limits};

impl Store {
    /// Whose workspace key this is, if it is good.
    pub async fn holder_of_workspace_key(&self, hash: &TokenHash) -> Result<Option<Principal>, Error> {
        let row = sqlx::query(
            "SELECT workspaces.id, workspaces.user_id, users.plan, users.limits FROM workspace_keys \
             JOIN workspaces ON workspaces.id = workspace_keys.workspace_id \
             JOIN users ON users.id = workspaces.user_id \
             WHERE workspace_keys.hash = $1 AND users.disabled_at IS NULL",
        )
        .bind(hash.as_str())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id: WorkspaceId = parsed(row.try_get("id")?)?;
        Ok(Some(Principal {
            user: parsed(row.try_get("user_id")?)?,
            plan: parsed(row.try_get("plan")?)?,
            limits: user_limits::read(row.try_get("limits")?)?,
            credential: Credential::Workspace(id.clone()),
            scope: Scope::Within(id),
            from: None,
        }))
    }

    /// A workspace as one who asks, without any key: for whom else has made sure that it asks itself.
    pub async fn workspace_itself(&self, id: &WorkspaceId) -> Result<Option<Principal>, Error> {
        let row = sqlx::query(
            "SELECT workspaces.user_id, users.plan, users.limits FROM workspaces \
             JOIN users ON users.id = workspaces.user_id WHERE workspaces.id = $1 AND users.disabled_at IS NULL",
        )
        .bind(id.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(Principal {
                user: parsed(row.try_get("user_id")?)?,
                plan: parsed(row.try_get("plan")?)?,
                limits: user_limits::read(row.try_get("limits")?)?,
                credential: Credential::Workspace(id.clone()),
                scope: Scope::Within(id.clone()),
                from: None,
            })
        })
        .transpose()
    }

    /// Whether a boot has its key inside the VM.
    pub async fn has_workspace_key(&self, id: &WorkspaceId, boot: &str) -> Result<bool, Error> {
        let delivered: Option<bool> = sqlx::query_scalar(
            "SELECT delivered FROM workspace_keys WHERE workspace_id = $1 AND boot_id = $2",
        )
        .bind(id.as_str())
        .bind(boot)
        .fetch_optional(&self.pool)
        .await?;
        Ok(delivered.unwrap_or(false))
    }

    /// Gives a boot its key, in place of any before; `false` when the workspace has another boot by now, or none.
    pub async fn set_workspace_key(
        &self,
        id: &WorkspaceId,
        boot: &str,
        hash: &TokenHash,
    ) -> Result<bool, Error> {
        let done = sqlx::query(
            "INSERT INTO workspace_keys (workspace_id, boot_id, hash, delivered) \
             SELECT id, boot_id, $1, FALSE FROM workspaces \
             WHERE id = $2 AND boot_id = $3 AND status IN ('starting', 'running') \
             ON CONFLICT (workspace_id) DO UPDATE \
             SET boot_id = excluded.boot_id, hash = excluded.hash, delivered = excluded.delivered",
        )
        .bind(hash.as_str())
        .bind(id.as_str())
        .bind(boot)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes that a boot has its key inside the VM.
    pub async fn workspace_key_delivered(&self, id: &WorkspaceId, boot: &str) -> Result<(), Error> {
        delivered(&mut *self.pool.acquire().await?, id, boot).await
    }
}

/// What a new life means for the workspace's key, in the transaction that writes it: it ends with its boot, and with `running`.
pub(crate) async fn follow(
    connection: &mut SqliteConnection,
    id: &WorkspaceId,
    before: &Lifecycle,
    life: &Lifecycle,
) -> Result<(), Error> {
    let boot = match life.status {
        Status::Starting | Status::Running => life.boot.as_deref(),
        _ => None,
    };
    sqlx::query("DELETE FROM workspace_keys WHERE workspace_id = $1 AND boot_id <> $2")
        .bind(id.as_str())
        // No boot has no name.
        .bind(boot.unwrap_or(""))
        .execute(&mut *connection)
        .await?;
    match boot {
        // A workspace runs once its secrets are in it.
        Some(boot) if life.status == Status::Running && before.status != Status::Running => {
            delivered(connection, id, boot).await
        }
        _ => Ok(()),
    }
}

async fn delivered(connection: &mut SqliteConnection, id: &WorkspaceId, boot: &str) -> Result<(), Error> {
    sqlx::query("UPDATE workspace_keys SET delivered = TRUE WHERE workspace_id = $1 AND boot_id = $2")
        .bind(id.as_str())
        .bind(boot)
        .execute(connection)
        .await?;
    Ok(())
}
