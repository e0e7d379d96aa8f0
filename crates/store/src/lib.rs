//! Control's database: opening and migrating it, and one file of queries per noun. No other crate writes SQL.
//!
//! SQLite on one machine. The text of the queries keeps to what PostgreSQL takes too.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Moment;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, SqlitePool};

mod api_keys;
mod app_sessions;
mod apps;
mod audit;
mod devices;
mod envelope;
mod environment;
mod holders;
mod hot;
mod idempotency;
mod lists;
mod master_key;
mod networks;
mod rotation;
pub mod secret;
mod sessions;
mod user_limits;
mod users;
mod vault;
mod workspace_keys;
mod workspace_log;
mod workspaces;

pub use api_keys::{Holder, KeyRecord, NewKey, NewSecret};
pub use app_sessions::{SessionHolder, WayToApp};
pub use apps::{App, AppAt, AppHost, AppPage};
pub use audit::{Act, AuditEntry};
pub use devices::{DeviceLogin, Poll};
pub use environment::{Environment, EnvironmentNames};
pub use idempotency::{Once, Replay};
pub use master_key::{KeySource, MasterKeyId};
pub use networks::NetworkSettings;
pub use rotation::Rotation;
pub use sessions::{NewSession, SignedIn};
pub use users::User;
pub use workspace_log::LogEntry;
pub use workspaces::{Page, Quota, Usage, Workspace};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database was written by a newer version of Rigbox.
    #[error(
        "the database has schema version {0}, which this version does not know: it was written by a newer rigboxd; start that one, or restore a backup from before the upgrade"
    )]
    NewerSchema(i64),
    /// A migration did not run.
    #[error("the database could not be brought to this version's schema: {0}")]
    Migration(MigrateError),
    /// The file is there and cannot be used.
    #[error("file {path}: {problem}")]
    File {
        /// Which file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The system has no random numbers.
    #[error("no random numbers from the system: {0}")]
    Random(String),
    /// A value in the database is none that this program writes.
    #[error("the database has a damaged value: {0}")]
    Damaged(String),
    /// Another one has the name: a workspace of the user, or an app.
    #[error("name taken")]
    NameTaken,
    /// A quota would be exceeded.
    #[error("{limit_name}: {limit} would be exceeded")]
    Quota {
        /// Name of the limit.
        limit_name: &'static str,
        /// Its value.
        limit: u64,
    },
    /// The idempotency key was used for another request.
    #[error("idempotency key used for another request")]
    KeyReused,
    /// The user has no such workspace.
    #[error("no workspace `{0}`: not found")]
    NoWorkspace(WorkspaceId),
    /// The master keys cannot be had.
    #[error("no master key from {origin}: {problem}")]
    MasterKeySource {
        /// Where they come from.
        origin: String,
        /// What is wrong.
        problem: String,
    },
    /// The master key is another one than the database's.
    #[error(
        "wrong master key: secrets in the database are encrypted with the master key {wanted}, which {origin} does not have; nothing was changed: put that key back, from its backup if need be"
    )]
    WrongMasterKey {
        /// The id of the key that is wanted.
        wanted: MasterKeyId,
        /// Where it was looked for.
        origin: String,
    },
    /// A rotation cannot begin.
    #[error("the master key cannot be rotated: {0}")]
    Rotation(String),
    /// The master keys were not given to this handle.
    #[error("the database was opened without its master key")]
    Locked,
    /// A secret is not what this program wrote there.
    #[error("a secret in {table}.{column} does not open: it was changed, or moved from another row")]
    DoesNotOpen {
        /// In which table.
        table: &'static str,
        /// In which column.
        column: &'static str,
    },
    /// The cipher refused to encrypt.
    #[error("the cipher failed")]
    Cipher,
    /// There is a first user, or one with this e-mail address, already.
    #[error("there is such a user already")]
    UserExists,
    /// Anything else from the database.
    #[error("database: {0}")]
    Sql(#[from] sqlx::Error),
    /// The same, from a connection that only reads.
    #[error("database: {0}")]
    Read(#[from] rusqlite::Error),
}

/// The open database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    hot: Arc<hot::Hot>,
    holders: Arc<holders::Holders>,
    chain: audit::ChainKey,
    /// What opens secrets; see [`Store::unlock`].
    vault: Option<vault::Vault>,
}

impl Store {
    /// Opens the database, makes it where there is none, and brings it to this version's schema.
    pub async fn open(path: &Path, token_key: &secret::TokenKey) -> Result<Self, Error> {
        let fresh = !path.exists();
        if fresh {
            secret::create_private(path, &[])?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // What was acknowledged survives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .min_connections(1)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options)
            .await?;
        MIGRATIONS.run(&pool).await.map_err(|error| match error {
            MigrateError::VersionMissing(version) => Error::NewerSchema(version),
            other => Error::Migration(other),
        })?;
        Ok(Self {
            pool,
            hot: Arc::new(hot::Hot::new(path)),
            holders: Arc::default(),
            chain: audit::ChainKey::of(token_key),
            vault: None,
        })
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Closes all connections; what is under way is finished first.
    pub async fn close(&self) {
        // The last connection tidies up, and one that only reads could not.
        self.hot.close();
        self.pool.close().await;
    }

    /// A transaction that will write: it waits for its turn at the beginning, so it never fails half-way for another's.
    async fn write(&self) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>, Error> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Random(error.to_string()))?;
    Ok(bytes)
}

pub(crate) fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, Error>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Error::Damaged(error.to_string()))
}

/// A column of a moment that may be missing.
pub(crate) fn moment(row: &sqlx::sqlite::SqliteRow, column: &str) -> Result<Option<Moment>, Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Moment::from_unix_ms))
}

#[cfg(test)]
mod tests;
