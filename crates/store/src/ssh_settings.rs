//! SSH settings of workspaces.

use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;

use crate::audit::{self, AuditEvent};
use crate::{Error, Store};

impl Store {
    /// Returns whether a workspace is started when its owner connects, or `None` if there is no such workspace.
    pub async fn start_on_connect(&self, id: &WorkspaceId) -> Result<Option<bool>, Error> {
        let query = sqlx::query_scalar("SELECT start_on_connect FROM workspaces WHERE id = $1");
        Ok(query.bind(id.as_str()).fetch_optional(&self.pool).await?)
    }

    /// Sets whether a workspace is started when its owner connects. Returns `false` if there is no such workspace.
    pub async fn set_start_on_connect(
        &self,
        id: &WorkspaceId,
        start: bool,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let query = sqlx::query("UPDATE workspaces SET start_on_connect = $1, updated_at = $2 WHERE id = $3");
        let set = query.bind(start).bind(now.unix_ms()).bind(id.as_str()).execute(&mut *tx).await?;
        if set.rows_affected() == 0 {
            return Ok(false);
        }
        audit::append(&mut tx, &self.chain, event, now).await?;
        tx.commit().await?;
        Ok(true)
    }
}
