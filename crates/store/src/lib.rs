//! Database of the control role: opening, migrations, and one file of queries per noun. No other crate
//! contains SQL.
//!
//! The backend is SQLite. The queries keep to the subset that PostgreSQL accepts too.

use std::path::Path;
use std::sync::Arc;

use rigbox_core::ids::{DatabaseId, SshKeyId, WorkspaceId};
use rigbox_core::time::Timestamp;
use rigbox_sys::kill_points::KillPoints;
use sqlx::Row;
use sqlx::migrate::MigrateError;

use sqlite::Pools;
use sqlite::connection::{Pool, Transaction};

mod ai;
mod api_keys;
mod app_sessions;
mod apps;
mod audit;
mod backup;
mod clock;
mod credential_cache;
mod database_id;
mod devices;
mod environment;
mod idempotency;
mod json;
mod migrations;
mod networks;
mod orphans;
mod pagination;
mod proxied_secrets;
mod revocations;
mod secrets;
mod sessions;
mod sqlite;
mod ssh_gateway;
mod ssh_keys;
mod ssh_sessions;
mod ssh_settings;
mod step;
pub mod tokens;
mod tombstones;
mod user_limits;
mod users;
mod workspace_keys;
mod workspace_log;
mod workspaces;

pub use ai::{
    AiCap, AiConfigChange, AiCredits, AiDay, AiDenial, AiEnding, AiModelSum, AiOutcome, AiProxyState,
    AiReservation, AiSettlement, AiStep, AiSubject, AiSums, AiTerms, AiWorkspaceSum, OwnAiCall, OwnAiOutcome,
    ProviderKey, ProviderKeySecret, WorkspaceAi, WorkspaceAiMode,
};
pub use api_keys::{KeyHolder, KeyRecord, NewKey, NewSecret};
pub use app_sessions::{AppHandoff, SessionHolder};
pub use apps::{App, AppHost, AppPage, AppWithWorkspace};
pub use audit::{AuditEntry, AuditEvent};
pub use backup::{CopyInfo, inspect_copy};
pub use clock::Clock;
pub use devices::{DeviceLogin, Poll, StartedLogin};
pub use environment::{Environment, EnvironmentNames};
pub use idempotency::{IdempotencyKey, Replay};
pub use networks::{NetworkRevisions, NetworkSettings};
pub use orphans::Orphan;
pub use proxied_secrets::{OpenedSecret, ProxiedSecret};
pub use revocations::{RevocationLogHealth, check_revocation_log};
pub use secrets::master_key::{KeySource, MasterKeyId};
pub use secrets::rotation::Rotation;
pub use sessions::{NewSession, SignedIn};
pub use sqlite::in_turn::{WriteFault, WriteFaults};
pub use ssh_gateway::{SSH_SECRET_LEN, SshSecret};
pub use ssh_keys::{NewSshKey, SshKey, SshKeyOwner};
pub use ssh_sessions::NewSshSession;
pub use step::Step;
pub use users::User;
pub use workspace_log::LogEntry;
pub use workspaces::{Admission, Page, Quota, Usage, Workspace};

/// Database error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database was written by a newer version of Rigbox.
    #[error(
        "the database has schema version {0}, which is newer than this rigboxd: start the newer version, or restore a backup from before the upgrade"
    )]
    NewerSchema(i64),
    /// A migration failed.
    #[error("failed to migrate the database to this version's schema: {0}")]
    Migration(MigrateError),
    /// A file exists but is unusable.
    #[error("{path}: {problem}")]
    File {
        /// Path of the file.
        path: String,
        /// Problem with the file.
        problem: String,
    },
    /// The log of revocations belongs to another database.
    #[error(
        "{path} has the revocations of the database {found}, not of {database}. Restore that database, or move the log away"
    )]
    ForeignLog {
        /// Path of the log.
        path: String,
        /// Id of its database.
        found: String,
        /// Id of this database.
        database: DatabaseId,
    },
    /// The system's random number generator failed.
    #[error("the system's random number generator failed: {0}")]
    Random(String),
    /// The database contains a value that this program does not write.
    #[error("corrupt value in the database: {0}")]
    Damaged(String),
    /// The name is taken, by another workspace of the user or by another app.
    #[error("name taken")]
    NameTaken,
    /// The request would exceed a quota.
    #[error("{limit_name}: the limit of {limit} would be exceeded")]
    Quota {
        /// Name of the limit.
        limit_name: &'static str,
        /// Value of the limit.
        limit: u64,
        /// Current usage.
        used: u64,
    },
    /// The node lacks the memory to run the workspace.
    #[error("the node has {free_mb} MiB of memory free, and the workspace needs {needed_mb} MiB")]
    NodeFull {
        /// Memory that the workspace needs in MiB.
        needed_mb: u64,
        /// Memory that no running workspace has in MiB.
        free_mb: u64,
    },
    /// The idempotency key was used for a different request.
    #[error("the idempotency key was used for a different request")]
    KeyReused,
    /// The user has no such workspace.
    #[error("Workspace `{0}` not found.")]
    NoWorkspace(WorkspaceId),
    /// The master keys are unavailable.
    #[error("no master key from {origin}: {problem}")]
    MasterKeySource {
        /// Source of the keys.
        origin: String,
        /// Problem with the source.
        problem: String,
    },
    /// The master key does not belong to this database.
    #[error(
        "wrong master key: the database is encrypted with master key {wanted}, which {origin} does not contain; nothing was changed: restore that key from its backup"
    )]
    WrongMasterKey {
        /// Id of the required key.
        wanted: MasterKeyId,
        /// Source that lacks it.
        origin: String,
    },
    /// A rotation cannot start.
    #[error("cannot rotate the master key: {0}")]
    Rotation(String),
    /// This handle was opened without master keys.
    #[error("the database was opened without its master key")]
    Locked,
    /// A secret fails authentication.
    #[error("cannot decrypt a secret in {table}.{column}: it was modified, or moved from another row")]
    DecryptFailed {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
    },
    /// The cipher failed to encrypt.
    #[error("encryption failed")]
    Cipher,
    /// The user has registered this SSH key before.
    #[error("the SSH key is registered as {id}")]
    SshKeyExists {
        /// Id of the registered key.
        id: SshKeyId,
        /// Its name.
        name: String,
    },
    /// There is already a first user, or a user with this email address.
    #[error("the user already exists")]
    UserExists,
    /// Any other database error.
    #[error("database: {0}")]
    Sql(#[from] sqlx::Error),
    /// Error of a connection that is used inline.
    #[error("database: {0}")]
    Inline(#[from] rusqlite::Error),
}

impl Error {
    /// Returns the error of a file that is unusable.
    pub(crate) fn file(path: &Path, problem: impl std::fmt::Display) -> Self {
        Self::File { path: path.display().to_string(), problem: problem.to_string() }
    }
}

/// Handle to the database.
#[derive(Debug, Clone)]
pub struct Store {
    /// Connections that only read, so that no reader waits behind writers.
    pool: Pool,
    /// The connection that writes. Writers wait for it in the order of arrival.
    writer: Pool,
    readers: Arc<sqlite::readers::ReadPool>,
    /// Connection that writes for the ledger of AI calls.
    inline_writer: Arc<sqlite::inline_writer::InlineWriter>,
    credentials: Arc<credential_cache::CredentialCache>,
    chain: audit::ChainKey,
    revocations: Arc<revocations::RevocationLog>,
    /// Master keys; see [`Store::unlock`].
    keyring: Option<secrets::keyring::Keyring>,
    kill_points: KillPoints,
    clock: Clock,
}

impl Store {
    /// Opens the database, creates it if necessary, migrates it to this version's schema, and applies revocations that it lacks.
    pub async fn open(path: &Path, token_key: &tokens::TokenKey) -> Result<Self, Error> {
        Self::open_with(sqlite::open(path).await?, path, token_key).await
    }

    /// Opens the database for a simulation: calls run in turn, and writes fail as `faults` decides.
    pub async fn open_in_turn(
        path: &Path,
        token_key: &tokens::TokenKey,
        faults: WriteFaults,
    ) -> Result<Self, Error> {
        Self::open_with(sqlite::open_in_turn(path, faults)?, path, token_key).await
    }

    async fn open_with(pools: Pools, path: &Path, token_key: &tokens::TokenKey) -> Result<Self, Error> {
        let Pools { writer, readers, inline_writer } = pools;
        migrations::run(&migrations::migrator(), &writer).await.map_err(|error| match error {
            MigrateError::VersionMissing(version) => Error::NewerSchema(version),
            other => Error::Migration(other),
        })?;
        let store = Self {
            pool: readers,
            writer,
            readers: Arc::new(sqlite::readers::ReadPool::new(path)),
            inline_writer: Arc::new(inline_writer),
            credentials: Arc::default(),
            chain: audit::ChainKey::of(token_key),
            revocations: Arc::new(revocations::RevocationLog::new(path, token_key)),
            keyring: None,
            kill_points: KillPoints::default(),
            clock: Clock::default(),
        };
        store.replay_revocations().await?;
        Ok(store)
    }

    /// Checks that the database responds.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Closes all connections after pending work.
    pub async fn close(&self) {
        // The last connection cleans up, which a read-only one could not.
        self.readers.close();
        self.inline_writer.close();
        self.pool.close().await;
        self.writer.close().await;
    }

    /// Begins a writing transaction. It waits for the write lock at the start, so it never fails half-way on
    /// a conflict.
    async fn begin_write(&self) -> Result<Transaction, Error> {
        let mut tx = self.writer.begin_immediate().await?;
        self.revocations.settle(&mut tx).await?;
        Ok(tx)
    }
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Random(error.to_string()))?;
    Ok(bytes)
}

pub(crate) fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Error>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Error::Damaged(error.to_string()))
}

/// Reads a nullable timestamp column.
pub(crate) fn timestamp(row: &sqlx::sqlite::SqliteRow, column: &str) -> Result<Option<Timestamp>, Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_unix_ms))
}

#[cfg(test)]
mod tests;
