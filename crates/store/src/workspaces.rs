//! Workspaces. A row is updated only by a writer that has read its latest revision.

use rigbox_core::authz::Principal;
use rigbox_core::ids::{NodeId, UserId, WorkspaceId};
use rigbox_core::lifecycle::{Desired, Lifecycle};
use rigbox_core::names::WorkspaceName;
use rigbox_core::resources::Resources;
use rigbox_core::status::Status;
use rigbox_core::time::Timestamp;
use rusqlite::params;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::audit::{self, AuditEvent};
use crate::environment::EnvironmentNames;
use crate::idempotency::{self, IdempotencyKey, Replay};
use crate::pagination::{ScopeFilter, page_start};
use crate::revocations::entry::Revocation;
use crate::sqlite::connection::Connection;
use crate::{Error, Store, parse, tombstones, workspace_keys, workspace_log};
use row::{columns, workspace};

mod row;

pub(crate) use row::{UNDELIVERED, insert};

/// Workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Id of the workspace.
    pub id: WorkspaceId,
    /// Owner.
    pub user_id: UserId,
    /// Node that holds the workspace.
    pub node_id: NodeId,
    /// Name chosen by the owner.
    pub name: WorkspaceName,
    /// Template it was created from.
    pub template_id: String,
    /// Name of the image.
    pub image: String,
    /// Size.
    pub resources: Resources,
    /// Number of writes of the row.
    pub revision: i64,
    /// State.
    pub lifecycle: Lifecycle,
    /// Names of its environment variables.
    pub environment: EnvironmentNames,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last change of the row.
    pub updated_at: Timestamp,
}

/// Filter and position of a page of workspaces.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Only the workspace of this name.
    pub name: Option<String>,
    /// Only workspaces in this status.
    pub status: Option<Status>,
    /// Only workspaces after this creation time and id.
    pub after: Option<(i64, String)>,
    /// Maximum number of workspaces.
    pub limit: u32,
}

/// Resources used by a user's workspaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of workspaces.
    pub workspaces: u64,
    /// Memory of all workspaces in MiB.
    pub ram_mb: u64,
    /// Disk size of all workspaces in MiB.
    pub disk_mb: u64,
    /// Virtual CPUs of workspaces that are running or starting.
    pub running_vcpus: u64,
}

/// Limits on [`Usage`], checked in the transaction that adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Maximum number of workspaces.
    pub max_vms: u32,
    /// Maximum memory in MiB.
    pub max_ram_total_mb: u32,
    /// Maximum disk size in MiB.
    pub max_disk_total_mb: u32,
}

/// Memory of a node, which a start takes a part of in its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Memory for all running VMs in MiB.
    pub max_ram_mb: u64,
    /// Memory that each VM takes beside its own in MiB.
    pub overhead_mb: u64,
}

impl Store {
    /// Returns the workspace with this id.
    pub async fn workspace(&self, id: &WorkspaceId) -> Result<Option<Workspace>, Error> {
        self.readers.read(|connection| {
            let mut statement = connection.prepare_cached(columns!("WHERE id = ?1"))?;
            let mut rows = statement.query([id.as_str()])?;
            rows.next()?.map(workspace).transpose()
        })
    }

    /// Returns a page of the workspaces that the principal's credential covers, oldest first.
    pub async fn workspaces_of(&self, principal: &Principal, page: &Page) -> Result<Vec<Workspace>, Error> {
        let Some(covered) = ScopeFilter::for_principal(principal) else { return Ok(Vec::new()) };
        let (after_time, after_id) = page_start(page.after.as_ref());
        self.readers.read(|connection| {
            let mut statement = connection.prepare_cached(columns!(
                "WHERE user_id = ?1 AND (created_at, id) > (?2, ?3) AND (?4 = '' OR name = ?4) \
                 AND (?5 = '' OR status = ?5) \
                 AND (?6 = '' OR id IN (SELECT workspace_id FROM api_key_workspaces WHERE key_id = ?6)) \
                 AND (?7 = '' OR id = ?7) ORDER BY created_at, id LIMIT ?8"
            ))?;
            let mut rows = statement.query(params![
                principal.user.as_str(),
                after_time,
                after_id,
                page.name.as_deref().unwrap_or(""),
                page.status.map_or("", Status::as_str),
                covered.key,
                covered.workspace,
                page.limit,
            ])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(workspace(row)?);
            }
            Ok(found)
        })
    }

    /// Returns the ids of all workspaces of the installation.
    pub async fn all_workspaces(&self) -> Result<Vec<WorkspaceId>, Error> {
        self.workspace_ids("SELECT id FROM workspaces ORDER BY id").await
    }

    /// Returns the workspaces that something is to be done for: those in a transient status, those to be deleted, those whose node does not
    /// hold the target yet, and those that run without their latest environment.
    pub async fn unsettled_workspaces(&self) -> Result<Vec<WorkspaceId>, Error> {
        // As a union, each part has an index.
        let query = "SELECT id FROM workspaces WHERE status IN ('provisioning', 'starting', 'stopping', 'deleting') \
                     UNION SELECT id FROM workspaces WHERE desired = 'deleted' \
                     UNION SELECT id FROM workspaces WHERE acknowledged_generation < generation \
                     UNION SELECT id FROM workspaces WHERE status = 'running' AND delivered_revision < env_revision";
        self.workspace_ids(query).await
    }

    async fn workspace_ids(&self, query: &'static str) -> Result<Vec<WorkspaceId>, Error> {
        let ids: Vec<String> = sqlx::query_scalar(query).fetch_all(&self.pool).await?;
        ids.iter().map(|id| parse(id)).collect()
    }

    /// Returns the resources used by a user's workspaces.
    pub async fn usage(&self, user: &UserId) -> Result<Usage, Error> {
        let mut connection = self.pool.acquire().await?;
        usage(&mut connection, user).await
    }

    /// Adds a workspace within the quota. With `idempotency_key`, a repetition returns the stored `response`.
    pub async fn create_workspace(
        &self,
        new: &Workspace,
        quota: Quota,
        idempotency_key: Option<(&IdempotencyKey, &str)>,
        event: &AuditEvent,
    ) -> Result<Replay<()>, Error> {
        let mut tx = self.begin_write().await?;
        if let Some((idempotency_key, _)) = idempotency_key
            && let Some(response) =
                idempotency::stored_response(&mut tx, &new.user_id, idempotency_key, new.created_at).await?
        {
            tx.commit().await?;
            return Ok(Replay::Repeated(response));
        }
        check_quota(usage(&mut tx, &new.user_id).await?, new.resources, quota)?;
        insert(&mut tx, new).await?;
        if let Some((idempotency_key, response)) = idempotency_key {
            idempotency::store_response(&mut tx, &new.user_id, idempotency_key, response, new.created_at)
                .await?;
        }
        audit::append(&mut tx, &self.chain, event, new.created_at).await?;
        tx.commit().await?;
        Ok(Replay::Fresh(()))
    }

    /// Stores a new state of a workspace, with a log line and, if somebody requested it, an audit event.
    /// With `admission`, the node must have the memory for it. Returns `false` if the row has changed since
    /// it was read.
    pub async fn update_lifecycle(
        &self,
        previous: &Workspace,
        lifecycle: &Lifecycle,
        admission: Option<Admission>,
        line: Option<&str>,
        event: Option<&AuditEvent>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        // Most reports change nothing but the record of what was observed, and are one statement.
        let is_bare = admission.is_none() && line.is_none() && event.is_none();
        if is_bare && keeps_everything_else(&previous.lifecycle, lifecycle) {
            return row::update(&self.writer, previous, lifecycle, now).await;
        }
        let mut tx = self.begin_write().await?;
        if let Some(admission) = admission {
            admit(&mut tx, previous, admission).await?;
        }
        let stored = row::update(&mut *tx, previous, lifecycle, now).await?;
        if stored && lifecycle.wanted.state == Desired::Deleted {
            tombstones::add(&mut tx, &previous.id, &previous.node_id, now).await?;
        }
        if stored {
            workspace_keys::apply_transition(&mut tx, &previous.id, &previous.lifecycle, lifecycle).await?;
        }
        if let Some(line) = line.filter(|_| stored) {
            workspace_log::append(&mut tx, &previous.id, now, line).await?;
        }
        if let Some(event) = event.filter(|_| stored) {
            audit::append(&mut tx, &self.chain, event, now).await?;
        }
        let is_deleted = |lifecycle: &Lifecycle| lifecycle.wanted.state == Desired::Deleted;
        let mut changes = Vec::new();
        if stored && is_deleted(lifecycle) && !is_deleted(&previous.lifecycle) {
            let (workspace, node) = (previous.id.to_string(), previous.node_id.to_string());
            changes.push(Revocation::DeletedWorkspace { workspace, node });
        }
        self.commit_revoking(tx, changes, now).await?;
        Ok(stored)
    }

    /// Stores in one write what was observed of workspaces, whose lifecycles change in nothing else. Returns the ids of those whose rows
    /// have not changed since they were read; the others stay as they are.
    pub async fn update_observed(
        &self,
        changes: &[(Workspace, Lifecycle)],
        now: Timestamp,
    ) -> Result<Vec<WorkspaceId>, Error> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        row::update_observed(&self.writer, changes, now).await
    }

    /// Removes a workspace whose deletion is still wanted under this generation. Returns `false` otherwise.
    pub async fn remove_workspace(&self, previous: &Workspace) -> Result<bool, Error> {
        let done =
            sqlx::query("DELETE FROM workspaces WHERE id = $1 AND desired = 'deleted' AND generation = $2")
                .bind(previous.id.as_str())
                .bind(i64::try_from(previous.lifecycle.wanted.generation).unwrap_or(i64::MAX))
                .execute(&self.writer)
                .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Returns whether a change of the lifecycle concerns no other table: no key, no tombstone.
fn keeps_everything_else(before: &Lifecycle, after: &Lifecycle) -> bool {
    let others =
        |lifecycle: &Lifecycle| (lifecycle.status, lifecycle.wanted.state, lifecycle.delivered.clone());
    others(before) == others(after) && before.boot() == after.boot()
}

/// Checks that the node of a workspace has the memory to run it.
async fn admit(
    connection: &mut Connection,
    workspace: &Workspace,
    admission: Admission,
) -> Result<(), Error> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS vms, CAST(COALESCE(SUM(ram_mb), 0) AS BIGINT) AS ram FROM workspaces \
         WHERE node_id = $1 AND id <> $2 AND status IN ('starting', 'running', 'stopping')",
    )
    .bind(workspace.node_id.as_str())
    .bind(workspace.id.as_str())
    .fetch_one(connection)
    .await?;
    let used_mb = number(&row, "ram")? + number(&row, "vms")? * admission.overhead_mb;
    let free_mb = admission.max_ram_mb.saturating_sub(used_mb);
    let needed_mb = u64::from(workspace.resources.ram_mb()) + admission.overhead_mb;
    if needed_mb > free_mb { Err(Error::NodeFull { needed_mb, free_mb }) } else { Ok(()) }
}

fn check_quota(used: Usage, more: Resources, quota: Quota) -> Result<(), Error> {
    for (limit_name, used, more, limit) in [
        ("max_vms", used.workspaces, 1, quota.max_vms),
        ("max_ram_total_mb", used.ram_mb, more.ram_mb(), quota.max_ram_total_mb),
        ("max_disk_total_mb", used.disk_mb, more.disk_size_mb(), quota.max_disk_total_mb),
    ] {
        if used + u64::from(more) > u64::from(limit) {
            return Err(Error::Quota { limit_name, limit: u64::from(limit), used });
        }
    }
    Ok(())
}

async fn usage(connection: &mut Connection, user: &UserId) -> Result<Usage, Error> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS workspaces, CAST(COALESCE(SUM(ram_mb), 0) AS BIGINT) AS ram, \
         CAST(COALESCE(SUM(disk_size_mb), 0) AS BIGINT) AS disk, \
         CAST(COALESCE(SUM(CASE WHEN status IN ('starting', 'running', 'stopping') THEN vcpu_count ELSE 0 END), 0) \
         AS BIGINT) AS vcpus FROM workspaces WHERE user_id = $1",
    )
    .bind(user.as_str())
    .fetch_one(connection)
    .await?;
    Ok(Usage {
        workspaces: number(&row, "workspaces")?,
        ram_mb: number(&row, "ram")?,
        disk_mb: number(&row, "disk")?,
        running_vcpus: number(&row, "vcpus")?,
    })
}

/// Reads a sum or a count, which is not negative.
fn number(row: &SqliteRow, column: &str) -> Result<u64, Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}
