//! SQLite backend: how the database is opened for writing, and the pool of read-only connections beside it.

use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::{Error, tokens};

pub(crate) mod readers;

/// Connections to the database.
pub(crate) struct Pools {
    /// One connection: SQLite has one writer at a time, and lets those that wait for it starve each other.
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
}

/// Opens the database, and creates a private file where there is none.
pub(crate) async fn open(path: &Path) -> Result<Pools, Error> {
    if !path.exists() {
        tokens::create_private(path, &[])?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // Acknowledged writes survive a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5));
    let pool = |max_connections| {
        SqlitePoolOptions::new()
            .max_connections(max_connections)
            .min_connections(1)
            .acquire_timeout(Duration::from_secs(10))
    };
    // First the one that may create the file.
    let writer = pool(1).connect_with(options.clone()).await?;
    Ok(Pools { writer, readers: pool(4).connect_with(options.pragma("query_only", "on")).await? })
}
