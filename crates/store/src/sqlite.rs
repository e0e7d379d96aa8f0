//! SQLite backend: how the database is opened for writing, and the pool of read-only connections beside it.

use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::{Error, tokens};

pub(crate) mod readers;

/// Opens the database for writing, and creates a private file where there is none.
pub(crate) async fn open(path: &Path) -> Result<SqlitePool, Error> {
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
    let pool = SqlitePoolOptions::new()
        .max_connections(4)
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(10));
    Ok(pool.connect_with(options).await?)
}
