//! Kill points, for tests: the process of the node ends by SIGKILL just before or just after a chosen effect on the machine, so that a test
//! reaches every state that a crash can leave. The points are in a file in the node's run folder, which only root may enter. Without
//! it, as in every real installation, one attempt to open it at the start is all that this does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Signal, getpid, kill_process};

/// Name of the file with the points, in the node's run folder.
pub const KILL_POINTS_FILE: &str = "kill-points";
/// Before the name of a point that is passed once without a kill.
pub const SKIPPED: &str = "skip ";

/// Effect on the machine: what a workspace's task does beyond its own state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A record is written.
    Save,
    /// A record is removed.
    RemoveRecord,
    /// A disk is created.
    CreateDisk,
    /// A disk is removed.
    RemoveDisk,
    /// A VMM is started.
    Launch,
    /// A recorded VMM is opened.
    Reopen,
    /// The resources of a boot are removed.
    TearDown,
    /// The network policy of a VM that was taken over is put in force.
    RestoreNetwork,
    /// Another network policy is put in force.
    SetPolicy,
}

impl Effect {
    /// All effects.
    pub const ALL: [Self; 9] = [
        Self::Save,
        Self::RemoveRecord,
        Self::CreateDisk,
        Self::RemoveDisk,
        Self::Launch,
        Self::Reopen,
        Self::TearDown,
        Self::RestoreNetwork,
        Self::SetPolicy,
    ];

    /// Returns the names of the points before and after the effect.
    #[must_use]
    pub fn points(self) -> [&'static str; 2] {
        match self {
            Self::Save => ["before save", "after save"],
            Self::RemoveRecord => ["before remove_record", "after remove_record"],
            Self::CreateDisk => ["before create_disk", "after create_disk"],
            Self::RemoveDisk => ["before remove_disk", "after remove_disk"],
            Self::Launch => ["before launch", "after launch"],
            Self::Reopen => ["before reopen", "after reopen"],
            Self::TearDown => ["before tear_down", "after tear_down"],
            Self::RestoreNetwork => ["before restore_network", "after restore_network"],
            Self::SetPolicy => ["before set_policy", "after set_policy"],
        }
    }
}

/// Points that are left, one a line. Each is removed when it is passed, so that the next process of the node goes on with the others.
pub(crate) struct KillPoints {
    file: PathBuf,
    /// `None` without a file.
    left: Option<Mutex<Vec<String>>>,
}

impl KillPoints {
    pub(crate) fn open(run_dir: &Path) -> Self {
        let file = run_dir.join(KILL_POINTS_FILE);
        let left = fs::read_to_string(&file).ok().map(|text| text.lines().map(str::to_owned).collect());
        Self { file, left: left.map(Mutex::new) }
    }

    /// Runs `work`, whose effect this is, unless this process ends before or after it.
    pub(crate) fn around<T>(&self, effect: Effect, work: impl FnOnce() -> T) -> T {
        let [before, after] = effect.points();
        self.pass(before);
        let done = work();
        self.pass(after);
        done
    }

    fn pass(&self, point: &str) {
        let Some(left) = &self.left else { return };
        // Locked until the process has ended, so that no other task goes on.
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        let is_point = |line: &String| line.strip_prefix(SKIPPED).unwrap_or(line) == point;
        let Some(at) = left.iter().position(is_point) else { return };
        let line = left.remove(at);
        // Written before the kill: a point that stays would end every process of the node.
        let written = fs::write(&self.file, left.iter().map(|line| format!("{line}\n")).collect::<String>());
        if written.is_err() || line.starts_with(SKIPPED) {
            return;
        }
        tracing::warn!(point, "ending this process, as the file of kill points asks");
        // A process can always end itself.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_run_without_a_file_and_after_skipped_points() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(KillPoints::open(dir.path()).around(Effect::Save, || 1), 1);
        let file = dir.path().join(KILL_POINTS_FILE);
        fs::write(&file, "before launch\nskip after save\nafter save\n").unwrap();
        assert_eq!(KillPoints::open(dir.path()).around(Effect::Save, || 2), 2);
        assert_eq!(fs::read_to_string(&file).unwrap(), "before launch\nafter save\n");
    }
}
