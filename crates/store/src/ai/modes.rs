//! Modes of AI calls: that of a user, and that of a workspace in its place.

use rigbox_core::ai::mode::AiMode;
use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::time::Timestamp;
use sqlx::Row;

use crate::audit::{self, AuditEvent};
use crate::{Error, Store, parse};

/// Mode of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceAiMode {
    /// Mode of its own.
    pub own: Option<AiMode>,
    /// Mode of its owner.
    pub default: AiMode,
}

impl Store {
    /// Sets the mode of a user's workspaces without one of their own.
    pub async fn set_ai_mode(
        &self,
        user: &UserId,
        mode: AiMode,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut tx = self.begin_write().await?;
        sqlx::query(
            "INSERT INTO ai_accounts (user_id, granted, spent, reserved, allowance, month, mode) \
             VALUES ($1, 0, 0, 0, 0, '', $2) ON CONFLICT (user_id) DO UPDATE SET mode = excluded.mode",
        )
        .bind(user.as_str())
        .bind(mode.as_str())
        .execute(&mut *tx)
        .await?;
        audit::append(&mut tx, &self.chain, event, now).await?;
        Ok(tx.commit().await?)
    }

    /// Returns the mode of a workspace, or `None` if there is no such workspace.
    pub async fn workspace_ai_mode(&self, id: &WorkspaceId) -> Result<Option<WorkspaceAiMode>, Error> {
        let row = sqlx::query(
            "SELECT w.ai_mode, a.mode FROM workspaces w LEFT JOIN ai_accounts a ON a.user_id = w.user_id WHERE w.id = $1",
        )
        .bind(id.as_str())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mode = |column: &str| {
            let mode: Option<&str> = row.try_get(column)?;
            mode.map(parse::<AiMode>).transpose()
        };
        Ok(Some(WorkspaceAiMode { own: mode("ai_mode")?, default: mode("mode")?.unwrap_or_default() }))
    }

    /// Sets the mode of a workspace; `None` is that of its owner. Returns `false` if there is no such workspace.
    pub async fn set_workspace_ai_mode(
        &self,
        id: &WorkspaceId,
        mode: Option<AiMode>,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let query = sqlx::query("UPDATE workspaces SET ai_mode = $1, updated_at = $2 WHERE id = $3");
        let query = query.bind(mode.map(AiMode::as_str)).bind(now.unix_ms()).bind(id.as_str());
        if query.execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        audit::append(&mut tx, &self.chain, event, now).await?;
        tx.commit().await?;
        Ok(true)
    }
}
