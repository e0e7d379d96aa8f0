//! Workspace keys: one per boot, stored as a keyed hash, valid until the boot ends or its workspace leaves
//! `running`.

use rigbox_core::authz::{Credential, Principal, Scope};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::status::Status;
use sqlx::Row;

use crate::sqlite::connection::Connection;
use crate::tokens::TokenHash;
use crate::{Error, Store, parse, user_limits};

impl Store {
    /// Returns the principal of a valid workspace key.
    pub async fn workspace_key_principal(&self, hash: &TokenHash) -> Result<Option<Principal>, Error> {
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
        let id: WorkspaceId = parse(row.try_get("id")?)?;
        Ok(Some(Principal {
            user: parse(row.try_get("user_id")?)?,
            plan: parse(row.try_get("plan")?)?,
            limits: user_limits::read(row.try_get("limits")?)?,
            credential: Credential::Workspace(id.clone()),
            scope: Scope::OwnWorkspace(id),
            from: None,
        }))
    }

    /// Returns a workspace as principal without a key, for callers that have authenticated it by other means.
    pub async fn workspace_principal(&self, id: &WorkspaceId) -> Result<Option<Principal>, Error> {
        let row = sqlx::query(
            "SELECT workspaces.user_id, users.plan, users.limits FROM workspaces \
             JOIN users ON users.id = workspaces.user_id WHERE workspaces.id = $1 AND users.disabled_at IS NULL",
        )
        .bind(id.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(Principal {
                user: parse(row.try_get("user_id")?)?,
                plan: parse(row.try_get("plan")?)?,
                limits: user_limits::read(row.try_get("limits")?)?,
                credential: Credential::Workspace(id.clone()),
                scope: Scope::OwnWorkspace(id.clone()),
                from: None,
            })
        })
        .transpose()
    }

    /// Returns whether a boot's key has reached its VM.
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

    /// Stores the key of a boot in place of any other. Returns `false` if the workspace has moved on to
    /// another boot, or has none.
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
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Applies a state change to the workspace's key, within the same transaction: the key ends with its boot and with `running`, and has
/// reached its VM once the VM has its secrets.
pub(crate) async fn apply_transition(
    connection: &mut Connection,
    id: &WorkspaceId,
    before: &Lifecycle,
    lifecycle: &Lifecycle,
) -> Result<(), Error> {
    let boot = match lifecycle.status {
        Status::Starting | Status::Running => lifecycle.boot(),
        _ => None,
    };
    sqlx::query("DELETE FROM workspace_keys WHERE workspace_id = $1 AND boot_id <> $2")
        .bind(id.as_str())
        // No boot has an empty id.
        .bind(boot.unwrap_or(""))
        .execute(&mut *connection)
        .await?;
    let Some(delivered) = lifecycle.delivered.as_ref().filter(|_| lifecycle.delivered != before.delivered)
    else {
        return Ok(());
    };
    sqlx::query("UPDATE workspace_keys SET delivered = TRUE WHERE workspace_id = $1 AND boot_id = $2")
        .bind(id.as_str())
        .bind(&delivered.boot)
        .execute(connection)
        .await?;
    Ok(())
}
