//! Journal of the resources that this node created and has to clean up: one small JSON file per workspace. It is replaced atomically
//! before a resource is created and after it is gone, so a node that died at any point knows what may exist.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::Cause;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::Error;
use crate::net::policy::Policy;

/// State of one workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) workspace: String,
    /// Generation of the last request that was carried out.
    pub(crate) generation: u64,
    /// Index of its uid among the node's VM uids.
    pub(crate) slot: u32,
    pub(crate) image_version: String,
    pub(crate) disk_size_mb: u32,
    pub(crate) phase: Phase,
    pub(crate) boot: Option<Boot>,
    pub(crate) last_end: Option<BootEnd>,
    /// Network policy, in force now or from the next start on.
    #[serde(default)]
    pub(crate) network: Policy,
    #[serde(default)]
    pub(crate) network_revision: u64,
}

impl Record {
    /// Creates the record of a workspace without a disk.
    pub(crate) fn new(workspace: &WorkspaceId, slot: u32) -> Self {
        Self {
            workspace: workspace.to_string(),
            generation: 0,
            slot,
            image_version: String::new(),
            disk_size_mb: 0,
            phase: Phase::Provisioning,
            boot: None,
            last_end: None,
            network: Policy::default(),
            network_revision: 0,
        }
    }

    /// Replaces the network policy, unless the one that is recorded is later.
    pub(crate) fn set_network(&mut self, policy: Policy, revision: u64) {
        if revision >= self.network_revision {
            (self.network, self.network_revision) = (policy, revision);
        }
    }
}

/// State of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// The disk may be incomplete.
    Provisioning,
    /// The disk is complete.
    Provisioned,
    /// All resources are being removed.
    Deleting,
}

/// VM that runs, or may run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Boot {
    pub(crate) boot_id: String,
    /// Boot id of the host. If the host has another one by now, this VM is gone.
    pub(crate) host_boot_id: String,
    /// `None` until the VMM has been spawned.
    pub(crate) process: Option<ProcessId>,
    #[serde(rename = "about_json")]
    pub(crate) metadata_json: String,
    /// The agent has sent its hello in this boot.
    pub(crate) ready: bool,
    /// A stop was requested.
    pub(crate) stopping: bool,
}

/// Identity of a process that survives the reuse of its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Start time in clock ticks after the host's boot (field 22 of proc_pid_stat(5)).
    pub(crate) start_time: u64,
}

/// End of the last boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BootEnd {
    pub(crate) boot_id: String,
    /// Number of a [`Cause`].
    pub(crate) cause: i32,
    pub(crate) detail: String,
}

impl BootEnd {
    pub(crate) fn new(boot_id: &str, cause: Cause, detail: impl Into<String>) -> Self {
        Self { boot_id: boot_id.to_owned(), cause: cause.into(), detail: detail.into() }
    }
}

/// Folder of the records.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    dir: PathBuf,
}

impl Journal {
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
        Ok(Self { dir })
    }

    /// Reads all records. An unreadable file is an error and never skipped: its resources would be removed as orphans.
    pub(crate) fn load(&self) -> Result<Vec<(WorkspaceId, Record)>, Error> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::at("list", &self.dir))? {
            let path = entry.map_err(Error::at("list", &self.dir))?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                // An unfinished replacement.
                fs::remove_file(&path).map_err(Error::at("remove", &path))?;
                continue;
            }
            let text = fs::read_to_string(&path).map_err(Error::at("read", &path))?;
            records.push(parse(&text).map_err(Error::at("parse", &path))?);
        }
        Ok(records)
    }

    /// Reads all records beside a node that may be running. Each is as it was at some moment.
    pub(crate) fn snapshot(&self) -> Result<Vec<(WorkspaceId, Record)>, Error> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::at("list", &self.dir))? {
            let path = entry.map_err(Error::at("list", &self.dir))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read_to_string(&path) {
                Ok(text) => records.push(parse(&text).map_err(Error::at("parse", &path))?),
                // Removed since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::at("read", &path)(error)),
            }
        }
        Ok(records)
    }

    /// Writes a record durably.
    pub(crate) fn save(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(&record.workspace);
        let text = serde_json::to_vec_pretty(record).map_err(std::io::Error::from);
        text.and_then(|text| durable::replace(&path, &text)).map_err(Error::at("write", &path))
    }

    /// Removes a workspace's record durably.
    pub(crate) fn remove(&self, workspace: &WorkspaceId) -> Result<(), Error> {
        let path = self.path(workspace.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::at("remove", &path)(error)),
            _ => durable::sync_dir(&self.dir).map_err(Error::at("sync", &self.dir)),
        }
    }

    fn path(&self, workspace: &str) -> PathBuf {
        self.dir.join(format!("{workspace}.json"))
    }
}

/// Parses a record, and the id of its workspace.
fn parse(text: &str) -> std::io::Result<(WorkspaceId, Record)> {
    let record: Record = serde_json::from_str(text)?;
    let id = record.workspace.parse().map_err(std::io::Error::other)?;
    Ok((id, record))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use rigbox_proto::node::egress::Mode;
    use rigbox_proto::node::{Egress, NetworkPolicy};

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
            last_end: Some(BootEnd::new("b", Cause::Halt, "halted")),
            network: Policy::default(),
            network_revision: 3,
        }
    }

    #[test]
    fn older_network_policy_does_not_replace_a_later_one() {
        let mut record = record(&WorkspaceId::from_random([1; 5]));
        let none = Egress { mode: Mode::None.into(), ..Egress::default() };
        let none =
            Policy::try_from(NetworkPolicy { egress: Some(none), ..NetworkPolicy::default() }).unwrap();
        record.set_network(none.clone(), 5);
        record.set_network(Policy::default(), 4);
        assert_eq!((record.network.clone(), record.network_revision), (none, 5));
        record.set_network(Policy::default(), 5);
        assert_eq!(record.network, Policy::default(), "its limits may have changed with the configuration");
    }

    #[test]
    fn record_survives_a_reload_until_removed() {
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
    fn damaged_record_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().to_owned()).unwrap();
        fs::write(dir.path().join("ws-aaaaaaaa.json"), "{").unwrap();
        assert!(journal.load().unwrap_err().to_string().contains("ws-aaaaaaaa.json"));
    }
}
