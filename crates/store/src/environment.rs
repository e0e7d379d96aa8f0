//! Environment variables of workspaces: names in clear beside the workspace, each value in an envelope.

use std::collections::BTreeMap;

use rigbox_core::environment::VariableName;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sqlx::Row;

use crate::audit::{self, AuditEvent};
use crate::secrets::envelope::{self, Column};
use crate::sqlite::connection::Connection;
use crate::{Error, Store, parse};

/// Column of the values.
pub(crate) static VALUE: Column =
    Column { table: "workspace_env", column: "value", row: &["workspace_id", "name"] };

/// Public part of a workspace's environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvironmentNames {
    /// Number of changes.
    pub revision: i64,
    /// Sorted names.
    pub names: Vec<VariableName>,
}

impl EnvironmentNames {
    pub(crate) fn parse(names: &str, revision: i64) -> Result<Self, Error> {
        let names = names.split(',').filter(|name| !name.is_empty()).map(parse);
        Ok(Self { revision, names: names.collect::<Result<_, _>>()? })
    }
}

/// Environment of a workspace with its values.
#[derive(Debug)]
pub struct Environment {
    /// Number of changes.
    pub revision: i64,
    /// Variables.
    pub variables: BTreeMap<VariableName, SecretString>,
}

/// Bounds of an environment.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    variables: i64,
    bytes: i64,
}

const BOUNDS: Bounds = Bounds {
    variables: rigbox_core::environment::MAX_VARIABLES,
    bytes: rigbox_core::environment::MAX_TOTAL_BYTES,
};

impl Store {
    /// Returns a workspace's environment, or `None` if there is no such workspace.
    pub async fn environment(&self, id: &WorkspaceId) -> Result<Option<Environment>, Error> {
        // One statement, so that values and revision are consistent.
        let rows = sqlx::query(
            "SELECT workspaces.env_revision, workspace_env.name, workspace_env.value FROM workspaces \
             LEFT JOIN workspace_env ON workspace_env.workspace_id = workspaces.id WHERE workspaces.id = $1",
        )
        .bind(id.as_str())
        .fetch_all(&self.pool)
        .await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut environment =
            Environment { revision: first.try_get("env_revision")?, variables: BTreeMap::new() };
        for row in &rows {
            let Some(name) = row.try_get::<Option<&str>, _>("name")? else { continue };
            let value = self.unseal(&VALUE.at(&[id.as_str(), name]), row.try_get("value")?).await?;
            let value = std::str::from_utf8(&value).map_err(|error| Error::Damaged(error.to_string()))?;
            environment.variables.insert(parse(name)?, SecretString::from(value));
        }
        Ok(Some(environment))
    }

    /// Adds or replaces variables of a workspace. Returns the environment's new revision, or `None` if there
    /// is no such workspace.
    pub async fn set_variables(
        &self,
        id: &WorkspaceId,
        variables: &BTreeMap<VariableName, SecretString>,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<Option<EnvironmentNames>, Error> {
        let (mut tx, master) = self.begin_sealed_write().await?;
        let known = sqlx::query("SELECT id FROM workspaces WHERE id = $1").bind(id.as_str());
        if known.fetch_optional(&mut *tx).await?.is_none() {
            return Ok(None);
        }
        for (name, value) in variables {
            let row = [id.as_str(), name.as_str()];
            let record = envelope::seal(&master, &VALUE.at(&row), value.expose_secret().as_bytes())?;
            sqlx::query(
                "INSERT INTO workspace_env (workspace_id, name, value, master_key) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (workspace_id, name) DO UPDATE SET value = excluded.value, master_key = excluded.master_key",
            )
            .bind(id.as_str())
            .bind(name.as_str())
            .bind(record)
            .bind(master.id().to_string())
            .execute(&mut *tx)
            .await?;
        }
        check_bounds(&mut tx, id, BOUNDS).await?;
        let names = changed(&mut tx, id, now).await?;
        audit::append(&mut tx, &self.chain, event, now).await?;
        tx.commit().await?;
        Ok(Some(names))
    }

    /// Removes a variable. Returns `None` if the workspace has none of that name.
    pub async fn remove_variable(
        &self,
        id: &WorkspaceId,
        name: &VariableName,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<Option<EnvironmentNames>, Error> {
        let mut tx = self.begin_write().await?;
        let done = sqlx::query("DELETE FROM workspace_env WHERE workspace_id = $1 AND name = $2")
            .bind(id.as_str())
            .bind(name.as_str())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        let names = changed(&mut tx, id, now).await?;
        audit::append(&mut tx, &self.chain, event, now).await?;
        tx.commit().await?;
        Ok(Some(names))
    }
}

/// Checks the bounds. A variable counts as in a process's environment: name, `=`, value, NUL.
async fn check_bounds(connection: &mut Connection, id: &WorkspaceId, bounds: Bounds) -> Result<(), Error> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS variables, CAST(COALESCE(SUM(LENGTH(name) + LENGTH(value) + 2 - $1), 0) AS BIGINT) AS bytes \
         FROM workspace_env WHERE workspace_id = $2",
    )
    .bind(envelope::OVERHEAD as i64)
    .bind(id.as_str())
    .fetch_one(connection)
    .await?;
    for (limit_name, used, limit) in [
        ("max_env_vars", row.try_get::<i64, _>("variables")?, bounds.variables),
        ("max_env_bytes", row.try_get::<i64, _>("bytes")?, bounds.bytes),
    ] {
        if used > limit {
            let (limit, used) = (limit.unsigned_abs(), used.unsigned_abs());
            return Err(Error::Quota { limit_name, limit, used });
        }
    }
    Ok(())
}

/// Records a change of the environment beside the workspace.
async fn changed(
    connection: &mut Connection,
    id: &WorkspaceId,
    now: Timestamp,
) -> Result<EnvironmentNames, Error> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT name FROM workspace_env WHERE workspace_id = $1 ORDER BY name")
            .bind(id.as_str())
            .fetch_all(&mut *connection)
            .await?;
    let names = names.join(",");
    let revision: i64 = sqlx::query_scalar(
        "UPDATE workspaces SET env_names = $1, env_revision = env_revision + 1, revision = revision + 1, \
         updated_at = $2 WHERE id = $3 RETURNING env_revision",
    )
    .bind(&names)
    .bind(now.unix_ms())
    .bind(id.as_str())
    .fetch_one(connection)
    .await?;
    EnvironmentNames::parse(&names, revision)
}
