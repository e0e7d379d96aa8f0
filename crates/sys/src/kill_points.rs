//! Kill points, for tests: the process ends by SIGKILL at a chosen point, so that a test reaches every state that a crash can leave. The
//! points are in a file in a folder of the process's own. Without it, as in every real installation, one attempt to open it at the start is
//! all that this does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Signal, getpid, kill_process};

/// Name of the file with the points.
pub const KILL_POINTS_FILE: &str = "kill-points";
/// Before the name of a point that is passed once without a kill.
pub const SKIPPED: &str = "skip ";

/// Points that are left, one a line. Each is removed when it is passed, so that the next process goes on with the others.
#[derive(Debug, Clone, Default)]
pub struct KillPoints(Option<Arc<Armed>>);

/// Points of a file that was there.
#[derive(Debug)]
struct Armed {
    file: PathBuf,
    left: Mutex<Vec<String>>,
}

impl KillPoints {
    /// Reads the points in a folder.
    #[must_use]
    pub fn open(folder: &Path) -> Self {
        let file = folder.join(KILL_POINTS_FILE);
        let text = fs::read_to_string(&file).ok();
        Self(text.map(|text| {
            let left = Mutex::new(text.lines().map(str::to_owned).collect());
            Arc::new(Armed { file, left })
        }))
    }

    /// Runs `work`, unless this process ends before or after it.
    pub fn around<T>(&self, [before, after]: [&str; 2], work: impl FnOnce() -> T) -> T {
        self.pass(before);
        let done = work();
        self.pass(after);
        done
    }

    /// Ends this process if the point is the next one of its name, and not to be skipped.
    pub fn pass(&self, point: &str) {
        let Some(Armed { file, left }) = self.0.as_deref() else { return };
        // Locked until the process has ended, so that no other task goes on.
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        let is_point = |line: &String| line.strip_prefix(SKIPPED).unwrap_or(line) == point;
        let Some(at) = left.iter().position(is_point) else { return };
        let line = left.remove(at);
        // Written before the kill: a point that stays would end every process.
        let written = fs::write(file, left.iter().map(|line| format!("{line}\n")).collect::<String>());
        if written.is_err() || line.starts_with(SKIPPED) {
            return;
        }
        // A process can always end itself.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}
