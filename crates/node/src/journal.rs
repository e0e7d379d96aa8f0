//! What this node made and has to clean up: one small JSON file per workspace, replaced whole before the thing is made and after it is
//! gone, so that a node that died anywhere knows what may be there.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::Cause;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::net::policy::Policy;

/// All that is known of one workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) workspace: String,
    /// Of the last request that was carried out.
    pub(crate) generation: u64,
    /// Which of the node's VM uids it has.
    pub(crate) slot: u32,
    pub(crate) image_version: String,
    pub(crate) disk_size_mb: u32,
    pub(crate) phase: Phase,
    pub(crate) boot: Option<Boot>,
    pub(crate) last_end: Option<Ended>,
    /// What the network lets through, now or at the next start.
    #[serde(default)]
    pub(crate) network: Policy,
}

/// How far the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// The disk may be half there.
    Provisioning,
    /// The disk is whole.
    Provisioned,
    /// Everything goes.
    Deleting,
}

/// A VM that runs, or may run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Boot {
    pub(crate) boot_id: String,
    /// The host's own boot: another one means that this VM is gone.
    pub(crate) host_boot_id: String,
    /// None until the VMM has been spawned.
    pub(crate) process: Option<Process>,
    #[serde(rename = "about_json")]
    pub(crate) metadata_json: String,
    /// The agent has said hello in this boot.
    pub(crate) ready: bool,
    /// A stop was asked for.
    pub(crate) stopping: bool,
}

/// A process, named so that another one with the same pid is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks after the host's boot (field 22 of proc_pid_stat(5)).
    pub(crate) start_time: u64,
}

/// How the last boot ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) boot_id: String,
    /// Number of a [`Cause`].
    pub(crate) cause: i32,
    pub(crate) detail: String,
}

impl Ended {
    pub(crate) fn new(boot_id: &str, cause: Cause, detail: impl Into<String>) -> Self {
        Self { boot_id: boot_id.to_owned(), cause: cause.into(), detail: detail.into() }
    }
}

/// The folder of records.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    dir: PathBuf,
}

impl Journal {
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&dir).map_err(Error::at("cannot be made", &dir))?;
        Ok(Self { dir })
    }

    /// Everything on record. A file that cannot be read is an error, never skipped: what it names would be taken for nobody's.
    pub(crate) fn load(&self) -> Result<Vec<(WorkspaceId, Record)>, Error> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::at("cannot be listed", &self.dir))? {
            let path = entry.map_err(Error::at("cannot be listed", &self.dir))?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                // A replacement that was never finished.
                fs::remove_file(&path).map_err(Error::at("cannot be removed", &path))?;
                continue;
            }
            let text = fs::read_to_string(&path).map_err(Error::at("cannot be read", &path))?;
            let record: Record = serde_json::from_str(&text)
                .map_err(|error| Error::at("is no record of the node's journal", &path)(error.into()))?;
            let id = record.workspace.parse().map_err(|error| {
                Error::at("is no record of the node's journal", &path)(std::io::Error::other(error))
            })?;
            records.push((id, record));
        }
        Ok(records)
    }

    /// Puts `record` on disk, durably.
    pub(crate) fn save(&self, record: &Record) -> Result<(), Error> {
        let (path, new) = self.paths(&record.workspace);
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync(&self.dir)
        };
        write().map_err(Error::at("cannot be written", &path))
    }

    /// Forgets a workspace, durably.
    pub(crate) fn remove(&self, workspace: &WorkspaceId) -> Result<(), Error> {
        let (path, _) = self.paths(workspace.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::at("cannot be removed", &path)(error))
            }
            _ => sync(&self.dir).map_err(Error::at("cannot be synced", &self.dir)),
        }
    }

    fn paths(&self, workspace: &str) -> (PathBuf, PathBuf) {
        (self.dir.join(format!("{workspace}.json")), self.dir.join(format!("{workspace}.new")))
    }
}

fn sync(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(workspace: &WorkspaceId) -> Record {
        Record {
            workspace: workspace.to_string(),
            generation: 3,
            slot: 1,
            image_version: "base-1".into(),
            disk_size_mb: 4096,
            phase: Phase::Provisioned,
            boot: None,
            last_end: Some(Ended::new("b", Cause::Halt, "halted")),
            network: Policy::default(),
        }
    }

    #[test]
    fn a_record_comes_back_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().to_owned()).unwrap();
        let id = WorkspaceId::from_random([1; 5]);
        journal.save(&record(&id)).unwrap();
        fs::write(dir.path().join("ws-x.new"), "{ half").unwrap();
        assert_eq!(journal.load().unwrap(), vec![(id.clone(), record(&id))]);
        assert!(!dir.path().join("ws-x.new").exists());
        journal.remove(&id).unwrap();
        journal.remove(&id).unwrap();
        assert_eq!(journal.load().unwrap(), vec![]);
    }

    #[test]
    fn a_damaged_record_is_no_absence() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().to_owned()).unwrap();
        fs::write(dir.path().join("ws-aaaaaaaa.json"), "{").unwrap();
        assert!(journal.load().unwrap_err().to_string().contains("ws-aaaaaaaa.json"));
    }
}
