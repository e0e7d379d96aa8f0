//! Schema migrations, in the order in which they run. A migration that was released never changes: the database keeps its checksum.

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use crate::sqlite::connection::Pool;

/// Lists files of `migrations/`, each with its version and description. Embedding them here and not with `sqlx::migrate!` keeps sqlx's
/// macros out of the build: those compile SQLite a second time, for the compiler's own use.
macro_rules! migrations {
    ($($version:literal $name:literal $description:literal,)*) => {
        &[$(($version, $description, include_str!(concat!("../migrations/", $name)))),*]
    };
}

const MIGRATIONS: &[(i64, &str, &str)] = migrations![
    1 "0001_ground.sql" "ground",
    2 "0002_keys.sql" "keys",
    3 "0003_audit.sql" "audit",
    4 "0004_sign_in.sql" "sign in",
    5 "0005_secrets.sql" "secrets",
    6 "0006_user_limits.sql" "user limits",
    9 "0009_grants.sql" "grants",
    10 "0010_apps.sql" "apps",
    11 "0011_workspace_log.sql" "workspace log",
    12 "0012_system.sql" "system",
    13 "0013_audit_retention.sql" "audit retention",
    14 "0014_device_clients.sql" "device clients",
    15 "0015_released_names.sql" "released names",
    16 "0016_kept_workspaces.sql" "kept workspaces",
    17 "0017_code_hosts.sql" "code hosts",
    18 "0018_revocations.sql" "revocations",
    19 "0019_network_revisions.sql" "network revisions",
    20 "0020_observed.sql" "observed",
    21 "0021_ssh_keys.sql" "ssh keys",
    22 "0022_ssh_gateway.sql" "ssh gateway",
    23 "0023_start_on_connect.sql" "start on connect",
    24 "0024_ai.sql" "ai",
    25 "0025_ssh_sessions.sql" "ssh sessions",
    26 "0026_own_ai.sql" "own ai",
    27 "0027_own_keys_by_proxy.sql" "own keys by proxy",
];

/// Runs migrations that a database lacks.
pub(crate) async fn run(migrator: &Migrator, database: &Pool) -> Result<(), MigrateError> {
    match database {
        Pool::Shared { pool, .. } => migrator.run(pool).await,
        Pool::InTurn { in_turn, .. } => in_turn.take()?.run(|connection| migrator.run(connection)),
    }
}

/// Returns what brings a database to this version's schema.
pub(crate) fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, description, sql)| {
        Migration::new(*version, (*description).into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Returns the version of this version's schema.
pub(crate) fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn every_migration_is_listed_unchanged() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"));
        let on_disk = Migrator::new(folder).await.unwrap();
        let fields = |migration: &Migration| {
            (migration.version, migration.description.to_string(), migration.checksum.to_vec())
        };
        let listed: Vec<_> = migrator().iter().map(fields).collect();
        assert_eq!(listed, on_disk.iter().map(fields).collect::<Vec<_>>());
    }
}
