//! File of kill points of a role. A process of the role reads it at its start, and ends at the first point that it reaches.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rigbox_sys::kill_points::KILL_POINTS_FILE;

use crate::harness::installation::Installation;

/// Kill points of a role, until they are dropped.
pub(in crate::recovery) struct KillPoints<'a> {
    installation: &'a Installation,
    role: &'static str,
    file: PathBuf,
}

impl<'a> KillPoints<'a> {
    pub(in crate::recovery) fn of_node(installation: &'a Installation) -> Self {
        let file = installation.run_dir().join("node/own").join(KILL_POINTS_FILE);
        Self { installation, role: "node", file }
    }

    pub(in crate::recovery) fn of_control(installation: &'a Installation) -> Self {
        let file = installation.state().join("control").join(KILL_POINTS_FILE);
        Self { installation, role: "control", file }
    }

    /// Replaces the points, also for the process that runs.
    pub(in crate::recovery) fn arm(&self, points: &[String]) -> Result<()> {
        fs::write(&self.file, points.iter().map(|point| format!("{point}\n")).collect::<String>())?;
        // The role rewrites it.
        let owner = fs::metadata(self.file.parent().context("no folder")?)?;
        chown(&self.file, Some(owner.uid()), Some(owner.gid()))?;
        self.installation.kill_role(self.role)?;
        self.installation.wait_ready()
    }

    /// Returns the points that were not reached.
    pub(in crate::recovery) fn left(&self) -> Result<Vec<String>> {
        Ok(fs::read_to_string(&self.file)?.lines().map(str::to_owned).collect())
    }
}

impl Drop for KillPoints<'_> {
    fn drop(&mut self) {
        // The process that has read it goes on with what it knows, and writes the file again at the next point.
        let _ = fs::remove_file(&self.file);
        let _ = self.installation.kill_role(self.role);
    }
}

/// Starts the roles anew: each restart of a role by the same supervisor waits longer than the one before.
pub(in crate::recovery) fn restart(installation: &Installation) -> Result<()> {
    installation.kill_supervisor()?;
    installation.start_supervisor()?;
    installation.wait_ready()
}
