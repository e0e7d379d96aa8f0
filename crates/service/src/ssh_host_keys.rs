//! Host keys of the SSH gateway, as people compare them.

use rigbox_ssh_keys::private_key::PrivateKey;
use rigbox_ssh_keys::public_key;
use rigbox_store::Error;

/// Returns the fingerprint of the key of a seed.
///
/// # Errors
/// [`Error::Damaged`] if the seed is none.
pub fn fingerprint(seed: &[u8]) -> Result<String, Error> {
    let key = PrivateKey::ed25519(seed).map_err(|error| Error::Damaged(error.to_string()))?;
    Ok(public_key::fingerprint(&key.public()))
}
