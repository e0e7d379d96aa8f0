//! Limits of single users that override their plan's.

use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::plans::{LimitOverrides, Plan};
use rigbox_core::time::Timestamp;

use crate::audit::{self, AuditEvent};
use crate::{Error, Store, parse};

impl Store {
    /// Returns a user's overrides, or `None` if there is no such user.
    pub async fn user_limits(&self, user: &UserId) -> Result<Option<LimitOverrides>, Error> {
        let text: Option<Option<String>> = sqlx::query_scalar("SELECT limits FROM users WHERE id = $1")
            .bind(user.as_str())
            .fetch_optional(&self.pool)
            .await?;
        text.map(|text| read(text.as_deref())).transpose()
    }

    /// Returns the plan of a workspace's owner and the owner's overrides, or `None` if there is no such workspace.
    pub fn owner_limits(&self, id: &WorkspaceId) -> Result<Option<(Plan, LimitOverrides)>, Error> {
        self.readers.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT plan, limits FROM workspaces JOIN users ON users.id = user_id WHERE workspaces.id = ?1",
            )?;
            let mut rows = statement.query([id.as_str()])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let (plan, limits): (String, Option<String>) = (row.get(0)?, row.get(1)?);
            Ok(Some((parse(&plan)?, read(limits.as_deref())?)))
        })
    }

    /// Replaces a user's overrides from the next request on. Returns `false` if there is no such user.
    pub async fn set_user_limits(
        &self,
        user: &UserId,
        limits: Option<LimitOverrides>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let text = limits.map(|limits| serde_json::to_string(&limits)).transpose();
        let text = text.map_err(|error| Error::Damaged(error.to_string()))?;
        let mut tx = self.begin_write().await?;
        let done = sqlx::query("UPDATE users SET limits = $1 WHERE id = $2")
            .bind(text)
            .bind(user.as_str())
            .execute(&mut *tx)
            .await?;
        let set = done.rows_affected() == 1;
        if set {
            audit::append(&mut tx, &self.chain, &AuditEvent::by_operator(user, "user.limits", user), now)
                .await?;
        }
        tx.commit().await?;
        Ok(set)
    }
}

/// Parses the stored column.
pub(crate) fn read(text: Option<&str>) -> Result<LimitOverrides, Error> {
    let limits = text.map(serde_json::from_str).transpose();
    Ok(limits.map_err(|error| Error::Damaged(format!("limits of a user: {error}")))?.unwrap_or_default())
}
