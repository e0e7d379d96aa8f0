//! `rig` in the VM. It travels packed in the initramfs, because copying the whole program at each boot would delay the first command. This
//! program stands in its place, unpacks it into memory when somebody runs it, and becomes it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use lz4_flex::frame::FrameDecoder;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::mounts::bind_program;

/// Name under which this program is the stand-in.
pub(crate) const NAME: &str = "rig";
/// The packed program in the initramfs, an LZ4 frame.
const IN_INITRAMFS: &str = "/rigbox/rig.lz4";
/// The same during the VM's life.
const PACKED: &str = "/run/rigbox/rig.lz4";

/// Puts the stand-in and the packed program into `run`, which becomes `/run`.
pub(crate) fn install(run: &Path) -> Result<()> {
    // Bind-mounted instead of copied, so that each stays in memory only once.
    for (from, to) in [(IN_INITRAMFS, "rigbox/rig.lz4"), ("/init", "rigbox/bin/rig")] {
        let to = run.join(to);
        File::create(&to)?;
        bind_program(Path::new(from), &to)?;
    }
    Ok(())
}

/// Becomes `rig`. Returns only on failure.
pub(crate) fn run() -> anyhow::Error {
    match unpack() {
        Ok(program) => {
            let mut rig = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
            rig.arg0(NAME).args(std::env::args_os().skip(1));
            anyhow::Error::new(rig.exec()).context("failed to execute rig")
        }
        Err(error) => error.context("failed to unpack rig"),
    }
}

fn unpack() -> Result<File> {
    let packed = File::open(PACKED).context(PACKED)?;
    let mut program = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC)?);
    std::io::copy(&mut FrameDecoder::new(packed), &mut program)?;
    Ok(program)
}
