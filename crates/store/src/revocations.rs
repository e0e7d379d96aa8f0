//! Log of revocations, a file beside the database. A database that is put back from a backup has no trace of what was revoked since; the
//! log has, and each opening applies what the database lacks.
//!
//! - An entry is appended within the transaction that revokes, before it commits. So what was acknowledged is in the log.
//! - The transaction also stores the entry's number in the database. Whoever opens a database with a lower number than the log's last one
//!   has an older database, or one whose process was killed before the commit: both times the missing entries are applied, and all sign-ins
//!   end.
//! - A transaction that fails leaves an entry that nobody was told about. The next entry takes its number; before anything else is written,
//!   an empty one does. So what is permitted later is not taken back by it.

pub(crate) mod entry;
mod file;
mod health;
mod replay;

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use rigbox_core::ids::DatabaseId;
use rigbox_core::time::Timestamp;

use self::entry::{Entry, Revocation, effective};
use self::file::LogFile;
pub use self::health::RevocationLogHealth;
use crate::sqlite::connection::{Connection, Transaction};
use crate::tokens::TokenKey;
use crate::{Error, Step, Store, backup};

/// Number of the last entry that the database has.
const NUMBER: &str = "SELECT seq FROM revocation_log";
/// Number of the next one.
const NEXT_NUMBER: &str = "UPDATE revocation_log SET seq = seq + 1 RETURNING seq";
/// Id of the database.
const DATABASE_ID: &str = "SELECT id FROM database_identity";

/// The log, and what this process knows of its end.
#[derive(Debug)]
pub(crate) struct RevocationLog {
    file: LogFile,
    address_key: [u8; 32],
    /// Number of an appended entry whose transaction may have failed; 0 if there is none.
    uncommitted: AtomicI64,
}

impl RevocationLog {
    pub(crate) fn new(database: &Path, token_key: &TokenKey) -> Self {
        let address_key = token_key.derive("Rigbox revocation log, version 1");
        Self { file: LogFile::beside(database), address_key, uncommitted: AtomicI64::new(0) }
    }

    /// Returns the keyed hash of an email address.
    pub(crate) fn hash_address(&self, address: &str) -> String {
        blake3::keyed_hash(&self.address_key, address.as_bytes()).to_hex().chars().take(32).collect()
    }

    /// Empties the entry of a transaction that failed, if there is one. The caller has the write lock.
    pub(crate) async fn settle(&self, connection: &mut Connection) -> Result<(), Error> {
        match self.uncommitted.load(Ordering::SeqCst) {
            0 => Ok(()),
            uncommitted => self.empty(uncommitted, number(connection).await?),
        }
    }

    /// Does the same for a transaction of the connection that is used inline.
    pub(crate) fn settle_inline(&self, connection: &rusqlite::Connection) -> Result<(), Error> {
        match self.uncommitted.load(Ordering::SeqCst) {
            0 => Ok(()),
            uncommitted => self.empty(uncommitted, connection.query_row(NUMBER, [], |row| row.get(0))?),
        }
    }

    /// Empties the entry `uncommitted`, unless the database has it: the number of its last one is `last`.
    fn empty(&self, uncommitted: i64, last: i64) -> Result<(), Error> {
        if last < uncommitted && self.file.exists() {
            self.file.append(&Entry { seq: uncommitted, at: 0, changes: Vec::new() })?;
        }
        self.committed(uncommitted);
        Ok(())
    }

    fn committed(&self, seq: i64) {
        // Another transaction may have appended since.
        let _ = self.uncommitted.compare_exchange(seq, 0, Ordering::SeqCst, Ordering::SeqCst);
    }
}

impl Store {
    /// Commits a transaction that revokes: `changes` are durable in the log before.
    pub(crate) async fn commit_revoking(
        &self,
        mut tx: Transaction,
        changes: Vec<Revocation>,
        now: Timestamp,
    ) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(tx.commit().await?);
        }
        let seq: i64 = sqlx::query_scalar(NEXT_NUMBER).fetch_one(&mut *tx).await?;
        let id: String = sqlx::query_scalar(DATABASE_ID).fetch_one(&mut *tx).await?;
        // On this thread, although it waits for the disk: a call that is canceled must not append after it has lost the lock.
        self.append_revocations(&id, Entry { seq, at: now.unix_ms(), changes })?;
        if let Err(error) = self.perform(Step::CommitRevocation, tx.commit()).await {
            // Settles the entry, at the latest before the next change.
            drop(self.begin_write().await);
            return Err(error.into());
        }
        self.revocations.committed(seq);
        Ok(())
    }

    /// Commits a transaction of the connection that is used inline. If that fails, the next change settles the entry.
    pub(crate) fn commit_revoking_inline(
        &self,
        tx: rusqlite::Transaction<'_>,
        changes: Vec<Revocation>,
        now: Timestamp,
    ) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(tx.commit()?);
        }
        let seq = tx.query_row(NEXT_NUMBER, [], |row| row.get(0))?;
        let id: String = tx.query_row(DATABASE_ID, [], |row| row.get(0))?;
        self.append_revocations(&id, Entry { seq, at: now.unix_ms(), changes })?;
        self.pass_before(Step::CommitRevocation);
        tx.commit()?;
        self.pass_after(Step::CommitRevocation);
        self.revocations.committed(seq);
        Ok(())
    }

    /// Appends an entry to the log of this database. Its transaction commits next.
    fn append_revocations(&self, database: &str, entry: Entry) -> Result<(), Error> {
        let RevocationLog { file, uncommitted, .. } = &*self.revocations;
        let before = entry.seq - 1;
        if !file.exists() {
            tracing::warn!(path = %file.path().display(), "the log of revocations is gone; beginning a new one");
            file.create(database, before)?;
        }
        if file.is_large()
            && let Some(log) = file.read()?
        {
            file.compact(&log, before)?;
        }
        uncommitted.store(entry.seq, Ordering::SeqCst);
        self.pass_before(Step::AppendRevocation);
        file.append(&entry)?;
        self.pass_after(Step::AppendRevocation);
        Ok(())
    }

    /// Applies the entries of the log that the database lacks, and creates a log where there is none.
    pub(crate) async fn replay_revocations(&self) -> Result<(), Error> {
        let id = self.database_id().await?;
        let mut tx = self.begin_write().await?;
        let log = &self.revocations;
        let path = log.file.path().display();
        let seq = number(&mut tx).await?;
        let Some(mut read) = log.file.read()? else {
            if seq > 0 {
                tracing::warn!(
                    %path,
                    "the log of revocations is missing; if this database was restored, look through what was revoked since its backup"
                );
            }
            log.file.create(id.as_str(), seq)?;
            return Ok(tx.commit().await?);
        };
        check_owner(&log.file, &read, &id)?;
        let lacks_older = seq < read.header.after;
        if lacks_older || seq > read.last() {
            tracing::warn!(%path, "the log of revocations lacks some entries; look through what was revoked lately");
        }
        if seq > read.last() {
            // Before the next entry, after which nothing would tell.
            log.file.mark_loss(&mut read, seq)?;
        }
        let missing: Vec<Entry> = read.entries.iter().filter(|entry| entry.seq > seq).cloned().collect();
        let mut applied = 0_usize;
        for entry in effective(&missing) {
            for change in &entry.changes {
                let hash = |address: &str| log.hash_address(address);
                replay::apply(&mut tx, change, &hash, Timestamp::from_unix_ms(entry.at)).await?;
                applied += usize::from(change.is_of_access());
            }
        }
        if applied > 0 || lacks_older {
            backup::end_all(&mut tx).await?;
            tracing::warn!(
                %path,
                applied,
                "this database is older than the log of revocations; applied what was revoked since, and ended all sign-ins"
            );
        }
        if read.last() > seq {
            let query = "UPDATE revocation_log SET seq = $1";
            sqlx::query(query).bind(read.last()).execute(&mut *tx).await?;
        }
        log.file.compact(&read, seq)?;
        Ok(tx.commit().await?)
    }
}

/// Checks that the log beside a database is that of the database with this id. Returns whether there is one.
pub fn check_revocation_log(database: &Path, id: &DatabaseId) -> Result<bool, Error> {
    let log = LogFile::beside(database);
    match log.read()? {
        Some(read) => check_owner(&log, &read, id).map(|()| true),
        None => Ok(false),
    }
}

fn check_owner(log: &LogFile, read: &file::Log, id: &DatabaseId) -> Result<(), Error> {
    if read.belongs_to(id.as_str()) {
        return Ok(());
    }
    Err(Error::ForeignLog {
        path: log.path().display().to_string(),
        found: read.header.database.clone(),
        database: id.clone(),
    })
}

/// Returns the number of the last entry that the database has.
async fn number(connection: &mut Connection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(NUMBER).fetch_one(connection).await?)
}
