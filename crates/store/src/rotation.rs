//! Another master key, while everything runs. Each step is on disk before the next begins and follows from what is on disk, so a
//! rotation that was killed anywhere is finished by the next run:
//!
//! 1. (file) a new key stands first in the file, the old one behind it: two keys are a rotation that is not finished;
//! 2. the first key of the keyring is the active one: from now on nobody encrypts with another;
//! 3. the data keys of all records are wrapped by it, some at a time;
//! 4. the database forgets the others, and (file) so does the file.

use std::fs::File;

use rigbox_core::time::Moment;
use sqlx::{AssertSqlSafe, Row};

use crate::envelope::{self, Column};
use crate::environment;
use crate::master_key::{self, KeySource, MasterKey, MasterKeyId};
use crate::vault::{self, Vault};
use crate::{Error, Store, parsed};

/// Every column that holds envelopes.
pub(crate) const SEALED: [&Column; 1] = [&environment::VALUE];

/// Records that are taken over in one transaction: others write in between.
const BATCH: i64 = 100;

/// What a rotation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The key that everything is encrypted with now.
    pub to: MasterKeyId,
    /// Records that were encrypted with another one.
    pub records: u64,
    /// Whether it went on where an earlier one had been interrupted.
    pub resumed: bool,
}

impl Store {
    /// Rotates the master key, or finishes a rotation that was interrupted. With another source than a file the operator has put the
    /// new key first before.
    pub async fn rotate_master_key(&self, now: Moment) -> Result<Rotation, Error> {
        let _alone = self.lock_rotation()?;
        let (to, resumed) = self.begin_rotation().await?;
        self.activate(to, now).await?;
        let mut records = 0;
        loop {
            match self.rewrap_some(to).await? {
                0 => break,
                some => records += some,
            }
        }
        self.forget_others(to).await?;
        Ok(Rotation { to, records, resumed })
    }

    /// Two at one time would each take the other's key for the old one. Free again when the process has ended, however it did.
    pub(crate) fn lock_rotation(&self) -> Result<Option<File>, Error> {
        let KeySource::File(path) = &*self.vault()?.source else { return Ok(None) };
        let path = path.with_added_extension("lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = open.map_err(|error| Error::Rotation(format!("{}: {error}", path.display())))?;
        lock.try_lock().map_err(|_| Error::Rotation("another rotation is under way".to_owned()))?;
        Ok(Some(lock))
    }

    /// The key that everything is to be encrypted with, and whether an earlier rotation had begun to.
    pub(crate) async fn begin_rotation(&self) -> Result<(MasterKeyId, bool), Error> {
        let vault = self.vault()?;
        vault.reload().await?;
        let ring = vault.source.read().await?;
        let active = vault::active(&mut *self.pool.acquire().await?).await?.ok_or(Error::Locked)?;
        if ring.get(active).is_none() {
            return Err(vault.wrong(active));
        }
        let first = ring.first();
        match &*vault.source {
            KeySource::File(path) if ring.others().is_empty() => {
                let new = MasterKey::generate()?;
                master_key::write(path, &[&new, first])?;
                vault.reload().await?;
                Ok((new.id(), false))
            }
            KeySource::File(_) => Ok((first.id(), true)),
            KeySource::Env(_) | KeySource::Command(_) if first.id() != active => Ok((first.id(), false)),
            KeySource::Env(_) | KeySource::Command(_) if self.others_in_use(active).await? > 0 => {
                Ok((active, true))
            }
            KeySource::Env(_) | KeySource::Command(_) => Err(Error::Rotation(format!(
                "everything is encrypted with the first key of {} already: put a new key before it, keep the old one behind it, and rotate again",
                vault.source
            ))),
        }
    }

    pub(crate) async fn activate(&self, to: MasterKeyId, now: Moment) -> Result<(), Error> {
        let mut tx = self.write().await?;
        vault::activate(&mut tx, to, now).await?;
        Ok(tx.commit().await?)
    }

    /// Wraps the data keys of some records by the master key `to`; answers how many.
    pub(crate) async fn rewrap_some(&self, to: MasterKeyId) -> Result<u64, Error> {
        let mut tx = self.write().await?;
        for column in SEALED {
            let records = rewrap(&mut tx, self.vault()?, column, to).await?;
            if records > 0 {
                tx.commit().await?;
                return Ok(records);
            }
        }
        Ok(0)
    }

    /// Nothing needs the other keys any more.
    async fn forget_others(&self, to: MasterKeyId) -> Result<(), Error> {
        sqlx::query("DELETE FROM master_keys WHERE NOT active").execute(&self.pool).await?;
        let vault = self.vault()?;
        if let KeySource::File(path) = &*vault.source {
            let ring = vault.ring();
            master_key::write(path, &[ring.get(to).ok_or_else(|| vault.wrong(to))?])?;
        }
        Ok(())
    }

    /// Records that another key than `active` opens.
    async fn others_in_use(&self, active: MasterKeyId) -> Result<i64, Error> {
        let mut all = 0;
        for Column { table, .. } in SEALED {
            let count = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table} WHERE master_key <> $1"));
            all += sqlx::query_scalar::<_, i64>(count).bind(active.to_string()).fetch_one(&self.pool).await?;
        }
        Ok(all)
    }
}

/// The same for one column.
async fn rewrap(
    tx: &mut sqlx::SqliteConnection,
    vault: &Vault,
    column: &'static Column,
    to: MasterKeyId,
) -> Result<u64, Error> {
    let Column { table, column: name, row: key } = column;
    let ring = vault.ring();
    let master = ring.get(to).ok_or_else(|| vault.wrong(to))?;
    let select =
        format!("SELECT {}, {name}, master_key FROM {table} WHERE master_key <> $1 LIMIT $2", key.join(", "));
    let rows =
        sqlx::query(AssertSqlSafe(select)).bind(to.to_string()).bind(BATCH).fetch_all(&mut *tx).await?;
    let of_row: Vec<String> = key.iter().zip(3..).map(|(part, n)| format!("{part} = ${n}")).collect();
    let update = format!("UPDATE {table} SET {name} = $1, master_key = $2 WHERE {}", of_row.join(" AND "));
    for row in &rows {
        let parts = key.iter().map(|part| row.try_get::<&str, _>(*part)).collect::<Result<Vec<_>, _>>()?;
        let from: MasterKeyId = parsed(row.try_get("master_key")?)?;
        let old = ring.get(from).ok_or_else(|| vault.wrong(from))?;
        let record = envelope::rewrap(old, master, &column.at(&parts), row.try_get(*name)?)?;
        let mut query = sqlx::query(AssertSqlSafe(update.clone())).bind(record).bind(to.to_string());
        for part in parts {
            query = query.bind(part);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(rows.len() as u64)
}
