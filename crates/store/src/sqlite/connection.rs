//! Connections to the database, as all queries see them: from a pool, or in turn.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use futures_util::TryStreamExt;
use futures_util::future::{BoxFuture, FutureExt, ready};
use futures_util::stream::{BoxStream, StreamExt, iter, once};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteQueryResult, SqliteRow, SqliteStatement, SqliteTypeInfo};
use sqlx::{Either, Execute, Executor, SqlStr, Sqlite, SqlitePool};

use super::in_turn::{InTurn, Turn};

type Step = Either<SqliteQueryResult, SqliteRow>;

/// Source of connections.
#[derive(Debug, Clone)]
pub(crate) enum Pool {
    Shared(SqlitePool),
    /// The same connection for all. `writes` tells what it is used for.
    InTurn {
        in_turn: Arc<InTurn>,
        writes: bool,
    },
}

/// Connection that its holder uses alone.
#[derive(Debug)]
pub(crate) enum Connection {
    Pooled(PoolConnection<Sqlite>),
    Transaction(sqlx::Transaction<'static, Sqlite>),
    ByQueries(ByQueries),
    InTurn(Turn),
}

/// Connection with a transaction that its queries begin and commit themselves, together with other statements.
#[derive(Debug)]
pub(crate) struct ByQueries {
    connection: PoolConnection<Sqlite>,
    is_committed: bool,
}

impl Drop for ByQueries {
    fn drop(&mut self) {
        if !self.is_committed {
            // Which rolls it back, wherever it was.
            self.connection.close_on_drop();
        }
    }
}

/// Transaction that writes. It is rolled back when it is dropped.
#[derive(Debug)]
pub(crate) struct Transaction(Connection);

impl Pool {
    pub(crate) async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        match self {
            Self::Shared(pool) => Ok(Connection::Pooled(pool.acquire().await?)),
            Self::InTurn { in_turn, .. } => Ok(Connection::InTurn(in_turn.take()?)),
        }
    }

    /// Begins a transaction that has the write lock from its start.
    pub(crate) async fn begin_immediate(&self) -> Result<Transaction, sqlx::Error> {
        match self {
            Self::Shared(pool) => {
                Ok(Transaction(Connection::Transaction(pool.begin_with("BEGIN IMMEDIATE").await?)))
            }
            Self::InTurn { in_turn, .. } => {
                let mut turn = in_turn.take()?;
                turn.begin_immediate()?;
                Ok(Transaction(Connection::InTurn(turn)))
            }
        }
    }

    /// Begins a transaction by a query whose first statement is `BEGIN IMMEDIATE`. Returns it with the rows of each statement.
    pub(crate) async fn begin_by<'q, const N: usize>(
        &self,
        query: impl Execute<'q, Sqlite> + 'q,
    ) -> Result<(Transaction, [Vec<SqliteRow>; N]), sqlx::Error> {
        let mut connection = match self {
            Self::Shared(pool) => {
                let connection = pool.acquire().await?;
                Connection::ByQueries(ByQueries { connection, is_committed: false })
            }
            Self::InTurn { in_turn, .. } => {
                let mut turn = in_turn.take()?;
                turn.is_begun();
                Connection::InTurn(turn)
            }
        };
        let rows = connection.fetch_each(query).await?;
        Ok((Transaction(connection), rows))
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Shared(pool) => pool.close().await,
            Self::InTurn { in_turn, .. } => in_turn.close(),
        }
    }
}

impl Transaction {
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        match self.0 {
            Connection::Transaction(transaction) => transaction.commit().await,
            Connection::ByQueries(_) => self.commit_by(sqlx::query("COMMIT")).await,
            Connection::InTurn(turn) => turn.commit(),
            Connection::Pooled(_) => Ok(()),
        }
    }

    /// Commits by a query whose last statement is `COMMIT`.
    pub(crate) async fn commit_by<'q>(self, query: impl Execute<'q, Sqlite> + 'q) -> Result<(), sqlx::Error> {
        match self.0 {
            Connection::InTurn(turn) => turn.commit_by(query),
            mut connection => {
                (&mut connection).execute(query).await?;
                if let Connection::ByQueries(by_queries) = &mut connection {
                    by_queries.is_committed = true;
                }
                Ok(())
            }
        }
    }

    pub(crate) async fn rollback(self) -> Result<(), sqlx::Error> {
        match self.0 {
            Connection::Transaction(transaction) => transaction.rollback().await,
            // When it is dropped.
            Connection::ByQueries(_) | Connection::InTurn(_) | Connection::Pooled(_) => Ok(()),
        }
    }
}

impl Connection {
    /// Runs the statements of a query in one exchange, and returns the rows of each. There must be `N`.
    pub(crate) async fn fetch_each<'q, const N: usize>(
        &mut self,
        query: impl Execute<'q, Sqlite> + 'q,
    ) -> Result<[Vec<SqliteRow>; N], sqlx::Error> {
        let mut steps = self.fetch_many(query);
        let (mut all, mut rows) = (Vec::with_capacity(N), Vec::new());
        while let Some(step) = steps.try_next().await? {
            match step {
                Either::Left(_) => all.push(mem::take(&mut rows)),
                Either::Right(row) => rows.push(row),
            }
        }
        let wrong = |_| sqlx::Error::Protocol("a query has another number of statements".to_owned());
        all.try_into().map_err(wrong)
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
            Connection::Pooled(connection) => connection.fetch_many(query),
            Connection::Transaction(transaction) => transaction.fetch_many(query),
            Connection::ByQueries(by_queries) => by_queries.connection.fetch_many(query),
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
            Connection::Pooled(connection) => connection.fetch_optional(query),
            Connection::Transaction(transaction) => transaction.fetch_optional(query),
            Connection::ByQueries(by_queries) => by_queries.connection.fetch_optional(query),
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
            Connection::Pooled(connection) => connection.prepare_with(sql, parameters),
            Connection::Transaction(transaction) => transaction.prepare_with(sql, parameters),
            Connection::ByQueries(by_queries) => by_queries.connection.prepare_with(sql, parameters),
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
            Pool::Shared(pool) => pool.fetch_many(query),
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
        let Pool::Shared(pool) = self else {
            let is_row = |step: Step| ready(Ok(step.right()));
            let rows = self.fetch_many(query).try_filter_map(is_row);
            return rows.try_collect::<Vec<_>>().map(|rows| Ok(rows?.into_iter().next())).boxed();
        };
        pool.fetch_optional(query)
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
            Pool::Shared(pool) => pool.prepare_with(sql, parameters),
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
