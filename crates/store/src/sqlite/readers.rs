//! Read-only connections for queries that nearly every request makes, run inline on the caller's thread with
//! prepared statements. (sqlx hands SQLite queries to a thread of its own and prepares them anew, which takes
//! longer than the query.)

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::Error;

/// Maximum number of idle connections kept open.
const MAX_IDLE_CONNECTIONS: usize = 16;
/// Prepared statements kept per connection.
const STATEMENT_CACHE_CAPACITY: usize = 32;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pool of read-only connections.
#[derive(Debug)]
pub(crate) struct ReadPool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl ReadPool {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::default() }
    }

    /// Runs `work` with exclusive use of a connection. Each statement sees everything committed before it
    /// starts.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let idle = self.idle().pop();
        let connection = idle.map_or_else(|| open(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY), Ok)?;
        // Not returned to the pool after a failure, which may be the connection's own.
        let done = work(&connection)?;
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(connection);
        }
        Ok(done)
    }

    /// Closes idle connections. A later read opens a new one.
    pub(crate) fn close(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a connection that is used inline.
pub(super) fn open(path: &Path, access: OpenFlags) -> Result<Connection, Error> {
    // Only one thread uses a connection at a time, so SQLite need not lock.
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Otherwise a statement is planned again whenever its parameters change.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
    Ok(connection)
}
