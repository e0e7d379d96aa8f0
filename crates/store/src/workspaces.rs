//! Workspaces. A row is written only by a writer that has seen its latest revision.

use rigbox_core::ids::{NodeId, UserId, WorkspaceId};
use rigbox_core::lifecycle::{Desired, Failure, Lifecycle};
use rigbox_core::names::WorkspaceName;
use rigbox_core::permit::Principal;
use rigbox_core::sizes::Sizes;
use rigbox_core::status::Status;
use rigbox_core::time::Moment;
use rusqlite::{Row, params};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use crate::audit::{self, Act};
use crate::environment::EnvironmentNames;
use crate::idempotency::{self, Once, Replay};
use crate::lists::{Covered, begin};
use crate::{Error, Store, parsed, workspace_keys, workspace_log};

/// A workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Which one.
    pub id: WorkspaceId,
    /// Whose.
    pub user_id: UserId,
    /// Where.
    pub node_id: NodeId,
    /// What its owner calls it.
    pub name: WorkspaceName,
    /// What it was made from.
    pub template_id: String,
    /// Name of the image.
    pub image: String,
    /// How large it is.
    pub sizes: Sizes,
    /// Counts writes of the row.
    pub revision: i64,
    /// Where it is in its life.
    pub life: Lifecycle,
    /// What it has as environment, without the values.
    pub environment: EnvironmentNames,
    /// When it was asked for.
    pub created_at: Moment,
    /// When its row changed last.
    pub updated_at: Moment,
}

/// What of a list is wanted.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Only this name.
    pub name: Option<String>,
    /// Only this status.
    pub status: Option<Status>,
    /// Only what comes after this creation time and id.
    pub after: Option<(i64, String)>,
    /// At most so many.
    pub limit: u32,
}

/// What a user's workspaces come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many.
    pub workspaces: u64,
    /// MiB of memory of all.
    pub ram_mb: u64,
    /// MiB of disk of all.
    pub disk_mb: u64,
    /// Processors of those that run or are about to.
    pub running_vcpus: u64,
}

/// Ceilings on [`Usage`], checked in the transaction that adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Workspaces.
    pub max_vms: u32,
    /// MiB of memory.
    pub max_ram_total_mb: u32,
    /// MiB of disk.
    pub max_disk_total_mb: u32,
}

macro_rules! columns {
    ($rest:literal) => {
        concat!(
            "SELECT id, user_id, node_id, name, template_id, image, ram_mb, vcpu_count, disk_size_mb, revision, ",
            "status, status_since, desired, generation, has_disk, boot_id, last_boot_id, agent_lost, attempts, ",
            "failure_code, failure_message, failure_retryable, failure_at, env_names, env_revision, ",
            "created_at, updated_at ",
            "FROM workspaces ",
            $rest
        )
    };
}

impl Store {
    /// The workspace of this id.
    pub async fn workspace(&self, id: &WorkspaceId) -> Result<Option<Workspace>, Error> {
        self.hot.read(|connection| {
            let mut statement = connection.prepare_cached(columns!("WHERE id = ?1"))?;
            let mut rows = statement.query([id.as_str()])?;
            rows.next()?.map(workspace).transpose()
        })
    }

    /// A page of the workspaces that the principal's key covers, oldest first.
    pub async fn workspaces_of(&self, principal: &Principal, page: &Page) -> Result<Vec<Workspace>, Error> {
        let Some(covered) = Covered::by(principal) else { return Ok(Vec::new()) };
        let (after_time, after_id) = begin(page.after.as_ref());
        self.hot.read(|connection| {
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

    /// Every workspace of the installation with its life's status.
    pub async fn all_workspaces(&self) -> Result<Vec<(WorkspaceId, Status)>, Error> {
        let rows = sqlx::query("SELECT id, status FROM workspaces").fetch_all(&self.pool).await?;
        rows.iter().map(id_and_status).collect()
    }

    /// The workspaces that must not stay as they are.
    pub async fn transient_workspaces(&self) -> Result<Vec<WorkspaceId>, Error> {
        let rows = sqlx::query(
            "SELECT id, status FROM workspaces \
             WHERE status IN ('provisioning', 'starting', 'stopping', 'deleting')",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(id_and_status(row)?.0)).collect()
    }

    /// What a user's workspaces come to.
    pub async fn usage(&self, user: &UserId) -> Result<Usage, Error> {
        let mut connection = self.pool.acquire().await?;
        usage(&mut connection, user).await
    }

    /// Adds a workspace within the quota; with `once`, only if that was not done before. `answer` is what to remember.
    pub async fn create_workspace(
        &self,
        new: &Workspace,
        quota: Quota,
        once: Option<(&Once, &str)>,
        act: &Act,
    ) -> Result<Replay<()>, Error> {
        let mut tx = self.write().await?;
        if let Some((once, _)) = once
            && let Some(answer) = idempotency::recall(&mut tx, &new.user_id, once, new.created_at).await?
        {
            tx.commit().await?;
            return Ok(Replay::Before(answer));
        }
        check_quota(usage(&mut tx, &new.user_id).await?, new.sizes, quota)?;
        insert(&mut tx, new).await?;
        if let Some((once, answer)) = once {
            idempotency::remember(&mut tx, &new.user_id, once, answer, new.created_at).await?;
        }
        audit::append(&mut tx, &self.chain, act, new.created_at).await?;
        tx.commit().await?;
        Ok(Replay::Fresh(()))
    }

    /// Stores a new life for a workspace, unless its row has changed since it was read: then `false`. `line` is what its log says of
    /// it, `act` whose doing that was, if anybody's.
    pub async fn update_life(
        &self,
        seen: &Workspace,
        life: &Lifecycle,
        line: Option<&str>,
        act: Option<&Act>,
        now: Moment,
    ) -> Result<bool, Error> {
        let mut tx = self.write().await?;
        let failure = life.failure.as_ref();
        let done = sqlx::query(
            "UPDATE workspaces SET revision = revision + 1, status = $1, status_since = $2, desired = $3, \
             generation = $4, has_disk = $5, boot_id = $6, last_boot_id = $7, agent_lost = $8, attempts = $9, \
             failure_code = $10, failure_message = $11, failure_retryable = $12, failure_at = $13, \
             updated_at = $14 WHERE id = $15 AND revision = $16",
        )
        .bind(life.status.as_str())
        .bind(life.since.unix_ms())
        .bind(desired_text(life.desired))
        .bind(i64::try_from(life.generation).unwrap_or(i64::MAX))
        .bind(life.has_disk)
        .bind(life.boot.as_deref())
        .bind(life.last_boot.as_deref())
        .bind(life.agent_lost)
        .bind(i64::from(life.attempts))
        .bind(failure.map(|failure| failure.code.as_str()))
        .bind(failure.map(|failure| failure.message.as_str()))
        .bind(failure.map(|failure| failure.retryable))
        .bind(failure.map(|failure| failure.occurred_at.unix_ms()))
        .bind(now.unix_ms())
        .bind(seen.id.as_str())
        .bind(seen.revision)
        .execute(&mut *tx)
        .await?;
        let stored = done.rows_affected() == 1;
        if stored {
            workspace_keys::follow(&mut tx, &seen.id, &seen.life, life).await?;
        }
        if let Some(line) = line.filter(|_| stored) {
            workspace_log::append(&mut tx, &seen.id, now, line).await?;
        }
        if let Some(act) = act.filter(|_| stored) {
            audit::append(&mut tx, &self.chain, act, now).await?;
        }
        tx.commit().await?;
        Ok(stored)
    }

    /// Removes a workspace that is still being deleted for this generation; `false` when it is not.
    pub async fn forget_workspace(&self, seen: &Workspace) -> Result<bool, Error> {
        let done = sqlx::query("DELETE FROM workspaces WHERE id = $1 AND status = $2 AND generation = $3")
            .bind(seen.id.as_str())
            .bind(Status::Deleting.as_str())
            .bind(i64::try_from(seen.life.generation).unwrap_or(i64::MAX))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn check_quota(used: Usage, more: Sizes, quota: Quota) -> Result<(), Error> {
    for (limit_name, used, more, limit) in [
        ("max_vms", used.workspaces, 1, quota.max_vms),
        ("max_ram_total_mb", used.ram_mb, more.ram_mb(), quota.max_ram_total_mb),
        ("max_disk_total_mb", used.disk_mb, more.disk_size_mb(), quota.max_disk_total_mb),
    ] {
        if used + u64::from(more) > u64::from(limit) {
            return Err(Error::Quota { limit_name, limit: u64::from(limit) });
        }
    }
    Ok(())
}

async fn usage(connection: &mut SqliteConnection, user: &UserId) -> Result<Usage, Error> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS workspaces, CAST(COALESCE(SUM(ram_mb), 0) AS BIGINT) AS ram, \
         CAST(COALESCE(SUM(disk_size_mb), 0) AS BIGINT) AS disk, \
         CAST(COALESCE(SUM(CASE WHEN status IN ('starting', 'running', 'stopping') THEN vcpu_count ELSE 0 END), 0) \
         AS BIGINT) AS vcpus FROM workspaces WHERE user_id = $1",
    )
    .bind(user.as_str())
    .fetch_one(connection)
    .await?;
    let number = |column: &str| -> Result<u64, Error> {
        Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
    };
    Ok(Usage {
        workspaces: number("workspaces")?,
        ram_mb: number("ram")?,
        disk_mb: number("disk")?,
        running_vcpus: number("vcpus")?,
    })
}

async fn insert(connection: &mut SqliteConnection, new: &Workspace) -> Result<(), Error> {
    let life = &new.life;
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
    .bind(i64::from(new.sizes.ram_mb()))
    .bind(i64::from(new.sizes.vcpu_count()))
    .bind(i64::from(new.sizes.disk_size_mb()))
    .bind(new.revision)
    .bind(life.status.as_str())
    .bind(life.since.unix_ms())
    .bind(desired_text(life.desired))
    .bind(i64::try_from(life.generation).unwrap_or(i64::MAX))
    .bind(life.has_disk)
    .bind(life.agent_lost)
    .bind(i64::from(life.attempts))
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

fn id_and_status(row: &SqliteRow) -> Result<(WorkspaceId, Status), Error> {
    Ok((parsed(row.try_get("id")?)?, parsed(row.try_get("status")?)?))
}

/// A row of `columns!`, by the places that the columns have there.
fn workspace(row: &Row<'_>) -> Result<Workspace, Error> {
    let text = |at: usize| Ok::<_, Error>(row.get_ref(at)?.as_str().map_err(rusqlite::Error::from)?);
    let optional =
        |at: usize| Ok::<_, Error>(row.get_ref(at)?.as_str_or_null().map_err(rusqlite::Error::from)?);
    let number = |at: usize| row.get::<_, u32>(at);
    let moment = |at: usize| Ok::<_, Error>(Moment::from_unix_ms(row.get(at)?));
    let failure = match optional(19)? {
        None => None,
        Some(code) => Some(Failure {
            code: code.to_owned(),
            message: optional(20)?.unwrap_or_default().to_owned(),
            retryable: row.get::<_, Option<bool>>(21)?.unwrap_or(false),
            occurred_at: moment(22)?,
        }),
    };
    Ok(Workspace {
        id: parsed(text(0)?)?,
        user_id: parsed(text(1)?)?,
        node_id: parsed(text(2)?)?,
        name: parsed(text(3)?)?,
        template_id: text(4)?.to_owned(),
        image: text(5)?.to_owned(),
        sizes: Sizes::new(number(6)?, number(7)?, number(8)?)
            .map_err(|error| Error::Damaged(error.to_string()))?,
        revision: row.get(9)?,
        life: Lifecycle {
            status: parsed(text(10)?)?,
            since: moment(11)?,
            desired: desired(text(12)?)?,
            generation: u64::try_from(row.get::<_, i64>(13)?)
                .map_err(|error| Error::Damaged(error.to_string()))?,
            has_disk: row.get(14)?,
            boot: optional(15)?.map(str::to_owned),
            last_boot: optional(16)?.map(str::to_owned),
            agent_lost: row.get(17)?,
            failure,
            attempts: number(18)?,
        },
        environment: EnvironmentNames::parse(text(23)?, row.get(24)?)?,
        created_at: moment(25)?,
        updated_at: moment(26)?,
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
