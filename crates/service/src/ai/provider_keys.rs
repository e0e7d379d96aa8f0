//! Operator's keys at providers. They are shown to nobody again, and leave this process for the proxy only.

use rigbox_core::ids::{ProviderKeyId, UserId};
use rigbox_store::{ProviderKey, Store};
use secrecy::{ExposeSecret, SecretString};

use crate::error::random_id;

/// Maximum length of a key and of the texts beside it.
const MAX_LEN: usize = 512;

/// Error of a change of keys.
#[derive(Debug, thiserror::Error)]
pub enum ProviderKeyError {
    /// The text is no key.
    #[error("this is not a key: use one line of at most {MAX_LEN} visible ASCII characters")]
    NotAKey,
    /// The label or the organization is too long.
    #[error("a label and an organization have at most {MAX_LEN} characters")]
    TooLong,
    /// The system's random number generator failed.
    #[error("{0}")]
    Random(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] rigbox_store::Error),
}

/// Stores a key for an upstream. The proxy learns it at once.
pub async fn add(
    store: &Store,
    operator: &UserId,
    upstream: &str,
    (label, organization): (&str, &str),
    secret: &SecretString,
) -> Result<ProviderKey, ProviderKeyError> {
    let text = secret.expose_secret();
    if text.is_empty() || text.len() > MAX_LEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ProviderKeyError::NotAKey);
    }
    if label.len() > MAX_LEN || organization.len() > MAX_LEN {
        return Err(ProviderKeyError::TooLong);
    }
    let random = random_id().map_err(|error| ProviderKeyError::Random(error.to_string()))?;
    let key = ProviderKey {
        id: ProviderKeyId::from_random(random),
        upstream: upstream.to_owned(),
        label: label.to_owned(),
        organization: organization.to_owned(),
        created_at: store.now(),
        last_used_at: None,
    };
    store.add_provider_key(&key, secret, operator).await?;
    Ok(key)
}
