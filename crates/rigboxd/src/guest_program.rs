//! `rig` for use in VMs, packed and put where control can read it: VMs fetch it over their bridge. In the initramfs it would delay the first
//! command of each boot.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use lz4_flex::frame::FrameEncoder;

use crate::config::Installation;

/// Packs the program that the configuration names.
pub(crate) fn pack(installation: &Installation) -> Result<()> {
    pack_file(&installation.guest_dir()?.join("rig"), &installation.packed_rig())
}

/// Packs `from` into an LZ4 frame at `to`, which is replaced as a whole.
fn pack_file(from: &Path, to: &Path) -> Result<()> {
    let program = fs::read(from).with_context(|| {
        format!("cannot read the guest's program {} (built by `cargo xtask`)", from.display())
    })?;
    let partial = to.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut encoder = FrameEncoder::new(fs::File::create(&partial)?);
        encoder.write_all(&program)?;
        encoder.finish()?;
        fs::rename(&partial, to)
    };
    write().with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn packed_program_is_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("rig"), folder.path().join("rig.lz4"));
        for content in [b"one".repeat(100_000), b"another".repeat(10)] {
            fs::write(&from, &content).unwrap();
            pack_file(&from, &to).unwrap();
            let mut unpacked = Vec::new();
            lz4_flex::frame::FrameDecoder::new(fs::File::open(&to).unwrap())
                .read_to_end(&mut unpacked)
                .unwrap();
            assert_eq!(unpacked, content);
        }
        fs::remove_file(&from).unwrap();
        assert!(pack_file(&from, &to).unwrap_err().to_string().contains("cargo xtask"));
    }
}
