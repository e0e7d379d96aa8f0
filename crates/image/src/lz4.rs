//! Decodes LZ4's legacy frame, in which Linux kernels are packed; lz4_flex knows only the modern frame, so the
//! blocks are taken out here and their content is left to it.

/// Begins a frame, and may stand between blocks where frames were joined.
pub(crate) const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// What one block holds at most, fixed by the format.
const BLOCK: usize = 8 << 20;

/// No kernel is larger; a corrupt file ends here and not in all of the machine's memory.
const LIMIT: usize = 512 << 20;

/// Unpacks a frame. Bytes after the last block that cannot be another block (the kernel appends its size) are
/// left alone.
pub(crate) fn decode_legacy(packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut rest = packed.strip_prefix(&MAGIC).ok_or("no LZ4 magic at its start")?;
    let mut out = Vec::new();
    while let Some((size, tail)) = rest.split_first_chunk::<4>() {
        rest = tail;
        if *size == MAGIC {
            continue;
        }
        let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
        let Some((block, tail)) = rest.split_at_checked(size) else { break };
        let plain = lz4_flex::block::decompress(block, BLOCK).map_err(|e| format!("bad LZ4 block: {e}"))?;
        out.extend_from_slice(&plain);
        rest = tail;
        if out.len() > LIMIT {
            return Err(format!("more than {} MB of content", LIMIT >> 20));
        }
    }
    if out.is_empty() { Err("LZ4 frame without a block".to_owned()) } else { Ok(out) }
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
        let first = vec![7_u8; BLOCK];
        let second = b"and the rest".repeat(99);
        let plain = [first.clone(), second.clone()].concat();
        let size = u32::try_from(plain.len()).unwrap().to_le_bytes();
        let packed = [MAGIC.to_vec(), block(&first), block(&second), size.to_vec()].concat();
        assert!(decode_legacy(&packed).unwrap() == plain);
    }

    #[test]
    fn joined_frames_are_one_content() {
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
