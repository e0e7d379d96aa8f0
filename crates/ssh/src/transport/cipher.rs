//! Ciphers of one direction: how packets are sealed and opened (RFC 4253, section 6). After the first key exchange only ciphers that also
//! authenticate are used: AES-GCM as OpenSSH frames it (PROTOCOL, section 1.6), and chacha20-poly1305@openssh.com.

use aws_lc_rs::aead::chacha20_poly1305_openssh::{
    KEY_LEN, OpeningKey, PACKET_LENGTH_LEN, SealingKey, TAG_LEN,
};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::{Buf, BytesMut};

use super::error::Error;

const LENGTH_LEN: usize = 4;
const MIN_PADDING: usize = 4;
/// Length of a packet before and after which the padding is counted: a padding length, a message number and the padding.
const MIN_PACKET_LEN: usize = 1 + 1 + MIN_PADDING;

/// Cipher that both sides have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes256Gcm,
    Aes128Gcm,
    ChaCha20Poly1305,
}

/// Names of the ciphers, the best first.
pub(super) const NAMES: &[&str] =
    &["aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"];

impl Cipher {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "aes256-gcm@openssh.com" => Some(Self::Aes256Gcm),
            "aes128-gcm@openssh.com" => Some(Self::Aes128Gcm),
            "chacha20-poly1305@openssh.com" => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    pub(super) fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm => 32,
            Self::ChaCha20Poly1305 => KEY_LEN,
        }
    }

    pub(super) fn nonce_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => NONCE_LEN,
            Self::ChaCha20Poly1305 => 0,
        }
    }

    fn gcm(self) -> &'static Algorithm {
        if self == Self::Aes128Gcm { &AES_128_GCM } else { &AES_256_GCM }
    }
}

/// Key of AES-GCM with its counter.
struct Gcm {
    key: LessSafeKey,
    nonce: [u8; NONCE_LEN],
}

impl Gcm {
    fn new(cipher: Cipher, key: &[u8], nonce: &[u8]) -> Result<Self, Error> {
        let key = UnboundKey::new(cipher.gcm(), key).map_err(|_| Error::Crypto)?;
        let nonce = nonce.try_into().map_err(|_| Error::Crypto)?;
        Ok(Self { key: LessSafeKey::new(key), nonce })
    }

    /// Returns the nonce of the next packet: 4 bytes that stay, and a counter of 8 bytes.
    fn next(&mut self) -> Nonce {
        let now = self.nonce;
        if let Some((_, counter)) = self.nonce.split_last_chunk_mut::<8>() {
            *counter = u64::from_be_bytes(*counter).wrapping_add(1).to_be_bytes();
        }
        Nonce::assume_unique_for_key(now)
    }
}

/// Key of one direction. `C` is its key of ChaCha20-Poly1305.
enum Key<C> {
    /// None before the first key exchange has ended.
    Plain,
    Gcm(Gcm),
    ChaCha(Box<C>),
}

impl<C> Key<C> {
    fn new(
        cipher: Cipher,
        key: &[u8],
        nonce: &[u8],
        chacha: impl FnOnce(&[u8; KEY_LEN]) -> C,
    ) -> Result<Self, Error> {
        match cipher {
            Cipher::ChaCha20Poly1305 => {
                Ok(Self::ChaCha(Box::new(chacha(key.try_into().map_err(|_| Error::Crypto)?))))
            }
            Cipher::Aes256Gcm | Cipher::Aes128Gcm => Ok(Self::Gcm(Gcm::new(cipher, key, nonce)?)),
        }
    }
}

/// Sealer of the packets that are sent.
pub(super) struct Sealer {
    key: Key<SealingKey>,
    sequence: u32,
}

impl Sealer {
    /// Creates the sealer of the packets before the first key exchange has ended.
    pub(super) fn plain() -> Self {
        Self { key: Key::Plain, sequence: 0 }
    }

    /// Takes the keys of an exchange. With `reset`, packets are counted from 0 again.
    pub(super) fn rekey(
        &mut self,
        cipher: Cipher,
        key: &[u8],
        nonce: &[u8],
        reset: bool,
    ) -> Result<(), Error> {
        self.key = Key::new(cipher, key, nonce, SealingKey::new)?;
        if reset {
            self.sequence = 0;
        }
        Ok(())
    }

    /// Appends a packet with this message to `output`.
    pub(super) fn seal(&mut self, message: &[u8], output: &mut BytesMut) -> Result<(), Error> {
        // The length field counts towards a whole number of blocks only where it is encrypted with the rest, or nothing is.
        let (block, counted) = match self.key {
            Key::Plain => (8, LENGTH_LEN),
            Key::Gcm(_) => (16, 0),
            Key::ChaCha(_) => (8, 0),
        };
        let bare = counted + 1 + message.len();
        let padding = block - (bare + MIN_PADDING) % block + MIN_PADDING;
        let padding = if padding >= block + MIN_PADDING { padding - block } else { padding };
        let len = 1 + message.len() + padding;
        let (length, padding_byte) = match (u32::try_from(len), u8::try_from(padding)) {
            (Ok(length), Ok(padding)) => (length, padding),
            _ => return Err(Error::TooLong),
        };
        output.reserve(LENGTH_LEN + len + TAG_LEN);
        let start = output.len();
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(&[padding_byte]);
        output.extend_from_slice(message);
        // What is encrypted needs no random padding.
        output.resize(start + LENGTH_LEN + len, 0);
        let packet = output.get_mut(start..).ok_or(Error::Crypto)?;
        match &mut self.key {
            Key::Plain => {}
            Key::Gcm(gcm) => {
                let nonce = gcm.next();
                let (length, text) = packet.split_at_mut_checked(LENGTH_LEN).ok_or(Error::Crypto)?;
                let tag = gcm.key.seal_in_place_separate_tag(nonce, Aad::from(&*length), text);
                output.extend_from_slice(tag.map_err(|_| Error::Crypto)?.as_ref());
            }
            Key::ChaCha(key) => {
                let mut tag = [0; TAG_LEN];
                key.seal_in_place(self.sequence, packet, &mut tag);
                output.extend_from_slice(&tag);
            }
        }
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }
}

/// Opener of the packets that are received.
pub(super) struct Opener {
    key: Key<OpeningKey>,
    sequence: u32,
    /// Length of the packet that is being received.
    len: Option<usize>,
}

impl Opener {
    /// Creates the opener of the packets before the first key exchange has ended.
    pub(super) fn plain() -> Self {
        Self { key: Key::Plain, sequence: 0, len: None }
    }

    /// Takes the keys of an exchange. With `reset`, packets are counted from 0 again.
    pub(super) fn rekey(
        &mut self,
        cipher: Cipher,
        key: &[u8],
        nonce: &[u8],
        reset: bool,
    ) -> Result<(), Error> {
        self.key = Key::new(cipher, key, nonce, OpeningKey::new)?;
        if reset {
            self.sequence = 0;
        }
        Ok(())
    }

    /// Returns the number of the packet that was opened last.
    pub(super) fn last_sequence(&self) -> u32 {
        self.sequence.wrapping_sub(1)
    }

    /// Takes the next packet from `input` and returns its message. `None` if it is not there yet as a whole; `input` then has room for the
    /// rest.
    pub(super) fn open(&mut self, input: &mut BytesMut, max_len: usize) -> Result<Option<BytesMut>, Error> {
        let Some(len) = self.length(input, max_len)? else { return Ok(None) };
        let tag_len = if matches!(self.key, Key::Plain) { 0 } else { TAG_LEN };
        let whole = LENGTH_LEN + len + tag_len;
        if input.len() < whole {
            input.reserve(whole - input.len());
            return Ok(None);
        }
        let mut packet = input.split_to(whole);
        match &mut self.key {
            Key::Plain => {}
            Key::Gcm(gcm) => {
                let nonce = gcm.next();
                let (length, text) = packet.split_at_mut_checked(LENGTH_LEN).ok_or(Error::Crypto)?;
                gcm.key.open_in_place(nonce, Aad::from(&*length), text).map_err(|_| Error::NotAuthentic)?;
            }
            Key::ChaCha(key) => {
                let (text, tag) = packet.split_last_chunk_mut::<TAG_LEN>().ok_or(Error::Crypto)?;
                let tag = *tag;
                key.open_in_place(self.sequence, text, &tag).map_err(|_| Error::NotAuthentic)?;
            }
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.len = None;
        packet.advance(LENGTH_LEN);
        packet.truncate(len);
        let padding = usize::from(packet.first().copied().ok_or(Error::Malformed)?);
        let end = len.checked_sub(padding).filter(|end| *end > 1 && padding >= MIN_PADDING);
        packet.truncate(end.ok_or(Error::Malformed)?);
        packet.advance(1);
        Ok(Some(packet))
    }

    /// Returns the length of the next packet, once it is there.
    fn length(&mut self, input: &[u8], max_len: usize) -> Result<Option<usize>, Error> {
        if self.len.is_some() {
            return Ok(self.len);
        }
        let Some(field) = input.first_chunk::<PACKET_LENGTH_LEN>() else { return Ok(None) };
        let (field, block, counted) = match &self.key {
            Key::Plain => (*field, 8, LENGTH_LEN),
            Key::Gcm(_) => (*field, 16, 0),
            Key::ChaCha(key) => (key.decrypt_packet_length(self.sequence, *field), 8, 0),
        };
        let len = usize::try_from(u32::from_be_bytes(field)).map_err(|_| Error::TooLong)?;
        if len > max_len {
            return Err(Error::TooLong);
        }
        if len < MIN_PACKET_LEN || (len + counted) % block != 0 {
            return Err(Error::Malformed);
        }
        self.len = Some(len);
        Ok(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_LEN: usize = 1 << 20;

    fn pair(cipher: Option<Cipher>) -> (Sealer, Opener) {
        let (mut sealer, mut opener) = (Sealer::plain(), Opener::plain());
        if let Some(cipher) = cipher {
            let (key, nonce) = (vec![3; cipher.key_len()], vec![255; cipher.nonce_len()]);
            sealer.rekey(cipher, &key, &nonce, true).unwrap();
            opener.rekey(cipher, &key, &nonce, true).unwrap();
        }
        (sealer, opener)
    }

    fn all() -> Vec<Option<Cipher>> {
        NAMES.iter().map(|name| Some(Cipher::of(name).unwrap())).chain([None]).collect()
    }

    #[test]
    fn messages_of_all_lengths_arrive_in_order_and_in_pieces() {
        for cipher in all() {
            let (mut sealer, mut opener) = pair(cipher);
            let (mut sent, mut input) = (BytesMut::new(), BytesMut::new());
            let messages: Vec<Vec<u8>> = (1..300).map(|len| vec![len as u8; len]).collect();
            for message in &messages {
                sealer.seal(message, &mut sent).unwrap();
            }
            let mut arrived = Vec::new();
            for piece in sent.chunks(7) {
                input.extend_from_slice(piece);
                while let Some(message) = opener.open(&mut input, MAX_LEN).unwrap() {
                    arrived.push(message.to_vec());
                }
            }
            assert_eq!(arrived, messages, "{cipher:?}");
            assert!(input.is_empty());
        }
    }

    #[test]
    fn changed_packet_is_not_opened() {
        for cipher in all().into_iter().flatten() {
            for position in [4, 9, 20, 35] {
                let (mut sealer, mut opener) = pair(Some(cipher));
                let mut sent = BytesMut::new();
                sealer.seal(&[9; 15], &mut sent).unwrap();
                sent[position] ^= 1;
                assert!(opener.open(&mut sent, MAX_LEN).is_err(), "{cipher:?}, byte {position}");
            }
        }
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_read() {
        let mut opener = Opener::plain();
        let open = |opener: &mut Opener, length: u32| {
            opener.open(&mut BytesMut::from(&length.to_be_bytes()[..]), 35_000).map(|_| ())
        };
        assert_eq!(open(&mut opener, 35_004), Err(Error::TooLong));
        assert_eq!(open(&mut opener, u32::MAX), Err(Error::TooLong));
        assert_eq!(open(&mut opener, 4), Err(Error::Malformed));
        assert_eq!(open(&mut opener, 13), Err(Error::Malformed));
        assert_eq!(open(&mut opener, 12), Ok(()));
        // Padding beyond the packet, too little of it, and no message.
        for padding in [12, 3, 11] {
            let mut packet = BytesMut::from(&[0, 0, 0, 12, padding][..]);
            packet.resize(16, 0);
            assert_eq!(Opener::plain().open(&mut packet, 35_000), Err(Error::Malformed), "{padding}");
        }
    }
}
