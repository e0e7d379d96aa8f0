//! Workspaces. A row is updated only by a writer that has read its latest revision.

use std::collections::BTreeMap;

use rigbox_core::authz::Principal;
use rigbox_core::ids::{NodeId, UserId, WorkspaceId};
use rigbox_core::lifecycle::{Desired, Failure, Lifecycle};
use rigbox_core::names::WorkspaceName;
use rigbox_core::resources::Resources;
use rigbox_core::status::Status;
use rigbox_core::time::Timestamp;
use rusqlite::{Row, params};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::audit::{self, AuditEvent};
use crate::environment::EnvironmentNames;
use crate::idempotency::{self, IdempotencyKey, Replay};
use crate::pagination::{ScopeFilter, page_start};
use crate::revocations::entry::Revocation;
use crate::sqlite::connection::Connection;
use crate::{Error, Store, parse, tombstones, workspace_keys, workspace_log};

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

/// Boot that a workspace had when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatestBoot {
    /// Number of requested changes.
    pub generation: u64,
    /// Id of the boot, once the node has named it.
    pub boot: Option<String>,
}

impl LatestBoot {
    /// Returns whether the workspace still has this boot, or still has none.
    pub fn is_that_of(&self, workspace: &Workspace) -> bool {
        let Lifecycle { generation, boot, .. } = &workspace.lifecycle;
        (self.generation, &self.boot) == (*generation, boot)
    }
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

macro_rules! columns {
    ($rest:literal) => {
        concat!(
            "SELECT id, user_id, node_id, name, template_id, image, ram_mb, vcpu_count, disk_size_mb, revision, ",
            "status, status_since, desired, generation, has_disk, boot_id, last_boot_id, agent_lost, attempts, ",
            "failure_code, failure_message, failure_retryable, failure_at, env_names, env_revision, ",
            "created_at, updated_at, system_state ",
            "FROM workspaces ",
            $rest
        )
    };
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

    /// Returns the current boot of each workspace of the installation.
    pub async fn all_boots(&self) -> Result<BTreeMap<WorkspaceId, LatestBoot>, Error> {
        let rows =
            sqlx::query("SELECT id, generation, boot_id FROM workspaces").fetch_all(&self.pool).await?;
        let boot = |row: &SqliteRow| {
            let boot = LatestBoot { generation: number(row, "generation")?, boot: row.try_get("boot_id")? };
            Ok((parse(row.try_get("id")?)?, boot))
        };
        rows.iter().map(boot).collect()
    }

    /// Returns the workspaces in a transient status.
    pub async fn transient_workspaces(&self) -> Result<Vec<WorkspaceId>, Error> {
        let rows = sqlx::query(
            "SELECT id FROM workspaces WHERE status IN ('provisioning', 'starting', 'stopping', 'deleting')",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| parse(row.try_get("id")?)).collect()
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
        let mut tx = self.begin_write().await?;
        if let Some(admission) = admission {
            admit(&mut tx, previous, admission).await?;
        }
        let failure = lifecycle.failure.as_ref();
        let done = sqlx::query(
            "UPDATE workspaces SET revision = revision + 1, status = $1, status_since = $2, desired = $3, \
             generation = $4, has_disk = $5, boot_id = $6, last_boot_id = $7, agent_lost = $8, attempts = $9, \
             failure_code = $10, failure_message = $11, failure_retryable = $12, failure_at = $13, \
             updated_at = $14, system_state = $15 WHERE id = $16 AND revision = $17",
        )
        .bind(lifecycle.status.as_str())
        .bind(lifecycle.since.unix_ms())
        .bind(desired_text(lifecycle.desired))
        .bind(i64::try_from(lifecycle.generation).unwrap_or(i64::MAX))
        .bind(lifecycle.has_disk)
        .bind(lifecycle.boot.as_deref())
        .bind(lifecycle.last_boot.as_deref())
        .bind(lifecycle.agent_lost)
        .bind(i64::from(lifecycle.attempts))
        .bind(failure.map(|failure| failure.code.as_str()))
        .bind(failure.map(|failure| failure.message.as_str()))
        .bind(failure.map(|failure| failure.retryable))
        .bind(failure.map(|failure| failure.occurred_at.unix_ms()))
        .bind(now.unix_ms())
        .bind(lifecycle.system.as_str())
        .bind(previous.id.as_str())
        .bind(previous.revision)
        .execute(&mut *tx)
        .await?;
        let stored = done.rows_affected() == 1;
        if stored && lifecycle.desired == Desired::Deleted {
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
        let is_deleted = |lifecycle: &Lifecycle| lifecycle.desired == Desired::Deleted;
        let mut changes = Vec::new();
        if stored && is_deleted(lifecycle) && !is_deleted(&previous.lifecycle) {
            let (workspace, node) = (previous.id.to_string(), previous.node_id.to_string());
            changes.push(Revocation::DeletedWorkspace { workspace, node });
        }
        self.commit_revoking(tx, changes, now).await?;
        Ok(stored)
    }

    /// Removes a workspace that is still being deleted under this generation. Returns `false` otherwise.
    pub async fn remove_workspace(&self, previous: &Workspace) -> Result<bool, Error> {
        let done = sqlx::query("DELETE FROM workspaces WHERE id = $1 AND status = $2 AND generation = $3")
            .bind(previous.id.as_str())
            .bind(Status::Deleting.as_str())
            .bind(i64::try_from(previous.lifecycle.generation).unwrap_or(i64::MAX))
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() == 1)
    }
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

pub(crate) async fn insert(connection: &mut Connection, new: &Workspace) -> Result<(), Error> {
    let lifecycle = &new.lifecycle;
    sqlx::query(
        "INSERT INTO workspaces (id, user_id, node_id, name, template_id, image, ram_mb, vcpu_count, disk_size_mb, \
         revision, status, status_since, desired, generation, has_disk, agent_lost, attempts, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
    )
    .bind(new.id.as_str())
    .bind(new.user_id.as_str())
    .bind(new.node_id.as_str())
    .bind(new.name.as_str())
    .bind(&new.template_id)
    .bind(&new.image)
    .bind(i64::from(new.resources.ram_mb()))
    .bind(i64::from(new.resources.vcpu_count()))
    .bind(i64::from(new.resources.disk_size_mb()))
    .bind(new.revision)
    .bind(lifecycle.status.as_str())
    .bind(lifecycle.since.unix_ms())
    .bind(desired_text(lifecycle.desired))
    .bind(i64::try_from(lifecycle.generation).unwrap_or(i64::MAX))
    .bind(lifecycle.has_disk)
    .bind(lifecycle.agent_lost)
    .bind(i64::from(lifecycle.attempts))
    .bind(new.created_at.unix_ms())
    .bind(new.updated_at.unix_ms())
    .execute(connection)
    .await
    .map_err(|error| match error.as_database_error() {
        Some(database) if database.is_unique_violation() => Error::NameTaken,
        _ => Error::Sql(error),
    })?;
    Ok(())
}

/// Parses a row of `columns!`, by column position.
fn workspace(row: &Row<'_>) -> Result<Workspace, Error> {
    let text = |at: usize| Ok::<_, Error>(row.get_ref(at)?.as_str().map_err(rusqlite::Error::from)?);
    let optional =
        |at: usize| Ok::<_, Error>(row.get_ref(at)?.as_str_or_null().map_err(rusqlite::Error::from)?);
    let number = |at: usize| row.get::<_, u32>(at);
    let timestamp = |at: usize| Ok::<_, Error>(Timestamp::from_unix_ms(row.get(at)?));
    let failure = match optional(19)? {
        None => None,
        Some(code) => Some(Failure {
            code: code.to_owned(),
            message: optional(20)?.unwrap_or_default().to_owned(),
            retryable: row.get::<_, Option<bool>>(21)?.unwrap_or(false),
            occurred_at: timestamp(22)?,
        }),
    };
    Ok(Workspace {
        id: parse(text(0)?)?,
        user_id: parse(text(1)?)?,
        node_id: parse(text(2)?)?,
        name: parse(text(3)?)?,
        template_id: text(4)?.to_owned(),
        image: text(5)?.to_owned(),
        resources: Resources::new(number(6)?, number(7)?, number(8)?)
            .map_err(|error| Error::Damaged(error.to_string()))?,
        revision: row.get(9)?,
        lifecycle: Lifecycle {
            status: parse(text(10)?)?,
            since: timestamp(11)?,
            desired: desired(text(12)?)?,
            generation: u64::try_from(row.get::<_, i64>(13)?)
                .map_err(|error| Error::Damaged(error.to_string()))?,
            has_disk: row.get(14)?,
            boot: optional(15)?.map(str::to_owned),
            last_boot: optional(16)?.map(str::to_owned),
            agent_lost: row.get(17)?,
            system: parse(text(27)?)?,
            failure,
            attempts: number(18)?,
        },
        environment: EnvironmentNames::parse(text(23)?, row.get(24)?)?,
        created_at: timestamp(25)?,
        updated_at: timestamp(26)?,
    })
}

fn desired_text(desired: Desired) -> &'static str {
    match desired {
        Desired::Stopped => "stopped",
        Desired::Running => "running",
        Desired::Deleted => "deleted",
    }
}

fn desired(text: &str) -> Result<Desired, Error> {
    [Desired::Stopped, Desired::Running, Desired::Deleted]
        .into_iter()
        .find(|desired| desired_text(*desired) == text)
        .ok_or_else(|| Error::Damaged(format!("desired `{text}`")))
}
