//! Steps that control records: before and after each, tests end its process.

use rigbox_sys::kill_points::KillPoints;

use crate::Store;

/// Step whose outcome has to survive the process, or to be repeated by the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A workspace is created.
    Create,
    /// A request for another state of a workspace is stored.
    Request,
    /// The node is told a target.
    SetTarget,
    /// A report that gets a workspace on is stored.
    Report,
    /// A boot gets its secrets.
    Deliver,
    /// A workspace whose deletion is confirmed is removed.
    Remove,
    /// An entry is appended to the log of revocations.
    AppendRevocation,
    /// The transaction of an entry is committed.
    CommitRevocation,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Request,
        Self::SetTarget,
        Self::Report,
        Self::Deliver,
        Self::Remove,
        Self::AppendRevocation,
        Self::CommitRevocation,
    ];

    /// Returns the names of the points before and after the step.
    #[must_use]
    pub fn points(self) -> [&'static str; 2] {
        match self {
            Self::Create => ["before create", "after create"],
            Self::Request => ["before request", "after request"],
            Self::SetTarget => ["before set_target", "after set_target"],
            Self::Report => ["before report", "after report"],
            Self::Deliver => ["before deliver", "after deliver"],
            Self::Remove => ["before remove", "after remove"],
            Self::AppendRevocation => ["before append_revocation", "after append_revocation"],
            Self::CommitRevocation => ["before commit_revocation", "after commit_revocation"],
        }
    }
}

impl Store {
    /// Returns the store with kill points, for its own steps and those of the services above it.
    #[must_use]
    pub fn with_kill_points(self, kill_points: KillPoints) -> Self {
        Self { kill_points, ..self }
    }

    /// Performs a step, unless this process ends before or after it.
    pub async fn perform<T>(&self, step: Step, work: impl Future<Output = T>) -> T {
        self.pass_before(step);
        let done = work.await;
        self.pass_after(step);
        done
    }

    /// Passes the point before a step.
    pub fn pass_before(&self, step: Step) {
        let [before, _] = step.points();
        self.kill_points.pass(before);
    }

    /// Passes the point after a step.
    pub fn pass_after(&self, step: Step) {
        let [_, after] = step.points();
        self.kill_points.pass(after);
    }
}
