//! Environment variables of workspaces: the names in clear, beside the workspace; each value in an envelope.

use std::collections::BTreeMap;

use rigbox_core::environment::VariableName;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Moment;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Row, SqliteConnection};

use crate::audit::{self, Act};
use crate::envelope::{self, Column};
use crate::{Error, Store, parsed};

/// Where the values stand.
pub(crate) static VALUE: Column =
    Column { table: "workspace_env", column: "value", row: &["workspace_id", "name"] };

/// What everybody who may see a workspace may know of its environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvironmentNames {
    /// Counts changes.
    pub revision: i64,
    /// The names, sorted.
    pub names: Vec<VariableName>,
}

impl EnvironmentNames {
    pub(crate) fn parse(names: &str, revision: i64) -> Result<Self, Error> {
        let names = names.split(',').filter(|name| !name.is_empty()).map(parsed);
        Ok(Self { revision, names: names.collect::<Result<_, _>>()? })
    }
}

/// A workspace's environment with its values.
#[derive(Debug)]
pub struct Environment {
    /// Counts changes.
    pub revision: i64,
    /// The variables.
    pub variables: BTreeMap<VariableName, SecretString>,
}

/// How large an environment may become.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    variables: i64,
    bytes: i64,
}

const BOUNDS: Bounds = Bounds {
    variables: rigbox_core::environment::MOST_VARIABLES,
    bytes: rigbox_core::environment::MOST_BYTES,
};

impl Store {
    /// A workspace's environment; `None` when there is no such workspace.
    pub async fn environment(&self, id: &WorkspaceId) -> Result<Option<Environment>, Error> {
        // One statement, so that values and revision are of one moment.
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
            environment.variables.insert(parsed(name)?, SecretString::from(value));
        }
        Ok(Some(environment))
    }

    /// Adds variables to a workspace's environment, or gives them other values. Answers the environment's revision; `None` when there
    /// is no such workspace.
    pub async fn set_variables(
        &self,
        id: &WorkspaceId,
        variables: &BTreeMap<VariableName, SecretString>,
        act: &Act,
        now: Moment,
    ) -> Result<Option<EnvironmentNames>, Error> {
        let (mut tx, master) = self.write_sealing().await?;
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
        audit::append(&mut tx, &self.chain, act, now).await?;
        tx.commit().await?;
        Ok(Some(names))
    }

    /// Removes a variable; `None` when the workspace has none of that name.
    pub async fn remove_variable(
        &self,
        id: &WorkspaceId,
        name: &VariableName,
        act: &Act,
        now: Moment,
    ) -> Result<Option<EnvironmentNames>, Error> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM workspace_env WHERE workspace_id = $1 AND name = $2")
            .bind(id.as_str())
            .bind(name.as_str())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        let names = changed(&mut tx, id, now).await?;
        audit::append(&mut tx, &self.chain, act, now).await?;
        tx.commit().await?;
        Ok(Some(names))
    }
}

/// A variable counts as it does in a process's environment: name, `=`, value, NUL.
async fn check_bounds(
    connection: &mut SqliteConnection,
    id: &WorkspaceId,
    bounds: Bounds,
) -> Result<(), Error> {
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
            return Err(Error::Quota { limit_name, limit: limit.unsigned_abs() });
        }
    }
    Ok(())
}

/// Writes beside the workspace that its environment is another one.
async fn changed(
    connection: &mut SqliteConnection,
    id: &WorkspaceId,
    now: Moment,
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
