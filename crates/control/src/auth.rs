//! Whose request this is: the API key in `Authorization: Bearer`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rigbox_core::permit::{Credential, Principal};
use rigbox_core::time::Moment;
use rigbox_store::secret::{ApiKey, TokenKey};
use rigbox_store::{Error, Holder, Store};

use crate::clock;

/// When a key was used last is noted no more often than this.
const USED_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Auth {
    store: Store,
    token_key: TokenKey,
    /// Keys and addresses that are on record, and when that was, so that not every request asks the database.
    seen: Mutex<HashMap<(Credential, IpAddr), Moment>>,
}

/// As many are remembered; then all are forgotten and asked for again.
const MOST_SEEN: usize = 10_000;

/// Why nobody is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("no API key: send `Authorization: Bearer rb_...`")]
    Missing,
    #[error("the Authorization header holds no API key: expected `Bearer rb_` and 43 letters and digits")]
    Malformed,
    #[error("this API key is not known: it may have ended or been revoked; log in again")]
    Unknown,
    #[error(transparent)]
    Store(#[from] Error),
}

/// What of a use is not on record yet.
struct ToNote {
    /// Where it came from.
    place: bool,
    /// That it was now.
    time: bool,
}

impl Auth {
    pub(crate) fn new(store: Store, token_key: TokenKey) -> Self {
        Self { store, token_key, seen: Mutex::default() }
    }

    /// What is to be noted of a use; the next caller is told that it was.
    fn to_note(
        &self,
        principal: &Principal,
        from: IpAddr,
        last_used_at: Option<Moment>,
        now: Moment,
    ) -> ToNote {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST_SEEN {
            seen.clear();
        }
        match seen.entry((principal.credential.clone(), from)) {
            Entry::Vacant(entry) => {
                entry.insert(now);
                ToNote { place: true, time: last_used_at.is_none_or(|last| now.since(last) >= USED_EVERY) }
            }
            Entry::Occupied(mut entry) => {
                let time = now.since(*entry.get()) >= USED_EVERY;
                if time {
                    entry.insert(now);
                }
                ToNote { place: false, time }
            }
        }
    }

    pub(crate) async fn principal(&self, headers: &HeaderMap, from: IpAddr) -> Result<Principal, AuthError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(AuthError::Missing)?;
        if values.next().is_some() {
            return Err(AuthError::Malformed);
        }
        let (scheme, key) =
            value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(AuthError::Malformed)?;
        let key = ApiKey::parse(key.trim()).filter(|_| scheme.eq_ignore_ascii_case("bearer"));
        let key = key.ok_or(AuthError::Malformed)?;
        // The look-up compares keyed hashes: its time says nothing about the key.
        let now = clock::now();
        let holder = self.store.holder_of_key(&self.token_key.hash(key.reveal()), now).await?;
        let Holder { mut principal, last_used_at } = holder.ok_or(AuthError::Unknown)?;
        principal.from = Some(from);
        let to_note = self.to_note(&principal, from, last_used_at, now);
        if to_note.place {
            let (store, principal) = (self.store.clone(), principal.clone());
            tokio::spawn(async move {
                if let Err(error) = store.key_used_from(&principal, now).await {
                    tracing::warn!(%error, "where a key was used from could not be noted");
                }
            });
        }
        if let Credential::Key(key) = &principal.credential
            && to_note.time
        {
            // Whoever calls does not wait for it.
            let (store, key) = (self.store.clone(), key.clone());
            tokio::spawn(async move {
                if let Err(error) = store.key_used(&key, now).await {
                    tracing::warn!(%error, "when a key was used last could not be noted");
                }
            });
        }
        Ok(principal)
    }
}
