//! SQLite backend: how the database is opened for writing, and the connections beside it that are used inline.

use std::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use crate::{Error, tokens};

use connection::Pool;
use in_turn::{InTurn, WriteFaults};
use inline_writer::InlineWriter;
use write_lock::{ACQUIRE_TIMEOUT, WriteLock};

pub(crate) mod connection;
pub(crate) mod in_turn;
pub(crate) mod inline_writer;
pub(crate) mod readers;
pub(crate) mod write_lock;

/// Connections to the database.
pub(crate) struct Pools {
    /// One connection: SQLite has one writer at a time, and lets those that wait for it starve each other.
    pub(crate) writer: Pool,
    pub(crate) readers: Pool,
    pub(crate) inline_writer: InlineWriter,
}

/// Opens the database, and creates a private file where there is none.
pub(crate) async fn open(path: &Path) -> Result<Pools, Error> {
    let options = options(path)?;
    let pool = |max_connections| {
        SqlitePoolOptions::new()
            .max_connections(max_connections)
            .min_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // There is no server that could have closed it, and each test is an exchange with the connection's thread.
            .test_before_acquire(false)
            // SQLite itself rolls back a transaction when the disk is full or fails. sqlx then counts it as open for ever, and begins no
            // other on this connection, which is closed here; another one takes its place.
            .before_acquire(|connection, _| Box::pin(ready(Ok(!connection.is_in_transaction()))))
    };
    // First the one that may create the file.
    let lock = WriteLock::new();
    let writer = Pool::Shared { pool: pool(1).connect_with(options.clone()).await?, lock: lock.clone() };
    let readers = pool(4).connect_with(options.pragma("query_only", "on")).await?;
    let readers = Pool::Shared { pool: readers, lock: WriteLock::default() };
    Ok(Pools { writer, readers, inline_writer: InlineWriter::new(path, lock) })
}

/// Opens the database for calls in turn.
pub(crate) fn open_in_turn(path: &Path, faults: WriteFaults) -> Result<Pools, Error> {
    // What a simulation writes need not survive the machine.
    let options = options(path)?.synchronous(SqliteSynchronous::Off);
    let in_turn = Arc::new(InTurn::new(in_turn::block_on(options.connect())?, faults));
    let pool = |writes| Pool::InTurn { in_turn: Arc::clone(&in_turn), writes };
    let inline_writer = InlineWriter::new(path, WriteLock::default());
    Ok(Pools { writer: pool(true), readers: pool(false), inline_writer })
}

fn options(path: &Path) -> Result<SqliteConnectOptions, Error> {
    if !path.exists() {
        tokens::create_private(path, &[])?;
    }
    Ok(SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // Acknowledged writes survive a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5)))
}
