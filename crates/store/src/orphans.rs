//! Workspaces that a node has and the database does not. They are kept until an administrator decides.

use rigbox_core::ids::{NodeId, UserId, WorkspaceId};
use rigbox_core::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::audit::{self, AuditEvent};
use crate::revocations::entry::Revocation;
use crate::sqlite::connection::Connection;
use crate::workspaces::{Workspace, insert};
use crate::{Error, Store, parse, tombstones};

/// Workspace of a node that the database does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Id of the workspace.
    pub id: WorkspaceId,
    /// Node that holds it.
    pub node_id: NodeId,
    /// Size of its disk in MiB. 0: it has no complete one.
    pub disk_size_mb: u32,
    /// Generation of the last request that the node has carried out.
    pub generation: u64,
    /// Time at which it was found.
    pub found_at: Timestamp,
    /// True once its removal was requested.
    pub is_removed: bool,
}

macro_rules! columns {
    ($rest:literal) => {
        concat!(
            "SELECT o.workspace_id, o.node_id, o.disk_size_mb, o.generation, o.found_at, ",
            "t.workspace_id IS NOT NULL AS removed ",
            "FROM orphans o LEFT JOIN tombstones t ON t.workspace_id = o.workspace_id ",
            $rest
        )
    };
}

impl Store {
    /// Records a workspace that a node has and the database does not. Returns `None` if the database has it by now.
    pub async fn record_orphan(&self, orphan: &Orphan) -> Result<Option<Orphan>, Error> {
        let mut tx = self.begin_write().await?;
        sqlx::query(
            "INSERT INTO orphans (workspace_id, node_id, disk_size_mb, generation, found_at) \
             SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT 1 FROM workspaces WHERE id = $1) \
             ON CONFLICT (workspace_id) DO UPDATE SET node_id = excluded.node_id, \
             disk_size_mb = excluded.disk_size_mb, generation = excluded.generation",
        )
        .bind(orphan.id.as_str())
        .bind(orphan.node_id.as_str())
        .bind(i64::from(orphan.disk_size_mb))
        .bind(i64::try_from(orphan.generation).unwrap_or(i64::MAX))
        .bind(orphan.found_at.unix_ms())
        .execute(&mut *tx)
        .await?;
        let recorded = orphan_by_id(&mut tx, &orphan.id).await?;
        tx.commit().await?;
        Ok(recorded)
    }

    /// Returns all orphans, longest known first.
    pub async fn orphans(&self) -> Result<Vec<Orphan>, Error> {
        let query = columns!("ORDER BY o.found_at, o.workspace_id");
        let rows = sqlx::query(query).fetch_all(&self.pool).await?;
        rows.iter().map(parse_orphan).collect()
    }

    /// Forgets an orphan that its node does not have any more.
    pub async fn forget_orphan(&self, id: &WorkspaceId) -> Result<(), Error> {
        sqlx::query("DELETE FROM orphans WHERE workspace_id = $1")
            .bind(id.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Requests the removal of an orphan, which destroys its disk. Returns `false` if there is no such orphan.
    pub async fn remove_orphan(
        &self,
        id: &WorkspaceId,
        operator: &UserId,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let Some(orphan) = orphan_by_id(&mut tx, id).await? else { return Ok(false) };
        tombstones::add(&mut tx, id, &orphan.node_id, now).await?;
        let event = AuditEvent::by_operator(operator, "workspace.remove_orphan", id);
        audit::append(&mut tx, &self.chain, &event, now).await?;
        let (workspace, node) = (id.to_string(), orphan.node_id.to_string());
        self.commit_revoking(tx, vec![Revocation::DeletedWorkspace { workspace, node }], now).await?;
        Ok(true)
    }

    /// Adds a workspace in place of its orphan. Returns `false` if there is no such orphan, or its removal was requested.
    pub async fn adopt_orphan(&self, workspace: &Workspace) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let Some(Orphan { is_removed: false, .. }) = orphan_by_id(&mut tx, &workspace.id).await? else {
            return Ok(false);
        };
        insert(&mut tx, workspace).await?;
        sqlx::query("DELETE FROM orphans WHERE workspace_id = $1")
            .bind(workspace.id.as_str())
            .execute(&mut *tx)
            .await?;
        let event = AuditEvent::by_operator(&workspace.user_id, "workspace.adopt", &workspace.id);
        audit::append(&mut tx, &self.chain, &event, workspace.created_at).await?;
        tx.commit().await?;
        Ok(true)
    }
}

async fn orphan_by_id(connection: &mut Connection, id: &WorkspaceId) -> Result<Option<Orphan>, Error> {
    let query = sqlx::query(columns!("WHERE o.workspace_id = $1"));
    query.bind(id.as_str()).fetch_optional(connection).await?.as_ref().map(parse_orphan).transpose()
}

fn parse_orphan(row: &SqliteRow) -> Result<Orphan, Error> {
    let number = |column: &str| -> Result<i64, Error> { Ok(row.try_get(column)?) };
    Ok(Orphan {
        id: parse(row.try_get("workspace_id")?)?,
        node_id: parse(row.try_get("node_id")?)?,
        disk_size_mb: u32::try_from(number("disk_size_mb")?).unwrap_or(u32::MAX),
        generation: u64::try_from(number("generation")?).unwrap_or_default(),
        found_at: Timestamp::from_unix_ms(number("found_at")?),
        is_removed: row.try_get("removed")?,
    })
}
