//! Encryption of a memory image: AES-256-GCM in pieces, after the STREAM construction (Hoang, Reyhanitabar, Rogaway and Vizár, 2015): the nonce
//! of a piece is its number, and what it says of the stream is under its tag. So pieces are neither exchanged nor left out, nor is the end,
//! without an error. A key is good for one image only.
//!
//! A piece is the length of its ciphertext (4 bytes, little-endian) and the ciphertext. Its text begins with a byte that tells what follows.

use std::io::{self, Read, Write};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::MemoryKey;

/// Begins an image. The number is that of this format.
const MAGIC: &[u8; 8] = b"rigmem\x00\x01";
/// Memory in one piece.
const PIECE_BYTES: usize = 256 * 1024;
/// Size of a ciphertext at most: the byte that tells what follows, the memory and the tag.
const MAX_CIPHERTEXT_BYTES: usize = 1 + PIECE_BYTES + TAG_BYTES;
const TAG_BYTES: usize = 16;
const ZEROS: &[u8; PIECE_BYTES] = &[0; PIECE_BYTES];

/// First bytes of a piece.
const DATA: u8 = 0;
/// Memory that is zero. Its length follows, 4 bytes, little-endian.
const ZERO: u8 = 1;
/// End of one part of the image.
const END_OF_PART: u8 = 2;
/// End of the image.
const END: u8 = 3;

struct Cipher {
    key: LessSafeKey,
    number: u64,
}

impl Cipher {
    fn new(key: &MemoryKey) -> io::Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key.bytes()).map_err(|_| broken("the key is not usable"))?;
        Ok(Self { key: LessSafeKey::new(key), number: 0 })
    }

    /// Returns the nonce of the next piece.
    fn nonce(&mut self) -> io::Result<Nonce> {
        let mut nonce = [0; 12];
        let (_, number) = nonce.split_at_mut(4);
        number.copy_from_slice(&self.number.to_le_bytes());
        self.number = self.number.checked_add(1).ok_or_else(|| broken("the image is too long"))?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// Writes an image.
pub(super) struct SealedWriter<W> {
    to: W,
    cipher: Cipher,
    buffer: Vec<u8>,
}

impl<W: Write> SealedWriter<W> {
    pub(super) fn new(mut to: W, key: &MemoryKey) -> io::Result<Self> {
        to.write_all(MAGIC)?;
        Ok(Self { to, cipher: Cipher::new(key)?, buffer: Vec::with_capacity(MAX_CIPHERTEXT_BYTES) })
    }

    /// Writes all that `from` has as one part, unless that is more than `limit` bytes. Returns its size.
    pub(super) fn write_part(&mut self, mut from: impl Read, limit: u64) -> io::Result<u64> {
        let mut piece = vec![0; PIECE_BYTES];
        let mut size = 0;
        loop {
            let length = read_full(&mut from, &mut piece)?;
            let Some(filled) = piece.get(..length).filter(|filled| !filled.is_empty()) else {
                self.seal(END_OF_PART, &[])?;
                return Ok(size);
            };
            size += length as u64;
            if size > limit {
                return Err(broken("the VMM wrote more than a memory of this size can take"));
            }
            if ZEROS.starts_with(filled) {
                let length = u32::try_from(length).map_err(io::Error::other)?;
                self.seal(ZERO, &length.to_le_bytes())?;
            } else {
                self.seal(DATA, filled)?;
            }
        }
    }

    /// Ends the image. Without that it cannot be read.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.seal(END, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn seal(&mut self, kind: u8, text: &[u8]) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.push(kind);
        self.buffer.extend_from_slice(text);
        let nonce = self.cipher.nonce()?;
        let sealed = self.cipher.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut self.buffer);
        sealed.map_err(|_| io::Error::other("the memory cannot be encrypted"))?;
        let length = u32::try_from(self.buffer.len()).map_err(io::Error::other)?;
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&self.buffer)
    }
}

/// Receives the memory of an image.
pub(super) trait MemorySink {
    fn write(&mut self, data: &[u8]) -> io::Result<()>;
    /// Writes zeros, or leaves them out where there are some already.
    fn skip(&mut self, length: u32) -> io::Result<()>;
}

/// Stream that takes everything.
pub(super) struct Stream<W>(pub(super) W);

impl<W: Write> MemorySink for Stream<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)
    }

    fn skip(&mut self, length: u32) -> io::Result<()> {
        self.0.write_all(ZEROS.get(..length as usize).ok_or_else(|| broken("a piece is too long"))?)
    }
}

/// Empty file.
pub(super) struct Sparse {
    file: std::fs::File,
    at: u64,
}

impl Sparse {
    pub(super) fn new(file: std::fs::File) -> Self {
        Self { file, at: 0 }
    }

    /// Gives the file its size, which zeros at its end have not.
    pub(super) fn finish(self) -> io::Result<()> {
        self.file.set_len(self.at)
    }
}

impl MemorySink for Sparse {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, data, self.at)?;
        self.at += data.len() as u64;
        Ok(())
    }

    fn skip(&mut self, length: u32) -> io::Result<()> {
        self.at += u64::from(length);
        Ok(())
    }
}

/// Reads an image.
pub(super) struct SealedReader<R> {
    from: R,
    cipher: Cipher,
    buffer: Vec<u8>,
}

impl<R: Read> SealedReader<R> {
    pub(super) fn new(mut from: R, key: &MemoryKey) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(broken("it is no memory image of this version"));
        }
        Ok(Self { from, cipher: Cipher::new(key)?, buffer: Vec::with_capacity(MAX_CIPHERTEXT_BYTES) })
    }

    /// Reads the next part.
    pub(super) fn read_part(&mut self, to: &mut impl MemorySink) -> io::Result<()> {
        loop {
            match self.open()? {
                (DATA, data) => to.write(data)?,
                (ZERO, length) => {
                    let length = length.try_into().map_err(|_| broken("a piece is invalid"))?;
                    to.skip(u32::from_le_bytes(length))?;
                }
                (END_OF_PART, []) => return Ok(()),
                _ => return Err(broken("a part of it is missing")),
            }
        }
    }

    /// Checks that the next piece can be read, which is gone then.
    pub(super) fn check_next(&mut self) -> io::Result<()> {
        self.open().map(drop)
    }

    /// Checks that the image ends here.
    pub(super) fn finish(mut self) -> io::Result<()> {
        match self.open()? {
            (END, []) => Ok(()),
            _ => Err(broken("it has a part too many")),
        }
    }

    /// Returns the kind and the rest of the next piece.
    fn open(&mut self) -> io::Result<(u8, &[u8])> {
        let mut length = [0; 4];
        self.from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_CIPHERTEXT_BYTES {
            return Err(broken("a piece is too long"));
        }
        self.buffer.resize(length, 0);
        self.from.read_exact(&mut self.buffer)?;
        let nonce = self.cipher.nonce()?;
        let opened = self.cipher.key.open_in_place(nonce, Aad::empty(), &mut self.buffer);
        let text = opened.map_err(|_| broken("it was changed, or has another key"))?;
        let (kind, text) = text.split_first().ok_or_else(|| broken("a piece is empty"))?;
        Ok((*kind, text))
    }
}

/// Reads until the buffer is full, or there is no more. Returns how much was read.
fn read_full(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn key(byte: u8) -> MemoryKey {
        MemoryKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn sealed(parts: &[&[u8]]) -> Vec<u8> {
        let mut writer = SealedWriter::new(Vec::new(), &key(1)).unwrap();
        for part in parts {
            assert_eq!(writer.write_part(*part, 1 << 30).unwrap(), part.len() as u64);
        }
        writer.finish().unwrap()
    }

    fn opened(image: &[u8], key: &MemoryKey, parts: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut reader = SealedReader::new(image, key)?;
        let mut read = Vec::new();
        for _ in 0..parts {
            let mut part = Stream(Vec::new());
            reader.read_part(&mut part)?;
            read.push(part.0);
        }
        reader.finish()?;
        Ok(read)
    }

    #[test]
    fn parts_come_back_and_zeros_take_no_space() {
        let mut memory = vec![0; 5 * PIECE_BYTES + 100];
        memory[PIECE_BYTES] = 7;
        let image = sealed(&[b"state", &memory, b""]);
        assert!(image.len() < PIECE_BYTES + 1_000, "{}", image.len());
        assert_eq!(opened(&image, &key(1), 3).unwrap(), [&b"state"[..], &memory, b""]);

        let mut reader = SealedReader::new(&image[..], &key(1)).unwrap();
        reader.read_part(&mut Stream(io::sink())).unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut sparse = Sparse::new(file.try_clone().unwrap());
        reader.read_part(&mut sparse).unwrap();
        sparse.finish().unwrap();
        let found = file.metadata().unwrap();
        assert_eq!(found.len(), memory.len() as u64);
        assert!(found.blocks() * 512 <= 2 * PIECE_BYTES as u64, "{} blocks", found.blocks());
        let mut content = Vec::new();
        io::copy(&mut &file, &mut content).unwrap();
        assert_eq!(content, memory);
    }

    #[test]
    fn nothing_of_the_memory_can_be_read_or_changed_without_the_key() {
        let secret = b"the guest's own secret".repeat(PIECE_BYTES / 10);
        let image = sealed(&[&secret]);
        assert!(!image.windows(10).any(|bytes| bytes == &secret[..10]));
        assert!(opened(&image, &key(2), 1).unwrap_err().to_string().contains("another key"));
        for at in [0, 9, 20, image.len() / 2, image.len() - 1] {
            let mut changed = image.clone();
            changed[at] ^= 1;
            opened(&changed, &key(1), 1).unwrap_err();
        }
        let end = image.len();
        for short in [0, 8, 10, PIECE_BYTES, end - 25, end - 21, end - 1] {
            opened(&image[..short], &key(1), 1).unwrap_err();
        }
        // Pieces in another order.
        let piece = 4 + MAX_CIPHERTEXT_BYTES;
        let [one, two] = [0, 1].map(|number| &image[8 + number * piece..8 + (number + 1) * piece]);
        let exchanged = [&image[..8], two, one, &image[8 + 2 * piece..]].concat();
        opened(&exchanged, &key(1), 1).unwrap_err();
    }

    #[test]
    fn vmm_that_writes_without_end_is_stopped() {
        let mut writer = SealedWriter::new(io::sink(), &key(1)).unwrap();
        let error = writer.write_part(io::repeat(1), 1 << 20).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }
}
