//! Rows of workspaces: how one is written, and how it is read.

use sqlx::{Executor, QueryBuilder, Sqlite};

use crate::sqlite::connection::Connection;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Delivered, Desired, Failure, Lifecycle, Observed, Target};
use rigbox_core::resources::Resources;
use rigbox_core::time::Timestamp;
use rusqlite::Row;

use super::Workspace;
use crate::environment::EnvironmentNames;
use crate::{Error, json, parse};

/// Revision of the environment of a boot that gets its secrets again, whatever it has.
pub(crate) const UNDELIVERED: i64 = -1;

/// Returns the text of a query that [`workspace`] parses the rows of.
macro_rules! columns {
    ($rest:literal) => {
        concat!(
            "SELECT id, user_id, node_id, name, template_id, image, ram_mb, vcpu_count, disk_size_mb, revision, ",
            "status, status_since, desired, generation, has_disk, was_started, observed, delivered_boot, attempts, ",
            "failure_code, failure_message, failure_retryable, failure_at, env_names, env_revision, ",
            "created_at, updated_at, delivered_revision ",
            "FROM workspaces ",
            $rest
        )
    };
}
pub(super) use columns;

/// Adds a row.
pub(crate) async fn insert(connection: &mut Connection, new: &Workspace) -> Result<(), Error> {
    let lifecycle = &new.lifecycle;
    sqlx::query(
        "INSERT INTO workspaces (id, user_id, node_id, name, template_id, image, ram_mb, vcpu_count, disk_size_mb, \
         revision, status, status_since, desired, generation, has_disk, was_started, observed, acknowledged_generation, \
         attempts, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)",
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
    .bind(desired_text(lifecycle.wanted.state))
    .bind(signed(lifecycle.wanted.generation))
    .bind(lifecycle.has_disk)
    .bind(lifecycle.was_started)
    .bind(observed_text(&lifecycle.observed)?)
    .bind(signed(lifecycle.observed.target.generation))
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

/// Replaces the lifecycle of a row. Returns `false` if the row has changed since it was read.
pub(super) async fn update(
    executor: impl Executor<'_, Database = Sqlite>,
    previous: &Workspace,
    lifecycle: &Lifecycle,
    now: Timestamp,
) -> Result<bool, Error> {
    let (failure, delivered) = (lifecycle.failure.as_ref(), lifecycle.delivered.as_ref());
    let done = sqlx::query(
        "UPDATE workspaces SET revision = revision + 1, status = $1, status_since = $2, desired = $3, \
         generation = $4, has_disk = $5, boot_id = $6, was_started = $7, observed = $8, \
         acknowledged_generation = $9, delivered_boot = $10, delivered_revision = $11, attempts = $12, \
         failure_code = $13, failure_message = $14, failure_retryable = $15, failure_at = $16, \
         updated_at = $17 WHERE id = $18 AND revision = $19",
    )
    .bind(lifecycle.status.as_str())
    .bind(lifecycle.since.unix_ms())
    .bind(desired_text(lifecycle.wanted.state))
    .bind(signed(lifecycle.wanted.generation))
    .bind(lifecycle.has_disk)
    .bind(lifecycle.boot())
    .bind(lifecycle.was_started)
    .bind(observed_text(&lifecycle.observed)?)
    .bind(signed(lifecycle.observed.target.generation))
    .bind(delivered.map(|delivered| delivered.boot.as_str()))
    .bind(delivered.map_or(UNDELIVERED, |delivered| delivered.revision))
    .bind(i64::from(lifecycle.attempts))
    .bind(failure.map(|failure| failure.code.as_str()))
    .bind(failure.map(|failure| failure.message.as_str()))
    .bind(failure.map(|failure| failure.retryable))
    .bind(failure.map(|failure| failure.occurred_at.unix_ms()))
    .bind(now.unix_ms())
    .bind(previous.id.as_str())
    .bind(previous.revision)
    .execute(executor)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Replaces what was observed in several rows. Returns the ids of those that have not changed since they were read.
pub(super) async fn update_observed(
    executor: impl Executor<'_, Database = Sqlite>,
    changes: &[(Workspace, Lifecycle)],
    now: Timestamp,
) -> Result<Vec<WorkspaceId>, Error> {
    let mut rows = Vec::new();
    for (previous, Lifecycle { observed, .. }) in changes {
        rows.push((previous, observed_text(observed)?, signed(observed.target.generation)));
    }
    let mut query = QueryBuilder::<Sqlite>::new("UPDATE workspaces SET updated_at = ");
    query.push_bind(now.unix_ms());
    query.push(
        ", revision = workspaces.revision + 1, observed = new.column3, acknowledged_generation = new.column4 FROM (",
    );
    query.push_values(rows, |mut row, (previous, observed, generation)| {
        row.push_bind(previous.id.as_str()).push_bind(previous.revision);
        row.push_bind(observed).push_bind(generation);
    });
    query.push(") AS new WHERE id = new.column1 AND revision = new.column2 RETURNING id");
    let ids: Vec<String> = query.build_query_scalar().fetch_all(executor).await?;
    ids.iter().map(|id| parse(id)).collect()
}

/// Parses a row of `columns!`, by column position.
pub(super) fn workspace(row: &Row<'_>) -> Result<Workspace, Error> {
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
    let delivered = match optional(17)? {
        None => None,
        Some(boot) => Some(Delivered { boot: boot.to_owned(), revision: row.get(27)? }),
    };
    let generation =
        u64::try_from(row.get::<_, i64>(13)?).map_err(|error| Error::Damaged(error.to_string()))?;
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
            wanted: Target { generation, state: desired(text(12)?)? },
            was_started: row.get(15)?,
            observed: observed(text(16)?)?,
            has_disk: row.get(14)?,
            delivered,
            failure,
            status: parse(text(10)?)?,
            since: timestamp(11)?,
            attempts: number(18)?,
        },
        environment: EnvironmentNames::parse(text(23)?, row.get(24)?)?,
        created_at: timestamp(25)?,
        updated_at: timestamp(26)?,
    })
}

fn signed(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}

fn observed_text(observed: &Observed) -> Result<String, Error> {
    if *observed == Observed::nothing() { Ok(String::new()) } else { json::to_text(observed) }
}

fn observed(text: &str) -> Result<Observed, Error> {
    if text.is_empty() { Ok(Observed::nothing()) } else { json::parse(text) }
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
