//! Envelope encryption of one record: a data key of its own encrypts the secret, a master key encrypts the data key (both AES-256-GCM).
//! Both layers are bound to the record's place, so that a ciphertext moved to another row or column does not open. A new master key
//! changes the outer layer only.
//!
//! Layout: version (1 byte), id of the master key (8), nonce (12), data key (32 + tag of 16), nonce (12), secret (+ tag of 16).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::master_key::{MasterKey, MasterKeyId};
use crate::{Error, random};

const VERSION: u8 = 1;
const KEY: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;
const ID: usize = 8;
/// By how much a record is longer than its secret.
pub(crate) const OVERHEAD: usize = 1 + ID + NONCE + KEY + TAG + NONCE + TAG;

/// A column that holds envelopes; the table's column `master_key` says which master key opens each.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) table: &'static str,
    pub(crate) column: &'static str,
    /// The columns of the primary key.
    pub(crate) row: &'static [&'static str],
}

impl Column {
    /// The record of the row whose primary key is `row`.
    pub(crate) fn at<'a>(&'static self, row: &'a [&'a str]) -> Place<'a> {
        Place { column: self, row }
    }
}

/// Where a record stands: there it opens, and nowhere else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    column: &'static Column,
    row: &'a [&'a str],
}

impl Place<'_> {
    /// What a layer is bound to: each part with its length, so that no two places read alike.
    fn binding(&self, layer: &str) -> Vec<u8> {
        let parts = ["rigbox", layer, self.column.table, self.column.column];
        let mut binding = vec![VERSION];
        for part in parts.iter().chain(self.row) {
            binding.extend((part.len() as u64).to_le_bytes());
            binding.extend(part.as_bytes());
        }
        binding
    }

    fn damaged(&self) -> Error {
        Error::DoesNotOpen { table: self.column.table, column: self.column.column }
    }
}

/// A record taken apart.
struct Record<'a> {
    id: MasterKeyId,
    wrap_nonce: [u8; NONCE],
    wrapped: &'a [u8],
    /// Nonce and ciphertext of the secret: what a change of the master key leaves alone.
    inner: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(place: &Place<'_>, bytes: &'a [u8]) -> Result<Self, Error> {
        let split = |bytes: &'a [u8]| {
            let (version, rest) = bytes.split_first()?;
            let (id, rest) = rest.split_first_chunk::<ID>()?;
            let (wrap_nonce, rest) = rest.split_first_chunk::<NONCE>()?;
            let (wrapped, inner) = rest.split_at_checked(KEY + TAG)?;
            let fits = *version == VERSION && inner.len() >= NONCE + TAG;
            let id = MasterKeyId::from_bytes(*id);
            fits.then_some(Self { id, wrap_nonce: *wrap_nonce, wrapped, inner })
        };
        split(bytes).ok_or_else(|| place.damaged())
    }

    fn unwrap_key(&self, place: &Place<'_>, master: &MasterKey) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut key = Zeroizing::new(self.wrapped.to_vec());
        open(master.bytes(), self.wrap_nonce, &place.binding("key"), &mut key)
            .ok_or_else(|| place.damaged())?;
        Ok(key)
    }
}

/// Encrypts `secret` for `place`.
pub(crate) fn seal(master: &MasterKey, place: &Place<'_>, secret: &[u8]) -> Result<Vec<u8>, Error> {
    let key = Zeroizing::new(random::<KEY>()?);
    let mut record = wrap(master, place, &*key)?;
    record.extend(close(&*key, &place.binding("secret"), secret)?);
    Ok(record)
}

/// Which master key opens the record.
pub(crate) fn master_key_of(place: &Place<'_>, record: &[u8]) -> Result<MasterKeyId, Error> {
    Ok(Record::parse(place, record)?.id)
}

/// The secret of the record at `place`.
pub(crate) fn unseal(
    master: &MasterKey,
    place: &Place<'_>,
    record: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let record = Record::parse(place, record)?;
    let key = record.unwrap_key(place, master)?;
    let (nonce, secret) = record.inner.split_first_chunk::<NONCE>().ok_or_else(|| place.damaged())?;
    let mut secret = Zeroizing::new(secret.to_vec());
    open(&key, *nonce, &place.binding("secret"), &mut secret).ok_or_else(|| place.damaged())?;
    Ok(secret)
}

/// The same record under another master key.
pub(crate) fn rewrap(
    from: &MasterKey,
    to: &MasterKey,
    place: &Place<'_>,
    record: &[u8],
) -> Result<Vec<u8>, Error> {
    let record = Record::parse(place, record)?;
    let key = record.unwrap_key(place, from)?;
    let mut rewrapped = wrap(to, place, &key)?;
    rewrapped.extend(record.inner);
    Ok(rewrapped)
}

/// A record without its secret.
fn wrap(master: &MasterKey, place: &Place<'_>, key: &[u8]) -> Result<Vec<u8>, Error> {
    let mut record = vec![VERSION];
    record.extend(master.id().as_bytes());
    record.extend(close(master.bytes(), &place.binding("key"), key)?);
    Ok(record)
}

/// Nonce and ciphertext. A nonce of 96 random bits is good for 2^32 uses of one key (NIST SP 800-38D, 8.3).
fn close(key: &[u8], binding: &[u8], plain: &[u8]) -> Result<Vec<u8>, Error> {
    let nonce = random::<NONCE>()?;
    let sealing = cipher(key).ok_or(Error::Cipher)?;
    let mut sealed = nonce.to_vec();
    // In a buffer that is large enough: one that grows would leave copies of the plain text behind.
    let mut text = Vec::with_capacity(plain.len() + TAG);
    text.extend_from_slice(plain);
    sealing
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(binding), &mut text)
        .map_err(|_| Error::Cipher)?;
    sealed.append(&mut text);
    Ok(sealed)
}

/// Makes plain text of ciphertext, in place; `None` when either was changed.
fn open(key: &[u8], nonce: [u8; NONCE], binding: &[u8], text: &mut Zeroizing<Vec<u8>>) -> Option<()> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let length = cipher(key)?.open_in_place(nonce, Aad::from(binding), text).ok()?.len();
    text.truncate(length);
    Some(())
}

fn cipher(key: &[u8]) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    static ONE: Column = Column { table: "one", column: "value", row: &["a", "b"] };
    static TWO: Column = Column { table: "one", column: "other", row: &["a", "b"] };

    #[test]
    fn a_record_opens_at_its_place_only() {
        let master = MasterKey::generate().unwrap();
        let record = seal(&master, &ONE.at(&["x", "y"]), b"secret").unwrap();
        assert_eq!(record.len(), b"secret".len() + OVERHEAD);
        assert_eq!(&**unseal(&master, &ONE.at(&["x", "y"]), &record).unwrap(), b"secret");
        for place in [ONE.at(&["x", "z"]), ONE.at(&["xy", ""]), ONE.at(&["x"]), TWO.at(&["x", "y"])] {
            assert!(matches!(unseal(&master, &place, &record), Err(Error::DoesNotOpen { .. })));
            assert!(rewrap(&master, &master, &place, &record).is_err());
        }
    }

    #[test]
    fn neither_layer_can_be_taken_from_another_record() {
        let master = MasterKey::generate().unwrap();
        let (here, there) = (ONE.at(&["x", "y"]), ONE.at(&["x", "z"]));
        let (one, two) = (seal(&master, &here, b"one").unwrap(), seal(&master, &there, b"two").unwrap());
        let at = 1 + ID + NONCE + KEY + TAG;
        let mixed = [&one[..at], &two[at..]].concat();
        assert!(unseal(&master, &here, &mixed).is_err() && unseal(&master, &there, &mixed).is_err());
    }

    #[test]
    fn a_changed_or_cut_record_does_not_open() {
        let master = MasterKey::generate().unwrap();
        let place = ONE.at(&["x", "y"]);
        let record = seal(&master, &place, b"secret").unwrap();
        for at in 0..record.len() {
            let mut changed = record.clone();
            changed[at] ^= 1;
            // The id is what the key is looked up by; here the right one is at hand anyway.
            let is_id = (1..=ID).contains(&at);
            assert_eq!(unseal(&master, &place, &changed).is_ok(), is_id, "byte {at}");
            assert!(unseal(&master, &place, &record[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_master_key_takes_a_record_over() {
        let (old, new) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        let place = ONE.at(&["x", "y"]);
        let record = seal(&old, &place, b"secret").unwrap();
        let rewrapped = rewrap(&old, &new, &place, &record).unwrap();
        assert_eq!(master_key_of(&place, &rewrapped).unwrap(), new.id());
        assert_eq!(&**unseal(&new, &place, &rewrapped).unwrap(), b"secret");
        assert!(unseal(&old, &place, &rewrapped).is_err() && unseal(&new, &place, &record).is_err());
        // No two records look alike, not even of the same secret.
        assert_ne!(record, seal(&old, &place, b"secret").unwrap());
    }
}
