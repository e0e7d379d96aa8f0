//! Rotation of the key by which clients know the SSH gateway. The next key is announced first, so that clients learn it when they connect.

use rigbox_service::clock;
use rigbox_service::database::{AuditEvent, SshSecret, Store};
use rigbox_service::ssh_gateway_keys::fingerprint;

use super::Database;
use crate::{Config, Error};

/// Fingerprints of the gateway's host keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKeys {
    /// Key in use.
    pub current: String,
    /// Key that was announced, and will be used next.
    pub next: Option<String>,
}

/// Returns the fingerprints of the host keys.
pub async fn host_keys(config: &Config) -> Result<HostKeys, Error> {
    read(&open(config).await?).await
}

/// Makes the next host key, which clients learn from now on. [`Error::HostKeyAnnounced`], if there is one.
pub async fn announce_host_key(config: &Config) -> Result<HostKeys, Error> {
    let store = open(config).await?;
    let event = event(&store, "ssh_host_key.announce").await?;
    let is_made = store.make_next_ssh_host_key(&event, clock::now()).await?;
    let keys = read(&store).await?;
    if is_made { Ok(keys) } else { Err(Error::HostKeyAnnounced) }
}

/// Replaces the current host key by the next one, which is made now if none was announced. Returns whether one was.
pub async fn replace_host_key(config: &Config) -> Result<(HostKeys, bool), Error> {
    let store = open(config).await?;
    let announcement = event(&store, "ssh_host_key.announce").await?;
    let was_announced = !store.make_next_ssh_host_key(&announcement, clock::now()).await?;
    let replacement = event(&store, "ssh_host_key.replace").await?;
    store.replace_ssh_host_key(&replacement, clock::now()).await?;
    Ok((read(&store).await?, was_announced))
}

async fn open(config: &Config) -> Result<Store, Error> {
    let Database { store, .. } = Database::open(config).await?;
    Ok(store.unlock(config.master_key.clone(), clock::now()).await?)
}

async fn event(store: &Store, action: &str) -> Result<AuditEvent, Error> {
    let operator = store.first_user().await?.ok_or(Error::NoUser)?;
    Ok(AuditEvent::by_operator(&operator.id, action, ""))
}

async fn read(store: &Store) -> Result<HostKeys, Error> {
    let current = store.ssh_secret(SshSecret::HostKey, clock::now()).await?;
    let next = store.stored_ssh_secret(SshSecret::NextHostKey).await?;
    let next = next.map(|seed| fingerprint(&seed)).transpose()?;
    Ok(HostKeys { current: fingerprint(&current)?, next })
}
