//! Connection for short transactions that follow each other closely. Each runs inline on its caller's thread, which may wait for the disk, with
//! prepared statements. (sqlx hands each statement to a thread of its own and its rows back one by one: a dozen switches between threads for
//! a reservation of an AI call.)

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::Error;

use super::readers::open;
use super::write_lock::WriteLock;

/// The connection.
#[derive(Debug)]
pub(crate) struct InlineWriter {
    path: PathBuf,
    lock: WriteLock,
    connection: Mutex<Option<Connection>>,
}

impl InlineWriter {
    pub(crate) fn new(path: &Path, lock: WriteLock) -> Self {
        Self { path: path.to_owned(), lock, connection: Mutex::default() }
    }

    /// Runs `work` in a transaction that has the write lock from its start. It is rolled back unless `work` commits it.
    pub(crate) fn transact<T>(
        &self,
        work: impl FnOnce(Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _guard = self.lock.take_inline();
        let mut kept = self.connection();
        let mut connection = kept.take().map_or_else(|| self.open(), Ok)?;
        // Not kept after a failure, which may be the connection's own.
        let done = work(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)?;
        *kept = Some(connection);
        Ok(done)
    }

    /// Closes the connection. A later transaction opens a new one.
    pub(crate) fn close(&self) {
        self.connection().take();
    }

    fn open(&self) -> Result<Connection, Error> {
        let connection = open(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // As of the other connection that writes: acknowledged writes survive a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
