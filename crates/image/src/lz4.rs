//! Decoder for LZ4's legacy frame format, with which Linux kernels are compressed. lz4_flex supports only the modern format, so this module
//! splits the frame into blocks and leaves their content to it.

/// Start of a frame. Also occurs between blocks, where frames were concatenated.
pub(crate) const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// Uncompressed size of a block, fixed by the format.
const MAX_BLOCK_BYTES: usize = 8 << 20;

/// Uncompressed size of a frame. It is larger than any kernel, and bounds the memory that a corrupt file can take.
const MAX_OUTPUT_BYTES: usize = 512 << 20;

/// Decodes a frame. Trailing bytes that cannot be another block are ignored, because the kernel appends its size.
pub(crate) fn decode_legacy(packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut rest = packed.strip_prefix(&MAGIC).ok_or("missing LZ4 magic")?;
    let mut out = Vec::new();
    while let Some((size, tail)) = rest.split_first_chunk::<4>() {
        rest = tail;
        if *size == MAGIC {
            continue;
        }
        let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
        let Some((block, tail)) = rest.split_at_checked(size) else { break };
        let plain = lz4_flex::block::decompress(block, MAX_BLOCK_BYTES)
            .map_err(|e| format!("invalid LZ4 block: {e}"))?;
        out.extend_from_slice(&plain);
        rest = tail;
        if out.len() > MAX_OUTPUT_BYTES {
            return Err(format!("more than {} MiB of content", MAX_OUTPUT_BYTES >> 20));
        }
    }
    if out.is_empty() { Err("LZ4 frame without blocks".to_owned()) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(plain: &[u8]) -> Vec<u8> {
        let packed = lz4_flex::block::compress(plain);
        let mut bytes = u32::try_from(packed.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend(packed);
        bytes
    }

    #[test]
    fn blocks_are_joined_and_the_appended_size_is_ignored() {
        let first = vec![7_u8; MAX_BLOCK_BYTES];
        let second = b"and the rest".repeat(99);
        let plain = [first.clone(), second.clone()].concat();
        let size = u32::try_from(plain.len()).unwrap().to_le_bytes();
        let packed = [MAGIC.to_vec(), block(&first), block(&second), size.to_vec()].concat();
        assert!(decode_legacy(&packed).unwrap() == plain);
    }

    #[test]
    fn concatenated_frames_are_joined() {
        let packed = [MAGIC.to_vec(), block(b"one "), MAGIC.to_vec(), block(b"two")].concat();
        assert_eq!(decode_legacy(&packed).unwrap(), b"one two");
    }

    #[test]
    fn garbage_is_refused() {
        for garbage in [&b""[..], b"\x7fELF", &MAGIC, &[0x02, 0x21, 0x4c, 0x18, 2, 0, 0, 0, 0xff, 0xff]] {
            decode_legacy(garbage).unwrap_err();
        }
    }
}
