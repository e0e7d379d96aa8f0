//! The host that `--only` keeps between runs: namespaces with an installation in them. It is replaced when what it runs has changed.

use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::paths::{checkout, program};
use crate::steps::step;

const END_TIMEOUT: Duration = Duration::from_secs(30);

/// A folder that the host's processes keep locked. The suite fills it.
pub(super) struct KeptHost {
    folder: PathBuf,
}

impl KeptHost {
    pub(super) fn new() -> Self {
        Self { folder: checkout().join("target/test-host") }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes a host that runs other programs or another image than the current ones, or any if `fresh`.
    pub(super) fn prepare(&self, image: &Path, fresh: bool) -> Result<()> {
        let (path, current) = (self.folder.join("programs"), fingerprint(image)?);
        if fresh || fs::read_to_string(&path).ok().as_deref() != Some(current.as_str()) {
            self.remove()?;
        }
        fs::create_dir_all(&self.folder)?;
        Ok(fs::write(path, current)?)
    }

    /// Ends the host with everything in it, and removes what it leaves.
    pub(super) fn remove(&self) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        step("remove the kept installation", "end the process named in the message", || {
            if !self.is_free()? {
                let pid = fs::read_to_string(self.folder.join("init.pid")).context("its pid")?;
                let pid = Pid::from_raw(pid.trim().parse()?).context("its pid")?;
                kill_process(pid, Signal::KILL)?;
                let deadline = Instant::now() + END_TIMEOUT;
                while !self.is_free()? {
                    anyhow::ensure!(Instant::now() < deadline, "process {pid:?} does not end");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            Ok(fs::remove_dir_all(&self.folder)?)
        })
    }

    fn is_free(&self) -> Result<bool> {
        match File::open(self.folder.join("lock")) {
            Ok(lock) => Ok(lock.try_lock().is_ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Describes the files that an installation runs.
fn fingerprint(image: &Path) -> Result<String> {
    let mut text = String::new();
    let programs = ["rigboxd", "rig", "guest/init", "guest/rig"].map(program);
    for path in programs.iter().map(PathBuf::as_path).chain([image]) {
        let file = fs::metadata(path).with_context(|| path.display().to_string())?;
        writeln!(text, "{} {} {}.{:09}", path.display(), file.len(), file.mtime(), file.mtime_nsec())?;
    }
    Ok(text)
}
