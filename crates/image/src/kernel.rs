//! Extraction of the compressed ELF from Debian's `vmlinuz`, and detection of the kernel version.
//!
//! QEMU's microvm and Firecracker both boot an ELF directly, without firmware in the VM.

use std::path::Path;

use crate::error::Error;
use crate::lz4;

/// First boot protocol version whose header contains the payload's offset.
const MIN_PROTOCOL: u16 = 0x0208;

/// Extracts the ELF from the `vmlinuz` at `path`.
pub(crate) fn vmlinux(path: &Path) -> Result<Vec<u8>, Error> {
    let image = std::fs::read(path).map_err(Error::file("read", path))?;
    extract(&image).map_err(Error::Kernel)
}

fn extract(image: &[u8]) -> Result<Vec<u8>, String> {
    let payload = payload(image)?;
    if !payload.starts_with(&lz4::MAGIC) {
        return Err("its payload is not LZ4-compressed".to_owned());
    }
    let elf = lz4::decode_legacy(payload)?;
    if elf.starts_with(b"\x7fELF") { Ok(elf) } else { Err("its payload is not an ELF".to_owned()) }
}

/// Returns the compressed kernel within a bzImage. It is located through the header (Documentation/arch/x86/boot.rst), not by a search,
/// because the magic bytes also occur in code.
fn payload(image: &[u8]) -> Result<&[u8], String> {
    let truncated = || "it is truncated".to_owned();
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err("it is not a bzImage".to_owned());
    }
    let word = |offset: usize| image.get(offset..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b));
    let protocol = image.get(0x206..).and_then(<[u8]>::first_chunk::<2>).map(|b| u16::from_le_bytes(*b));
    if protocol.ok_or_else(truncated)? < MIN_PROTOCOL {
        return Err("its boot protocol is older than 2.08".to_owned());
    }
    // A count of 0 means 4 for historical reasons.
    let sectors = match image.get(0x1f1).copied().ok_or_else(truncated)? {
        0 => 4,
        n => usize::from(n),
    };
    let offset = usize::try_from(word(0x248).ok_or_else(truncated)?).map_err(|_| truncated())?;
    let length = usize::try_from(word(0x24c).ok_or_else(truncated)?).map_err(|_| truncated())?;
    let start = (sectors + 1) * 512 + offset;
    image.get(start..start.saturating_add(length)).ok_or_else(truncated)
}

/// Returns the kernel version in `modules`, the `lib/modules` of an unpacked kernel package.
pub(crate) fn version(modules: &Path) -> Result<String, Error> {
    let entries = std::fs::read_dir(modules).map_err(Error::file("list", modules))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file("list", modules))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    match names.as_slice() {
        [one] => Ok(one.clone()),
        other => Err(Error::Kernel(format!("expected the modules of one version, found {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a bzImage around `payload`, with junk before and after it that includes the magic.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0_u8; 3 * 512];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&8_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        [image, lz4::MAGIC.to_vec(), vec![9; 4], payload.to_vec(), vec![1; 64]].concat()
    }

    fn compressed(plain: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(plain);
        let size = u32::try_from(block.len()).unwrap().to_le_bytes();
        let plain_size = u32::try_from(plain.len()).unwrap().to_le_bytes();
        [&lz4::MAGIC[..], &size, &block, &plain_size].concat()
    }

    #[test]
    fn elf_is_extracted_from_a_bzimage() {
        let elf = [&b"\x7fELF"[..], &[5; 5000]].concat();
        assert!(extract(&bzimage(&compressed(&elf))).unwrap() == elf);
    }

    #[test]
    fn invalid_kernel_is_refused_with_the_reason() {
        assert!(extract(b"#!/bin/sh").unwrap_err().contains("bzImage"));
        assert!(extract(&bzimage(b"\x1f\x8bgzip")).unwrap_err().contains("LZ4"));
        assert!(extract(&bzimage(&compressed(b"text"))).unwrap_err().contains("ELF"));
        let mut short = bzimage(&compressed(b"\x7fELF"));
        short.truncate(3 * 512 + 10);
        assert!(extract(&short).unwrap_err().contains("truncated"));
    }
}
