//! Effects of the node on the machine, before and after which tests end it.

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
    /// A VM's link is opened or closed.
    SetLink,
    /// A memory image is compared with the machine.
    CheckMemory,
    /// An image of a VM's memory is begun.
    BeginSave,
    /// An image of a VM's memory is completed.
    FinishSave,
    /// A memory image is removed.
    ForgetMemory,
}

impl Effect {
    /// All effects.
    pub const ALL: [Self; 14] = [
        Self::Save,
        Self::RemoveRecord,
        Self::CreateDisk,
        Self::RemoveDisk,
        Self::Launch,
        Self::Reopen,
        Self::TearDown,
        Self::RestoreNetwork,
        Self::SetPolicy,
        Self::SetLink,
        Self::CheckMemory,
        Self::BeginSave,
        Self::FinishSave,
        Self::ForgetMemory,
    ];

    /// Effects that a workspace's life has only if its guest is taken out of time.
    pub const OUT_OF_TIME: [Self; 4] = [Self::SetLink, Self::CheckMemory, Self::BeginSave, Self::FinishSave];

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
            Self::SetLink => ["before set_link", "after set_link"],
            Self::CheckMemory => ["before check_memory", "after check_memory"],
            Self::BeginSave => ["before begin_save", "after begin_save"],
            Self::FinishSave => ["before finish_save", "after finish_save"],
            Self::ForgetMemory => ["before forget_memory", "after forget_memory"],
        }
    }
}

#[cfg(test)]
mod tests {
    use rigbox_sys::kill_points::{KILL_POINTS_FILE, KillPoints};

    use super::*;

    #[test]
    fn effects_run_without_a_file_and_after_skipped_points() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(KillPoints::open(dir.path()).around(Effect::Save.points(), || 1), 1);
        let file = dir.path().join(KILL_POINTS_FILE);
        std::fs::write(&file, "before launch\nskip after save\nafter save\n").unwrap();
        assert_eq!(KillPoints::open(dir.path()).around(Effect::Save.points(), || 2), 2);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "before launch\nafter save\n");
    }
}
