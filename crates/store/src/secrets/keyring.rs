//! Master keys in use. The database names the active one, and a writer encrypts with it inside its own
//! transaction. A rotation that has activated another key therefore never misses a concurrent write.

use std::sync::{Arc, PoisonError, RwLock};

use rigbox_core::time::Timestamp;
use zeroize::Zeroizing;

use crate::secrets::envelope::{self, CellRef};
use crate::secrets::master_key::{KeySource, MasterKey, MasterKeyId, MasterKeys};
use crate::sqlite::connection::{Connection, Transaction};
use crate::{Error, Store, parse};

/// Attempts of a write that keeps meeting a newly activated master key.
const MAX_ATTEMPTS: usize = 3;

/// The master keys this process has read last, and their source.
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    pub(crate) source: Arc<KeySource>,
    ring: Arc<RwLock<MasterKeys>>,
}

impl Keyring {
    pub(crate) fn ring(&self) -> MasterKeys {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn key(&self, id: MasterKeyId) -> Option<Arc<MasterKey>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Reads the source again; another process may have rotated.
    pub(crate) async fn reload(&self) -> Result<(), Error> {
        let ring = self.source.read().await?;
        let mut known = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        *known = ring.after(&known);
        Ok(())
    }

    pub(crate) fn wrong(&self, wanted: MasterKeyId) -> Error {
        Error::WrongMasterKey { wanted, origin: self.source.to_string() }
    }

    /// Returns the key with this id, reloading the source if necessary.
    async fn key_or_reload(&self, id: MasterKeyId) -> Result<Arc<MasterKey>, Error> {
        if let Some(key) = self.key(id) {
            return Ok(key);
        }
        self.reload().await?;
        self.key(id).ok_or_else(|| self.wrong(id))
    }
}

/// Returns the active master key, or `None` before the first.
pub(crate) async fn active(connection: &mut Connection) -> Result<Option<MasterKeyId>, Error> {
    let id: Option<String> =
        sqlx::query_scalar("SELECT id FROM master_keys WHERE active").fetch_optional(connection).await?;
    id.as_deref().map(parse).transpose()
}

/// Activates a master key.
pub(crate) async fn activate(
    connection: &mut Connection,
    id: MasterKeyId,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query("UPDATE master_keys SET active = FALSE").execute(&mut *connection).await?;
    sqlx::query(
        "INSERT INTO master_keys (id, active, created_at) VALUES ($1, TRUE, $2) \
         ON CONFLICT (id) DO UPDATE SET active = TRUE",
    )
    .bind(id.to_string())
    .bind(now.unix_ms())
    .execute(connection)
    .await?;
    Ok(())
}

impl Store {
    /// Returns the store with its master keys, able to read and write secrets. Keys of another database are
    /// refused.
    pub async fn unlock(self, source: KeySource, now: Timestamp) -> Result<Self, Error> {
        let opened = |ring, source| Keyring { source: Arc::new(source), ring: Arc::new(RwLock::new(ring)) };
        let known = active(&mut self.pool.acquire().await?).await?;
        let keyring = if let Some(id) = known {
            // A missing file is not recreated: what is encrypted would be lost.
            let keyring = opened(source.read().await?, source);
            keyring.key(id).ok_or_else(|| keyring.wrong(id))?;
            keyring
        } else {
            // Only one process initializes a database without master keys.
            let mut tx = self.begin_write().await?;
            let keyring = opened(source.read_or_create().await?, source);
            match active(&mut tx).await? {
                Some(id) => drop(keyring.key(id).ok_or_else(|| keyring.wrong(id))?),
                None => activate(&mut tx, keyring.ring().first().id(), now).await?,
            }
            tx.commit().await?;
            keyring
        };
        Ok(Self { keyring: Some(keyring), ..self })
    }

    pub(crate) fn keyring(&self) -> Result<&Keyring, Error> {
        self.keyring.as_ref().ok_or(Error::Locked)
    }

    /// Begins a writing transaction, and returns the master key to encrypt with in it.
    pub(crate) async fn begin_sealed_write(&self) -> Result<(Transaction, Arc<MasterKey>), Error> {
        let keyring = self.keyring()?;
        for _ in 0..MAX_ATTEMPTS {
            let mut tx = self.begin_write().await?;
            let id = active(&mut tx).await?.ok_or(Error::Locked)?;
            if let Some(key) = keyring.key(id) {
                return Ok((tx, key));
            }
            // Release the write lock before reading the source.
            tx.rollback().await?;
            keyring.key_or_reload(id).await?;
        }
        Err(Error::Rotation("another master key keeps becoming active".to_owned()))
    }

    /// Decrypts the record of a cell.
    pub(crate) async fn unseal(
        &self,
        place: &CellRef<'_>,
        record: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let key = self.keyring()?.key_or_reload(envelope::master_key_of(place, record)?).await?;
        envelope::unseal(&key, place, record)
    }
}
