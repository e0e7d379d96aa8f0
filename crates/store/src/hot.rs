//! Reads that nearly every request makes: inline on the caller's thread, over connections that only read and keep their statements
//! prepared. (sqlx asks SQLite by a thread of its own and prepares anew, which takes longer than the answer.)

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::Error;

/// More connections than threads that read are never in use; of more than these the rest is closed.
const KEPT: usize = 16;
/// Statements that one connection keeps prepared.
const STATEMENTS: usize = 32;
const BUSY: Duration = Duration::from_secs(5);

/// Connections for reading.
#[derive(Debug)]
pub(crate) struct Hot {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Hot {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::default() }
    }

    /// Runs `work` on a connection that nobody else uses meanwhile. Each statement sees all that was committed before it began.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let idle = self.idle().pop();
        let connection = idle.map_or_else(|| self.open(), Ok)?;
        // Not put back after a failure, which may be the connection's own.
        let done = work(&connection)?;
        let mut idle = self.idle();
        if idle.len() < KEPT {
            idle.push(connection);
        }
        Ok(done)
    }

    /// Closes what is open. Who reads after that opens anew.
    pub(crate) fn close(&self) {
        self.idle().clear();
    }

    fn open(&self) -> Result<Connection, Error> {
        // One thread at a time has it: SQLite need not see to that.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY)?;
        // Otherwise a statement is planned anew whenever other values are bound to it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
