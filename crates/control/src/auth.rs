//! Whose request this is: the API key in `Authorization: Bearer`.

use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rigbox_core::permit::Principal;
use rigbox_store::secret::{ApiKey, TokenKey};
use rigbox_store::{Error, Holder, Store};

use crate::clock;

/// When a key was used last is noted no more often than this.
const USED_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Auth {
    store: Store,
    token_key: TokenKey,
}

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

impl Auth {
    pub(crate) fn new(store: Store, token_key: TokenKey) -> Self {
        Self { store, token_key }
    }

    pub(crate) async fn principal(&self, headers: &HeaderMap) -> Result<Principal, AuthError> {
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
        let Holder { principal, last_used_at } = holder.ok_or(AuthError::Unknown)?;
        if last_used_at.is_none_or(|last| now.since(last) >= USED_EVERY) {
            // Whoever calls does not wait for it.
            let (store, key) = (self.store.clone(), principal.key.clone());
            tokio::spawn(async move {
                if let Err(error) = store.key_used(&key, now).await {
                    tracing::warn!(%error, "when a key was used last could not be noted");
                }
            });
        }
        Ok(principal)
    }
}
