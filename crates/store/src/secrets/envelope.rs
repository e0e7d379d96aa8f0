//! Envelope encryption of one record: its own data key encrypts the secret, and a master key encrypts the
//! data key (both AES-256-GCM). Both layers are bound to table, column and row, so a ciphertext moved
//! elsewhere does not decrypt. Rotating the master key rewrites the outer layer only.
//!
//! Layout: version (1 byte), id of the master key (8), nonce (12), data key (32 + tag of 16), nonce (12),
//! secret (+ tag of 16).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::secrets::master_key::{MasterKey, MasterKeyId};
use crate::{Error, random};

const VERSION: u8 = 1;
const KEY: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;
const ID: usize = 8;
/// Size of a record beyond its secret, in bytes.
pub(crate) const OVERHEAD: usize = 1 + ID + NONCE + KEY + TAG + NONCE + TAG;

/// Column that holds envelopes. The table's column `master_key` names the master key of each.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) table: &'static str,
    pub(crate) column: &'static str,
    /// Columns of the primary key.
    pub(crate) row: &'static [&'static str],
}

impl Column {
    /// Returns the cell in the row with the primary key `row`.
    pub(crate) fn at<'a>(&'static self, row: &'a [&'a str]) -> CellRef<'a> {
        CellRef { column: self, row }
    }
}

/// Cell of the database. A record decrypts only in its own cell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CellRef<'a> {
    column: &'static Column,
    row: &'a [&'a str],
}

impl CellRef<'_> {
    /// Returns the associated data of a layer. Each part is preceded by its length, so that no two cells
    /// encode alike.
    fn associated_data(&self, layer: &str) -> Vec<u8> {
        let parts = ["rigbox", layer, self.column.table, self.column.column];
        let mut associated_data = vec![VERSION];
        for part in parts.iter().chain(self.row) {
            associated_data.extend((part.len() as u64).to_le_bytes());
            associated_data.extend(part.as_bytes());
        }
        associated_data
    }

    fn damaged(&self) -> Error {
        Error::DecryptFailed { table: self.column.table, column: self.column.column }
    }
}

/// Parsed record.
struct Record<'a> {
    id: MasterKeyId,
    wrap_nonce: [u8; NONCE],
    wrapped: &'a [u8],
    /// Nonce and ciphertext of the secret, unaffected by rotation.
    inner: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(place: &CellRef<'_>, bytes: &'a [u8]) -> Result<Self, Error> {
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

    fn unwrap_key(&self, place: &CellRef<'_>, master: &MasterKey) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut key = Zeroizing::new(self.wrapped.to_vec());
        open(master.bytes(), self.wrap_nonce, &place.associated_data("key"), &mut key)
            .ok_or_else(|| place.damaged())?;
        Ok(key)
    }
}

/// Encrypts `secret` for a cell.
pub(crate) fn seal(master: &MasterKey, place: &CellRef<'_>, secret: &[u8]) -> Result<Vec<u8>, Error> {
    let key = Zeroizing::new(random::<KEY>()?);
    let mut record = wrap(master, place, &*key)?;
    record.extend(close(&*key, &place.associated_data("secret"), secret)?);
    Ok(record)
}

/// Returns the id of the master key that opens a record.
pub(crate) fn master_key_of(place: &CellRef<'_>, record: &[u8]) -> Result<MasterKeyId, Error> {
    Ok(Record::parse(place, record)?.id)
}

/// Decrypts the record of a cell.
pub(crate) fn unseal(
    master: &MasterKey,
    place: &CellRef<'_>,
    record: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let record = Record::parse(place, record)?;
    let key = record.unwrap_key(place, master)?;
    let (nonce, secret) = record.inner.split_first_chunk::<NONCE>().ok_or_else(|| place.damaged())?;
    let mut secret = Zeroizing::new(secret.to_vec());
    open(&key, *nonce, &place.associated_data("secret"), &mut secret).ok_or_else(|| place.damaged())?;
    Ok(secret)
}

/// Returns the record wrapped by another master key.
pub(crate) fn rewrap(
    from: &MasterKey,
    to: &MasterKey,
    place: &CellRef<'_>,
    record: &[u8],
) -> Result<Vec<u8>, Error> {
    let record = Record::parse(place, record)?;
    let key = record.unwrap_key(place, from)?;
    let mut rewrapped = wrap(to, place, &key)?;
    rewrapped.extend(record.inner);
    Ok(rewrapped)
}

/// Returns a record up to, but not including, its secret.
fn wrap(master: &MasterKey, place: &CellRef<'_>, key: &[u8]) -> Result<Vec<u8>, Error> {
    let mut record = vec![VERSION];
    record.extend(master.id().as_bytes());
    record.extend(close(master.bytes(), &place.associated_data("key"), key)?);
    Ok(record)
}

/// Returns nonce and ciphertext. A random 96-bit nonce is safe for 2^32 uses of one key (NIST SP 800-38D,
/// 8.3).
fn close(key: &[u8], associated_data: &[u8], plain: &[u8]) -> Result<Vec<u8>, Error> {
    let nonce = random::<NONCE>()?;
    let sealing = cipher(key).ok_or(Error::Cipher)?;
    let mut sealed = nonce.to_vec();
    // Allocated at full size: growing would leave copies of the plain text behind.
    let mut text = Vec::with_capacity(plain.len() + TAG);
    text.extend_from_slice(plain);
    sealing
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated_data), &mut text)
        .map_err(|_| Error::Cipher)?;
    sealed.append(&mut text);
    Ok(sealed)
}

/// Decrypts in place. Returns `None` if ciphertext or associated data were modified.
fn open(key: &[u8], nonce: [u8; NONCE], associated_data: &[u8], text: &mut Zeroizing<Vec<u8>>) -> Option<()> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let length = cipher(key)?.open_in_place(nonce, Aad::from(associated_data), text).ok()?.len();
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
    fn record_opens_only_in_its_own_place() {
        let master = MasterKey::generate().unwrap();
        let record = seal(&master, &ONE.at(&["x", "y"]), b"secret").unwrap();
        assert_eq!(record.len(), b"secret".len() + OVERHEAD);
        assert_eq!(&**unseal(&master, &ONE.at(&["x", "y"]), &record).unwrap(), b"secret");
        for place in [ONE.at(&["x", "z"]), ONE.at(&["xy", ""]), ONE.at(&["x"]), TWO.at(&["x", "y"])] {
            assert!(matches!(unseal(&master, &place, &record), Err(Error::DecryptFailed { .. })));
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
    fn modified_or_truncated_record_does_not_open() {
        let master = MasterKey::generate().unwrap();
        let place = ONE.at(&["x", "y"]);
        let record = seal(&master, &place, b"secret").unwrap();
        for at in 0..record.len() {
            let mut changed = record.clone();
            changed[at] ^= 1;
            // The id only selects the key, and here the right key is passed in.
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
        // No two records are equal, not even of the same secret.
        assert_ne!(record, seal(&old, &place, b"secret").unwrap());
    }
}
