//! Network settings of workspaces.

use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;
use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};

use crate::audit::{self, AuditEvent};
use crate::revocations::entry::Revocation;
use crate::{Error, Store};

/// Network settings chosen by a workspace's owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSettings {
    /// Egress policy.
    pub egress: Egress,
    /// True if code in the VM may widen the visibility of its apps.
    pub apps_from_inside_any: bool,
}

impl Store {
    /// Returns a workspace's settings, or `None` if there is no such workspace.
    pub fn network(&self, id: &WorkspaceId) -> Result<Option<NetworkSettings>, Error> {
        self.readers.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT network FROM workspaces WHERE id = ?1")?;
            let text: Option<String> = statement.query_row([id.as_str()], |row| row.get(0)).optional()?;
            text.map(|text| serde_json::from_str(&text).map_err(|error| Error::Damaged(error.to_string())))
                .transpose()
        })
    }

    /// Stores a workspace's settings. Returns `false` if there is no such workspace.
    pub async fn set_network(
        &self,
        id: &WorkspaceId,
        settings: &NetworkSettings,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let text = serde_json::to_string(settings).map_err(|error| Error::Damaged(error.to_string()))?;
        let mut tx = self.begin_write().await?;
        let done = sqlx::query(
            "UPDATE workspaces SET network = $1, revision = revision + 1, updated_at = $2 WHERE id = $3",
        )
        .bind(text)
        .bind(now.unix_ms())
        .bind(id.as_str())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        audit::append(&mut tx, &self.chain, event, now).await?;
        let NetworkSettings { egress, apps_from_inside_any } = settings.clone();
        let change = Revocation::Network { workspace: id.to_string(), egress, apps_from_inside_any };
        self.commit_revoking(tx, vec![change], now).await?;
        Ok(true)
    }

    /// Returns the workspaces that are running or starting.
    pub async fn running_workspaces(&self) -> Result<Vec<WorkspaceId>, Error> {
        let query = "SELECT id FROM workspaces WHERE status IN ('starting', 'running')";
        let ids: Vec<String> = sqlx::query_scalar(query).fetch_all(&self.pool).await?;
        ids.iter().map(|id| crate::parse(id)).collect()
    }
}
