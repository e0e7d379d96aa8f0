//! Cache of the holders of API keys, valid while nothing was granted or revoked. The count of such changes is
//! read for each request, so a revocation takes effect on the next one, whichever process made it.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use rigbox_core::time::Timestamp;

use crate::tokens::TokenHash;
use crate::{Error, KeyHolder, Store};

/// Maximum number of entries; the cache is cleared when it is full.
const MAX_ENTRIES: usize = 10_000;

/// Holders by hash of the key.
#[derive(Debug, Default)]
pub(crate) struct CredentialCache(RwLock<HashMap<TokenHash, CachedHolder>>);

#[derive(Debug, Clone)]
struct CachedHolder {
    holder: KeyHolder,
    /// Count of changes before the holder was read.
    epoch: i64,
    /// Expiry of the secret; `None` means never.
    until: Option<Timestamp>,
}

impl CredentialCache {
    fn get(&self, hash: &TokenHash, epoch: i64, now: Timestamp) -> Option<(KeyHolder, Option<Timestamp>)> {
        let cached = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let cached = cached.get(hash).filter(|cached| cached.epoch == epoch)?;
        cached.until.is_none_or(|until| now < until).then(|| (cached.holder.clone(), cached.until))
    }

    fn put(&self, hash: &TokenHash, cached: CachedHolder) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_ENTRIES {
            all.clear();
        }
        all.insert(hash.clone(), cached);
    }
}

impl Store {
    /// Returns the holder of a key that is valid at `now`.
    pub async fn key_holder(&self, hash: &TokenHash, now: Timestamp) -> Result<Option<KeyHolder>, Error> {
        Ok(self.key_holder_until(hash, now).await?.map(|(holder, _)| holder))
    }

    /// Returns the holder of a key that is valid at `now`, and the secret's expiry, if any.
    pub async fn key_holder_until(
        &self,
        hash: &TokenHash,
        now: Timestamp,
    ) -> Result<Option<(KeyHolder, Option<Timestamp>)>, Error> {
        // Read before the holder: a change in between gets another number.
        let epoch = self.epoch()?;
        if let Some(cached) = self.credentials.get(hash, epoch, now) {
            return Ok(Some(cached));
        }
        let Some((holder, until)) = self.read_holder(hash, now).await? else { return Ok(None) };
        self.credentials.put(hash, CachedHolder { holder: holder.clone(), epoch, until });
        Ok(Some((holder, until)))
    }

    /// Returns the count of grants and revocations.
    pub(crate) fn epoch(&self) -> Result<i64, Error> {
        self.readers.read(|connection| {
            Ok(connection.prepare_cached("SELECT epoch FROM grants")?.query_row([], |row| row.get(0))?)
        })
    }
}
