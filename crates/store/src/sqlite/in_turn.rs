//! Calls to the database in turn: each is over before anything else of the caller's thread runs, so that a simulation on one thread with a
//! paused clock has one order of events. Writes can be made to fail.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake};
use std::thread::Thread;

use sqlx::SqliteConnection;

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// Nothing is written, as when the disk is full or the database busy.
    NotWritten,
    /// It is written, and the caller learns of a failure.
    Written,
}

/// Decides whether the next write fails.
pub type WriteFaults = Arc<dyn Fn() -> Option<WriteFault> + Send + Sync>;

/// The one connection that all calls take turns with.
pub(crate) struct InTurn {
    connection: Mutex<Option<SqliteConnection>>,
    faults: WriteFaults,
}

/// Use of the connection, until dropped. A transaction that was begun and not committed is rolled back.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Absent only while it is dropped.
    connection: Option<SqliteConnection>,
    in_turn: Arc<InTurn>,
    in_transaction: bool,
}

impl std::fmt::Debug for InTurn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InTurn")
    }
}

impl InTurn {
    pub(crate) fn new(connection: SqliteConnection, faults: WriteFaults) -> Self {
        Self { connection: Mutex::new(Some(connection)), faults }
    }

    /// Takes the connection. Fails while another caller has it, which means that a call was not over when it should have been.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Turn, sqlx::Error> {
        let connection = self.slot().take().ok_or(sqlx::Error::PoolClosed)?;
        Ok(Turn { connection: Some(connection), in_turn: Arc::clone(self), in_transaction: false })
    }

    /// Closes the connection.
    pub(crate) fn close(&self) {
        if let Some(connection) = self.slot().take() {
            // Like any other close: what was committed is there.
            drop(block_on(sqlx::Connection::close(connection)));
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<SqliteConnection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Begins a transaction that has the write lock from its start.
    pub(crate) fn begin_immediate(&mut self) -> Result<(), sqlx::Error> {
        self.run(|connection| sqlx::query("BEGIN IMMEDIATE").execute(connection))?;
        self.in_transaction = true;
        Ok(())
    }

    pub(crate) fn commit(mut self) -> Result<(), sqlx::Error> {
        self.write(|turn| {
            turn.run(|connection| sqlx::query("COMMIT").execute(connection))?;
            turn.in_transaction = false;
            Ok(())
        })
    }

    /// Runs something that writes, or makes it fail.
    pub(crate) fn write<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let failed = || sqlx::Error::Io(std::io::Error::other("the write was made to fail"));
        match (self.in_turn.faults)() {
            Some(WriteFault::NotWritten) => Err(failed()),
            Some(WriteFault::Written) => work(self).and_then(|_| Err(failed())),
            None => work(self),
        }
    }

    /// Runs a query to its end.
    pub(crate) fn run<'s, T, E, F>(
        &'s mut self,
        query: impl FnOnce(&'s mut SqliteConnection) -> F,
    ) -> Result<T, E>
    where
        E: From<sqlx::Error>,
        F: Future<Output = Result<T, E>>,
    {
        block_on(query(self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)?))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A connection on which the rollback fails is of no use to anybody.
        if self.in_transaction && self.run(|connection| sqlx::query("ROLLBACK").execute(connection)).is_err()
        {
            return;
        }
        *self.in_turn.slot() = self.connection.take();
    }
}

/// Runs a call to its end on this thread. SQLite answers on a thread of sqlx's own, so nothing of the caller's runtime is needed.
pub(crate) fn block_on<F: Future>(call: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut call = pin!(call);
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        match call.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
