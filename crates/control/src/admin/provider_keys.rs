//! Operator's keys at AI providers. They are read once, and never shown again.

use rigbox_core::ids::ProviderKeyId;
use rigbox_service::ai::key_tests::{self, KeyVerdict};
use rigbox_service::ai::provider_keys;
use rigbox_service::clock;
use rigbox_service::records::ProviderKey;
use secrecy::SecretString;

use super::Database;
use crate::{AiConfig, Config, Error};

/// Stores a key for an upstream. A proxy that runs learns it at once.
pub async fn set_provider_key(
    config: &Config,
    upstream: &str,
    label: &str,
    organization: &str,
    secret: &SecretString,
) -> Result<ProviderKey, Error> {
    with_upstream(config, upstream)?;
    let Database { store, .. } = Database::open(config).await?;
    let store = store.unlock(config.master_key.clone(), clock::now()).await?;
    let operator = store.first_user().await?.ok_or(Error::NoUser)?;
    Ok(provider_keys::add(&store, &operator.id, upstream, (label, organization), secret).await?)
}

/// Lists the keys in the order in which they are tried.
pub async fn provider_keys(config: &Config) -> Result<Vec<ProviderKey>, Error> {
    Ok(Database::open(config).await?.store.provider_keys().await?)
}

/// Removes a key. A proxy that runs forgets it at once.
pub async fn remove_provider_key(config: &Config, id: &ProviderKeyId) -> Result<(), Error> {
    let Database { store, .. } = Database::open(config).await?;
    let operator = store.first_user().await?.ok_or(Error::NoUser)?;
    if store.remove_provider_key(id, &operator.id, clock::now()).await? {
        Ok(())
    } else {
        Err(Error::UnknownProviderKey(id.clone()))
    }
}

/// Has the running proxy try the keys of an upstream, or those of them with a label.
pub async fn test_provider_keys(
    config: &Config,
    upstream: &str,
    label: Option<&str>,
) -> Result<Vec<(ProviderKey, KeyVerdict)>, Error> {
    let ai = with_upstream(config, upstream)?;
    let mut keys = provider_keys(config).await?;
    keys.retain(|key| key.upstream == upstream && label.is_none_or(|label| key.label == label));
    if keys.is_empty() {
        return Err(Error::NoProviderKey(upstream.to_owned()));
    }
    let verdicts = key_tests::test(&ai.operator, &keys).await?;
    Ok(keys.into_iter().zip(verdicts).collect())
}

/// Returns the configuration of AI calls, if it has this upstream.
fn with_upstream<'a>(config: &'a Config, upstream: &str) -> Result<&'a AiConfig, Error> {
    let ai = config.ai.as_ref().ok_or(Error::AiDisabled)?;
    if ai.upstreams.iter().any(|known| known.name == upstream) {
        return Ok(ai);
    }
    let names: Vec<&str> = ai.upstreams.iter().map(|known| known.name.as_str()).collect();
    Err(Error::UnknownUpstream(upstream.to_owned(), names.join(", ")))
}
