//! Who holds which key, remembered for as long as nothing was granted or revoked: the count of such changes is asked for each time, so
//! that one counts for the next request, whichever process made it.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use rigbox_core::time::Moment;

use crate::secret::TokenHash;
use crate::{Error, Holder, Store};

/// As many are remembered; then all are forgotten and asked for again.
const MOST: usize = 10_000;

/// The holders of keys that were used.
#[derive(Debug, Default)]
pub(crate) struct Holders(RwLock<HashMap<TokenHash, Known>>);

#[derive(Debug, Clone)]
struct Known {
    holder: Holder,
    /// The count of changes that was seen before the holder was read.
    epoch: i64,
    /// The secret is good before this moment; for ever when none.
    until: Option<Moment>,
}

impl Holders {
    fn get(&self, hash: &TokenHash, epoch: i64, now: Moment) -> Option<(Holder, Option<Moment>)> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(hash).filter(|known| known.epoch == epoch)?;
        known.until.is_none_or(|until| now < until).then(|| (known.holder.clone(), known.until))
    }

    fn put(&self, hash: &TokenHash, known: Known) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(hash.clone(), known);
    }
}

impl Store {
    /// Whose key this is, if it is good at this moment.
    pub async fn holder_of_key(&self, hash: &TokenHash, now: Moment) -> Result<Option<Holder>, Error> {
        Ok(self.holder_of_key_until(hash, now).await?.map(|(holder, _)| holder))
    }

    /// The same, and when the secret ends by itself, if it does.
    pub async fn holder_of_key_until(
        &self,
        hash: &TokenHash,
        now: Moment,
    ) -> Result<Option<(Holder, Option<Moment>)>, Error> {
        // Before the holder is read: what changes in between has another number.
        let epoch = self.epoch()?;
        if let Some(known) = self.holders.get(hash, epoch, now) {
            return Ok(Some(known));
        }
        let Some((holder, until)) = self.read_holder(hash, now).await? else { return Ok(None) };
        self.holders.put(hash, Known { holder: holder.clone(), epoch, until });
        Ok(Some((holder, until)))
    }

    /// How often what some credential opens has changed.
    pub(crate) fn epoch(&self) -> Result<i64, Error> {
        self.hot.read(|connection| {
            Ok(connection.prepare_cached("SELECT epoch FROM grants")?.query_row([], |row| row.get(0))?)
        })
    }
}
