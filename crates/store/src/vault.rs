//! The master keys at work: which one is active stands in the database, and a writer encrypts inside its transaction with the one that
//! is active there. So a rotation that has made another one active never misses what is written meanwhile.

use std::sync::{Arc, PoisonError, RwLock};

use rigbox_core::time::Moment;
use sqlx::{Sqlite, SqliteConnection, Transaction};
use zeroize::Zeroizing;

use crate::envelope::{self, Place};
use crate::master_key::{KeySource, Keyring, MasterKey, MasterKeyId};
use crate::{Error, Store, parsed};

/// How often a write begins again because another master key became active.
const TRIES: usize = 3;

/// The keyring that this process has read last.
#[derive(Debug, Clone)]
pub(crate) struct Vault {
    pub(crate) source: Arc<KeySource>,
    ring: Arc<RwLock<Keyring>>,
}

impl Vault {
    pub(crate) fn ring(&self) -> Keyring {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn key(&self, id: MasterKeyId) -> Option<Arc<MasterKey>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Reads the source again: somebody else may have rotated.
    pub(crate) async fn reload(&self) -> Result<(), Error> {
        let ring = self.source.read().await?;
        let mut known = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        *known = ring.after(&known);
        Ok(())
    }

    pub(crate) fn wrong(&self, wanted: MasterKeyId) -> Error {
        Error::WrongMasterKey { wanted, origin: self.source.to_string() }
    }

    /// The key of this id, from the source if it is not at hand.
    async fn key_or_reload(&self, id: MasterKeyId) -> Result<Arc<MasterKey>, Error> {
        if let Some(key) = self.key(id) {
            return Ok(key);
        }
        self.reload().await?;
        self.key(id).ok_or_else(|| self.wrong(id))
    }
}

/// Which master key is active; none before the first.
pub(crate) async fn active(connection: &mut SqliteConnection) -> Result<Option<MasterKeyId>, Error> {
    let id: Option<String> =
        sqlx::query_scalar("SELECT id FROM master_keys WHERE active").fetch_optional(connection).await?;
    id.as_deref().map(parsed).transpose()
}

/// Makes a master key the active one.
pub(crate) async fn activate(
    connection: &mut SqliteConnection,
    id: MasterKeyId,
    now: Moment,
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
    /// The same database with its master keys, so that secrets can be read and written. Those of another database are refused.
    pub async fn unlock(self, source: KeySource, now: Moment) -> Result<Self, Error> {
        let opened = |ring, source| Vault { source: Arc::new(source), ring: Arc::new(RwLock::new(ring)) };
        let known = active(&mut *self.pool.acquire().await?).await?;
        let vault = if let Some(id) = known {
            // A file that is gone is not made anew: what is encrypted would be lost.
            let vault = opened(source.read().await?, source);
            vault.key(id).ok_or_else(|| vault.wrong(id))?;
            vault
        } else {
            // One process at a time comes upon a database that has none.
            let mut tx = self.write().await?;
            let vault = opened(source.read_or_create().await?, source);
            match active(&mut tx).await? {
                Some(id) => drop(vault.key(id).ok_or_else(|| vault.wrong(id))?),
                None => activate(&mut tx, vault.ring().first().id(), now).await?,
            }
            tx.commit().await?;
            vault
        };
        Ok(Self { vault: Some(vault), ..self })
    }

    pub(crate) fn vault(&self) -> Result<&Vault, Error> {
        self.vault.as_ref().ok_or(Error::Locked)
    }

    /// A transaction that writes, and the master key to encrypt with in it.
    pub(crate) async fn write_sealing(
        &self,
    ) -> Result<(Transaction<'static, Sqlite>, Arc<MasterKey>), Error> {
        let vault = self.vault()?;
        for _ in 0..TRIES {
            let mut tx = self.write().await?;
            let id = active(&mut tx).await?.ok_or(Error::Locked)?;
            if let Some(key) = vault.key(id) {
                return Ok((tx, key));
            }
            // Nobody waits for our source.
            tx.rollback().await?;
            vault.key_or_reload(id).await?;
        }
        Err(Error::Rotation("it does not come to rest".to_owned()))
    }

    /// The secret of a record.
    pub(crate) async fn unseal(&self, place: &Place<'_>, record: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let key = self.vault()?.key_or_reload(envelope::master_key_of(place, record)?).await?;
        envelope::unseal(&key, place, record)
    }
}
