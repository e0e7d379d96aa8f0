//! Rotation of the master key while everything is running. Each step is durable before the next starts and
//! follows from durable state, so the next run completes a rotation that was killed anywhere:
//!
//! 1. (file) a new key is put first in the file, before the old one: two keys mark an unfinished rotation;
//! 2. the first key of the source becomes active: from now on nothing is encrypted with another;
//! 3. the data keys of all records are rewrapped in batches;
//! 4. the database forgets the other keys, and (file) so does the file.

use std::fs::File;

use rigbox_core::time::Timestamp;
use sqlx::{AssertSqlSafe, Row};

use crate::ai;
use crate::environment;
use crate::proxied_secrets;
use crate::secrets::envelope::{self, Column};
use crate::secrets::keyring::{self, Keyring};
use crate::secrets::master_key::{self, KeySource, MasterKey, MasterKeyId};
use crate::sqlite::connection::Connection;
use crate::ssh_gateway;
use crate::{Error, Store, parse};

/// All columns that hold envelopes.
pub(crate) const SEALED_COLUMNS: [&Column; 5] =
    [&environment::VALUE, &ssh_gateway::VALUE, &ai::PROVIDER_KEY, &ai::OWN_KEY, &proxied_secrets::VALUE];

/// Records rewrapped per transaction; other writers get their turn in between.
const BATCH: i64 = 100;

/// Result of a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Id of the new master key.
    pub to: MasterKeyId,
    /// Number of rewrapped records.
    pub records: u64,
    /// True if an interrupted rotation was resumed.
    pub resumed: bool,
}

impl Store {
    /// Rotates the master key, or completes an interrupted rotation. For sources other than a file the
    /// operator has to put the new key first beforehand.
    pub async fn rotate_master_key(&self, now: Timestamp) -> Result<Rotation, Error> {
        let _alone = self.lock_rotation()?;
        let (to, resumed) = self.start_rotation().await?;
        self.activate(to, now).await?;
        let mut records = 0;
        loop {
            match self.rewrap_batch(to).await? {
                0 => break,
                some => records += some,
            }
        }
        self.remove_unused_keys(to).await?;
        Ok(Rotation { to, records, resumed })
    }

    /// Takes the rotation lock: two concurrent rotations would take each other's key for the old one. The
    /// lock ends with the process.
    pub(crate) fn lock_rotation(&self) -> Result<Option<File>, Error> {
        let KeySource::File(path) = &*self.keyring()?.source else { return Ok(None) };
        let path = path.with_added_extension("lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = open.map_err(|error| Error::Rotation(format!("{}: {error}", path.display())))?;
        lock.try_lock().map_err(|_| Error::Rotation("another rotation is in progress".to_owned()))?;
        Ok(Some(lock))
    }

    /// Returns the key to rewrap with, and whether an earlier rotation is being resumed.
    pub(crate) async fn start_rotation(&self) -> Result<(MasterKeyId, bool), Error> {
        let keyring = self.keyring()?;
        keyring.reload().await?;
        let ring = keyring.source.read().await?;
        let active = keyring::active(&mut self.pool.acquire().await?).await?.ok_or(Error::Locked)?;
        if ring.get(active).is_none() {
            return Err(keyring.wrong(active));
        }
        let first = ring.first();
        match &*keyring.source {
            KeySource::File(path) if ring.others().is_empty() => {
                let new = MasterKey::generate()?;
                master_key::write(path, &[&new, first])?;
                keyring.reload().await?;
                Ok((new.id(), false))
            }
            KeySource::File(_) => Ok((first.id(), true)),
            KeySource::Env(_) | KeySource::Command(_) if first.id() != active => Ok((first.id(), false)),
            KeySource::Env(_) | KeySource::Command(_) if self.others_in_use(active).await? > 0 => {
                Ok((active, true))
            }
            KeySource::Env(_) | KeySource::Command(_) => Err(Error::Rotation(format!(
                "everything is already encrypted with the first key of {}: put a new key before it, keep the old one after it, and rotate again",
                keyring.source
            ))),
        }
    }

    pub(crate) async fn activate(&self, to: MasterKeyId, now: Timestamp) -> Result<(), Error> {
        let mut tx = self.begin_write().await?;
        keyring::activate(&mut tx, to, now).await?;
        Ok(tx.commit().await?)
    }

    /// Rewraps a batch of records with the master key `to`. Returns their number.
    pub(crate) async fn rewrap_batch(&self, to: MasterKeyId) -> Result<u64, Error> {
        let mut tx = self.begin_write().await?;
        for column in SEALED_COLUMNS {
            let records = rewrap(&mut tx, self.keyring()?, column, to).await?;
            if records > 0 {
                tx.commit().await?;
                return Ok(records);
            }
        }
        Ok(0)
    }

    /// Forgets the keys that nothing needs anymore.
    async fn remove_unused_keys(&self, to: MasterKeyId) -> Result<(), Error> {
        sqlx::query("DELETE FROM master_keys WHERE NOT active").execute(&self.writer).await?;
        let keyring = self.keyring()?;
        if let KeySource::File(path) = &*keyring.source {
            let ring = keyring.ring();
            master_key::write(path, &[ring.get(to).ok_or_else(|| keyring.wrong(to))?])?;
        }
        Ok(())
    }

    /// Counts the records that another key than `active` opens.
    async fn others_in_use(&self, active: MasterKeyId) -> Result<i64, Error> {
        let mut all = 0;
        for Column { table, .. } in SEALED_COLUMNS {
            let count = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table} WHERE master_key <> $1"));
            all += sqlx::query_scalar::<_, i64>(count).bind(active.to_string()).fetch_one(&self.pool).await?;
        }
        Ok(all)
    }
}

/// Rewraps a batch of one column.
async fn rewrap(
    tx: &mut Connection,
    keyring: &Keyring,
    column: &'static Column,
    to: MasterKeyId,
) -> Result<u64, Error> {
    let Column { table, column: name, row: key } = column;
    let ring = keyring.ring();
    let master = ring.get(to).ok_or_else(|| keyring.wrong(to))?;
    let select =
        format!("SELECT {}, {name}, master_key FROM {table} WHERE master_key <> $1 LIMIT $2", key.join(", "));
    let rows =
        sqlx::query(AssertSqlSafe(select)).bind(to.to_string()).bind(BATCH).fetch_all(&mut *tx).await?;
    let of_row: Vec<String> = key.iter().zip(3..).map(|(part, n)| format!("{part} = ${n}")).collect();
    let update = format!("UPDATE {table} SET {name} = $1, master_key = $2 WHERE {}", of_row.join(" AND "));
    for row in &rows {
        let parts = key.iter().map(|part| row.try_get::<&str, _>(*part)).collect::<Result<Vec<_>, _>>()?;
        let from: MasterKeyId = parse(row.try_get("master_key")?)?;
        let old = ring.get(from).ok_or_else(|| keyring.wrong(from))?;
        let record = envelope::rewrap(old, master, &column.at(&parts), row.try_get(*name)?)?;
        let mut query = sqlx::query(AssertSqlSafe(update.clone())).bind(record).bind(to.to_string());
        for part in parts {
            query = query.bind(part);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(rows.len() as u64)
}
