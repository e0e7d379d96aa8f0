//! Connections to the database, as all queries see them: from a pool, or in turn.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use futures_util::TryStreamExt;
use futures_util::future::{BoxFuture, FutureExt, TryFutureExt, ready};
use futures_util::stream::{BoxStream, StreamExt, iter, once};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteQueryResult, SqliteRow, SqliteStatement, SqliteTypeInfo};
use sqlx::{Either, Execute, Executor, SqlStr, Sqlite, SqlitePool};

use super::in_turn::{InTurn, Turn};
use super::write_lock::{WriteGuard, WriteLock};

type Step = Either<SqliteQueryResult, SqliteRow>;

/// Source of connections.
#[derive(Debug, Clone)]
pub(crate) enum Pool {
    Shared {
        pool: SqlitePool,
        /// Lock that is held with a connection.
        lock: WriteLock,
    },
    /// The same connection for all. `writes` tells what it is used for.
    InTurn { in_turn: Arc<InTurn>, writes: bool },
}

/// Connection that its holder uses alone.
#[derive(Debug)]
pub(crate) enum Connection {
    Pooled { connection: PoolConnection<Sqlite>, _guard: WriteGuard },
    Transaction(sqlx::Transaction<'static, Sqlite>, WriteGuard),
    InTurn(Turn),
}

/// Transaction that writes. It is rolled back when it is dropped.
#[derive(Debug)]
pub(crate) struct Transaction(Connection);

impl Pool {
    pub(crate) async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        match self {
            Self::Shared { pool, lock } => {
                let guard = lock.take().await?;
                Ok(Connection::Pooled { connection: pool.acquire().await?, _guard: guard })
            }
            Self::InTurn { in_turn, .. } => Ok(Connection::InTurn(in_turn.take()?)),
        }
    }

    /// Begins a transaction that has the write lock from its start.
    pub(crate) async fn begin_immediate(&self) -> Result<Transaction, sqlx::Error> {
        match self {
            Self::Shared { pool, lock } => {
                let guard = lock.take().await?;
                let transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
                Ok(Transaction(Connection::Transaction(transaction, guard)))
            }
            Self::InTurn { in_turn, .. } => {
                let mut turn = in_turn.take()?;
                turn.begin_immediate()?;
                Ok(Transaction(Connection::InTurn(turn)))
            }
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Shared { pool, .. } => pool.close().await,
            Self::InTurn { in_turn, .. } => in_turn.close(),
        }
    }
}

impl Transaction {
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        match self.0 {
            Connection::Transaction(transaction, _guard) => transaction.commit().await,
            Connection::InTurn(turn) => turn.commit(),
            Connection::Pooled { .. } => Ok(()),
        }
    }

    pub(crate) async fn rollback(self) -> Result<(), sqlx::Error> {
        match self.0 {
            Connection::Transaction(transaction, _guard) => transaction.rollback().await,
            // When it is dropped.
            Connection::InTurn(_) | Connection::Pooled { .. } => Ok(()),
        }
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Sqlite;

    fn fetch_many<'e, 'q, E>(self, query: E) -> BoxStream<'e, Result<Step, sqlx::Error>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        match self {
            Connection::Pooled { connection, .. } => connection.fetch_many(query),
            Connection::Transaction(transaction, _) => transaction.fetch_many(query),
            Connection::InTurn(turn) => {
                all(turn.run(|connection| connection.fetch_many(query).try_collect()))
            }
        }
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<SqliteRow>, sqlx::Error>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        match self {
            Connection::Pooled { connection, .. } => connection.fetch_optional(query),
            Connection::Transaction(transaction, _) => transaction.fetch_optional(query),
            Connection::InTurn(turn) => {
                ready(turn.run(|connection| connection.fetch_optional(query))).boxed()
            }
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqliteTypeInfo],
    ) -> BoxFuture<'e, Result<SqliteStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        match self {
            Connection::Pooled { connection, .. } => connection.prepare_with(sql, parameters),
            Connection::Transaction(transaction, _) => transaction.prepare_with(sql, parameters),
            Connection::InTurn(turn) => {
                ready(turn.run(|connection| connection.prepare_with(sql, parameters))).boxed()
            }
        }
    }
}

impl<'c> Executor<'c> for &'c Pool {
    type Database = Sqlite;

    fn fetch_many<'e, 'q, E>(self, query: E) -> BoxStream<'e, Result<Step, sqlx::Error>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        match self {
            Pool::Shared { pool, lock } => async move {
                let guard = lock.take().await?;
                // The stream takes the guard along.
                Ok(pool.fetch_many(query).inspect(move |_| _ = &guard))
            }
            .try_flatten_stream()
            .boxed(),
            Pool::InTurn { in_turn, writes } => all(in_turn.take().and_then(|mut turn| {
                let run = |turn: &mut Turn| turn.run(|connection| connection.fetch_many(query).try_collect());
                if *writes { turn.write(run) } else { run(&mut turn) }
            })),
        }
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<SqliteRow>, sqlx::Error>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        let Pool::Shared { pool, lock } = self else {
            let is_row = |step: Step| ready(Ok(step.right()));
            let rows = self.fetch_many(query).try_filter_map(is_row);
            return rows.try_collect::<Vec<_>>().map(|rows| Ok(rows?.into_iter().next())).boxed();
        };
        async move {
            let _guard = lock.take().await?;
            pool.fetch_optional(query).await
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqliteTypeInfo],
    ) -> BoxFuture<'e, Result<SqliteStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        match self {
            Pool::Shared { pool, .. } => pool.prepare_with(sql, parameters),
            Pool::InTurn { in_turn, .. } => {
                let prepare =
                    |mut turn: Turn| turn.run(|connection| connection.prepare_with(sql, parameters));
                ready(in_turn.take().and_then(prepare)).boxed()
            }
        }
    }
}

/// Returns the outcome of a query as a stream.
fn all<'e>(steps: Result<Vec<Step>, sqlx::Error>) -> BoxStream<'e, Result<Step, sqlx::Error>> {
    match steps {
        Ok(steps) => iter(steps.into_iter().map(Ok)).boxed(),
        Err(error) => once(ready(Err(error))).boxed(),
    }
}
