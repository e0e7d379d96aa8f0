//! Modes of AI calls: that of a user, and that of a workspace in its place. The environments of workspaces follow them.

use rigbox_core::ai::mode::AiMode;
use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::time::Timestamp;
use sqlx::{AssertSqlSafe, Row};

use crate::audit::{self, AuditEvent};
use crate::sqlite::connection::Connection;
use crate::{Error, Store, parse};

/// Mode of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceAiMode {
    /// Mode of its own.
    pub own: Option<AiMode>,
    /// Mode of its owner.
    pub default: AiMode,
    /// The workspace has switched its proxy off.
    pub is_switched_off: bool,
}

impl WorkspaceAiMode {
    /// Returns the mode that holds.
    pub fn current(self) -> AiMode {
        self.own.unwrap_or(self.default)
    }
}

impl Store {
    /// Returns the mode of a workspace, or `None` if there is no such workspace.
    pub async fn workspace_ai_mode(&self, id: &WorkspaceId) -> Result<Option<WorkspaceAiMode>, Error> {
        let row = sqlx::query(
            "SELECT w.ai_mode, w.ai_proxy_off, a.mode FROM workspaces w LEFT JOIN ai_accounts a ON a.user_id = w.user_id \
             WHERE w.id = $1",
        )
        .bind(id.as_str())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mode = |column: &str| {
            let mode: Option<&str> = row.try_get(column)?;
            mode.map(parse::<AiMode>).transpose()
        };
        Ok(Some(WorkspaceAiMode {
            own: mode("ai_mode")?,
            default: mode("mode")?.unwrap_or_default(),
            is_switched_off: row.try_get("ai_proxy_off")?,
        }))
    }

    /// Switches the proxy of a workspace, which its environment follows. Returns the environment's revision, or `None` if there is no such
    /// workspace.
    pub async fn switch_ai_proxy(
        &self,
        id: &WorkspaceId,
        is_off: bool,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<Option<i64>, Error> {
        let mut tx = self.begin_write().await?;
        let changed = environment_changed(&mut tx, "id", id.as_str(), now).await?;
        let Some((_, revision)) = changed.into_iter().next() else { return Ok(None) };
        let query = sqlx::query("UPDATE workspaces SET ai_proxy_off = $1 WHERE id = $2");
        query.bind(is_off).bind(id.as_str()).execute(&mut *tx).await?;
        audit::append(&mut tx, &self.chain, event, now).await?;
        tx.commit().await?;
        Ok(Some(revision))
    }
}

/// Sets the mode of a user's workspaces without one of their own.
pub(super) async fn set_of_user(tx: &mut Connection, user: &UserId, mode: AiMode) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO ai_accounts (user_id, granted, spent, reserved, allowance, month, mode) \
         VALUES ($1, 0, 0, 0, 0, '', $2) ON CONFLICT (user_id) DO UPDATE SET mode = excluded.mode",
    )
    .bind(user.as_str())
    .bind(mode.as_str())
    .execute(tx)
    .await?;
    Ok(())
}

/// Sets the mode of a workspace; `None` is that of its owner.
pub(super) async fn set_of_workspace(
    tx: &mut Connection,
    id: &WorkspaceId,
    mode: Option<AiMode>,
) -> Result<(), Error> {
    let query = sqlx::query("UPDATE workspaces SET ai_mode = $1 WHERE id = $2");
    query.bind(mode.map(AiMode::as_str)).bind(id.as_str()).execute(tx).await?;
    Ok(())
}

/// Records that the environment of workspaces is another one: of those with `id` in this column. Returns them with their new revisions.
pub(super) async fn environment_changed(
    tx: &mut Connection,
    column: &'static str,
    id: &str,
    now: Timestamp,
) -> Result<Vec<(WorkspaceId, i64)>, Error> {
    let update = format!(
        "UPDATE workspaces SET env_revision = env_revision + 1, revision = revision + 1, updated_at = $1 \
         WHERE {column} = $2 RETURNING id, env_revision"
    );
    let rows = sqlx::query(AssertSqlSafe(update)).bind(now.unix_ms()).bind(id).fetch_all(tx).await?;
    rows.iter().map(|row| Ok((parse(row.try_get("id")?)?, row.try_get("env_revision")?))).collect()
}
