//! Keys of the SSH gateway, which are stored or derived as seeds.

use rigbox_ssh_keys::private_key::PrivateKey;
use rigbox_ssh_keys::public_key;
use rigbox_store::Error;

/// Returns the key of a seed.
pub(crate) fn key(seed: &[u8]) -> Result<PrivateKey, Error> {
    PrivateKey::ed25519(seed).map_err(|error| Error::Damaged(error.to_string()))
}

/// Returns the fingerprint of the key of a seed, as people compare it.
///
/// # Errors
/// [`Error::Damaged`] if the seed is none.
pub fn fingerprint(seed: &[u8]) -> Result<String, Error> {
    Ok(public_key::fingerprint(&key(seed)?.public()))
}
