//! What workspaces let through, besides their apps.

use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Moment;
use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};

use crate::audit::{self, Act};
use crate::{Error, Store};

/// What a workspace's owner has set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSettings {
    /// What the VM may reach.
    pub egress: Egress,
    /// Code in the VM may also show its apps to more people than its owner has.
    pub apps_from_inside_any: bool,
}

impl Store {
    /// What is set for a workspace; `None` when there is no such workspace.
    pub fn network(&self, id: &WorkspaceId) -> Result<Option<NetworkSettings>, Error> {
        self.hot.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT network FROM workspaces WHERE id = ?1")?;
            let text: Option<String> = statement.query_row([id.as_str()], |row| row.get(0)).optional()?;
            text.map(|text| serde_json::from_str(&text).map_err(|error| Error::Damaged(error.to_string())))
                .transpose()
        })
    }

    /// Sets it; `false` when there is no such workspace.
    pub async fn set_network(
        &self,
        id: &WorkspaceId,
        settings: &NetworkSettings,
        act: &Act,
        now: Moment,
    ) -> Result<bool, Error> {
        let text = serde_json::to_string(settings).map_err(|error| Error::Damaged(error.to_string()))?;
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE workspaces SET network = $1, revision = revision + 1, updated_at = $2 WHERE id = $3",
        )
        .bind(text)
        .bind(now.unix_ms())
        .bind(id.as_str())
        .execute(&mut *tx)
        .await?;
        let stored = done.rows_affected() == 1;
        if stored {
            audit::append(&mut tx, &self.chain, act, now).await?;
        }
        tx.commit().await?;
        Ok(stored)
    }

    /// The workspaces that run, or are about to.
    pub async fn running_workspaces(&self) -> Result<Vec<WorkspaceId>, Error> {
        let query = "SELECT id FROM workspaces WHERE status IN ('starting', 'running')";
        let ids: Vec<String> = sqlx::query_scalar(query).fetch_all(&self.pool).await?;
        ids.iter().map(|id| crate::parsed(id)).collect()
    }
}
