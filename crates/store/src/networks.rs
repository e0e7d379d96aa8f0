//! Network settings of workspaces.

use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;
use rusqlite::{OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use crate::audit::{self, AuditEvent};
use crate::revocations::entry::Revocation;
use crate::sqlite::connection::Connection;
use crate::{Error, Store, json};

/// Network settings chosen by a workspace's owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSettings {
    /// Egress policy.
    pub egress: Egress,
    /// True if code in the VM may widen the visibility of its apps.
    pub apps_from_inside_any: bool,
}

/// Revisions of a workspace's network policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkRevisions {
    /// The one that is to be in force.
    pub wanted: u64,
    /// The latest one that its node has acknowledged.
    pub acknowledged: u64,
}

impl NetworkRevisions {
    /// Returns whether the wanted policy is in force.
    pub fn is_in_force(self) -> bool {
        self.acknowledged >= self.wanted
    }
}

impl Store {
    /// Returns a workspace's settings, or `None` if there is no such workspace.
    pub fn network(&self, id: &WorkspaceId) -> Result<Option<NetworkSettings>, Error> {
        self.readers.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT network FROM workspaces WHERE id = ?1")?;
            let text: Option<String> = statement.query_row([id.as_str()], |row| row.get(0)).optional()?;
            text.map(|text| json::parse(&text)).transpose()
        })
    }

    /// Changes a workspace's settings. Returns them afterwards, or `None` if there is no such workspace.
    pub async fn change_network(
        &self,
        id: &WorkspaceId,
        change: impl FnOnce(&mut NetworkSettings),
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<Option<NetworkSettings>, Error> {
        let mut tx = self.begin_write().await?;
        let changed = self::change(&mut tx, id.as_str(), change, Some(now)).await?;
        let Some(settings) = changed else { return Ok(None) };
        audit::append(&mut tx, &self.chain, event, now).await?;
        let NetworkSettings { egress, apps_from_inside_any } = settings.clone();
        let change = Revocation::Network { workspace: id.to_string(), egress, apps_from_inside_any };
        self.commit_revoking(tx, vec![change], now).await?;
        Ok(Some(settings))
    }

    /// Returns the revisions of a workspace's policy, or `None` if there is no such workspace.
    pub fn network_revisions(&self, id: &WorkspaceId) -> Result<Option<NetworkRevisions>, Error> {
        self.readers.read(|connection| {
            let query = "SELECT network_revision, network_acknowledged FROM workspaces WHERE id = ?1";
            let mut statement = connection.prepare_cached(query)?;
            let number = |row: &Row<'_>, at| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)?.unsigned_abs());
            let revisions = |row: &Row<'_>| {
                Ok(NetworkRevisions { wanted: number(row, 0)?, acknowledged: number(row, 1)? })
            };
            Ok(statement.query_row([id.as_str()], revisions).optional()?)
        })
    }

    /// Records that the node has a revision of a workspace's policy. If that is later than the wanted one, the node has it from a database
    /// that is newer than this one, so the wanted one becomes later still.
    pub async fn acknowledge_network(&self, id: &WorkspaceId, revision: u64) -> Result<(), Error> {
        let revision = i64::try_from(revision).unwrap_or(i64::MAX).min(i64::MAX - 1);
        let query = "UPDATE workspaces SET network_acknowledged = $1, \
                     network_revision = CASE WHEN network_revision < $1 THEN $1 + 1 ELSE network_revision END \
                     WHERE id = $2 AND network_acknowledged < $1";
        sqlx::query(query).bind(revision).bind(id.as_str()).execute(&self.writer).await?;
        Ok(())
    }

    /// Returns the workspaces whose node has not acknowledged the wanted revision.
    pub async fn pending_networks(&self) -> Result<Vec<WorkspaceId>, Error> {
        let query = "SELECT id FROM workspaces WHERE network_acknowledged < network_revision";
        let ids: Vec<String> = sqlx::query_scalar(query).fetch_all(&self.pool).await?;
        ids.iter().map(|id| crate::parse(id)).collect()
    }

    /// Returns the workspaces that are running or starting.
    pub async fn running_workspaces(&self) -> Result<Vec<WorkspaceId>, Error> {
        let query = "SELECT id FROM workspaces WHERE status IN ('starting', 'running')";
        let ids: Vec<String> = sqlx::query_scalar(query).fetch_all(&self.pool).await?;
        ids.iter().map(|id| crate::parse(id)).collect()
    }
}

/// Changes a workspace's settings within a transaction. Returns them afterwards, or `None` if there is no such workspace. `now` is the time of
/// the change, if it is one of the workspace's owner.
pub(crate) async fn change(
    connection: &mut Connection,
    id: &str,
    change: impl FnOnce(&mut NetworkSettings),
    now: Option<Timestamp>,
) -> Result<Option<NetworkSettings>, Error> {
    let query = sqlx::query_scalar("SELECT network FROM workspaces WHERE id = $1").bind(id);
    let text: Option<String> = query.fetch_optional(&mut *connection).await?;
    let Some(text) = text else { return Ok(None) };
    let mut settings: NetworkSettings = json::parse(&text)?;
    change(&mut settings);
    let query = "UPDATE workspaces SET network = $1, revision = revision + 1, updated_at = COALESCE($2, updated_at) \
                 WHERE id = $3";
    sqlx::query(query)
        .bind(json::to_text(&settings)?)
        .bind(now.map(Timestamp::unix_ms))
        .bind(id)
        .execute(connection)
        .await?;
    Ok(Some(settings))
}
