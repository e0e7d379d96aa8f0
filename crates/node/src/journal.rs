//! Journal of the resources that this node created and has to clean up: one small JSON file per workspace. It is replaced atomically
//! before a resource is created and after it is gone, so a node that died at any point knows what may exist.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use rigbox_core::ids::WorkspaceId;

use crate::durable;
use crate::error::Error;
use crate::record::Record;

/// Folder of the records.
#[derive(Debug, Clone)]
pub struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// Opens the folder, and creates it if there is none.
    ///
    /// # Errors
    /// Fails if it cannot be created.
    pub fn open(dir: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
        Ok(Self { dir })
    }

    /// Reads all records.
    ///
    /// # Errors
    /// Fails if a file cannot be read. It is never skipped: its resources would be removed as orphans.
    pub fn load(&self) -> Result<Vec<(WorkspaceId, Record)>, Error> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::at("list", &self.dir))? {
            let path = entry.map_err(Error::at("list", &self.dir))?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                // An unfinished replacement.
                fs::remove_file(&path).map_err(Error::at("remove", &path))?;
                continue;
            }
            let text = fs::read_to_string(&path).map_err(Error::at("read", &path))?;
            records.push(Record::parse(&text).map_err(Error::at("parse", &path))?);
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
                Ok(text) => records.push(Record::parse(&text).map_err(Error::at("parse", &path))?),
                // Removed since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::at("read", &path)(error)),
            }
        }
        Ok(records)
    }

    /// Writes a record durably.
    ///
    /// # Errors
    /// Fails if the earlier record may still be there.
    pub fn save(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(&record.workspace);
        let text = serde_json::to_vec_pretty(record).map_err(std::io::Error::from);
        text.and_then(|text| durable::replace(&path, &text)).map_err(Error::at("write", &path))
    }

    /// Removes a workspace's record durably, if there is one.
    ///
    /// # Errors
    /// Fails if the record may still be there.
    pub fn remove(&self, workspace: &WorkspaceId) -> Result<(), Error> {
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

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(workspace: &WorkspaceId) -> Record {
        Record { disk_size_mb: 4096, network_revision: 3, ..Record::new(workspace, 1) }
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
