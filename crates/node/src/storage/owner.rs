//! Database whose workspaces this node holds, written beside the journal and on the volume. A node with workspaces works for no other one,
//! which would not know them; what is on the volume tells whose the disks are when the journal is lost.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rigbox_core::ids::DatabaseId;

use crate::durable;
use crate::error::Error;

/// Name of the file with the id, in the state folder and on the volume.
pub(crate) const FILE: &str = "database";

/// The database, once the first call has named it.
#[derive(Debug)]
pub(crate) struct Owner {
    files: [PathBuf; 2],
    database: Mutex<Option<DatabaseId>>,
}

impl Owner {
    /// Reads which database it is. Fails if volume and state folder belong to different ones.
    pub(crate) fn open(state_dir: &Path, volume: &Path) -> Result<Self, Error> {
        let files = [state_dir.join(FILE), volume.join(FILE)];
        let [here, there] = [read(&files[0])?, read(&files[1])?];
        if let (Some(here), Some(there)) = (&here, &there)
            && here != there
        {
            let (state_dir, volume) = (state_dir.display(), volume.display());
            let message = format!(
                "the disks in {volume} are those of the database {there}, and {state_dir} is that of {here}: mount the right volume"
            );
            return Err(Error::Refused("foreign_volume", message));
        }
        Ok(Self { files, database: Mutex::new(here.or(there)) })
    }

    /// Checks a call's database. A node that `is_empty` takes any.
    pub(crate) fn check(&self, caller: &DatabaseId, is_empty: impl FnOnce() -> bool) -> Result<(), Error> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        match &*database {
            Some(known) if known == caller => return Ok(()),
            Some(known) if !is_empty() => {
                let message = format!(
                    "this node holds workspaces of the database {known}, not of {caller}: restore that database from its backup, or have this \
                     one take over (rigboxd admin claim-node {known})"
                );
                return Err(Error::Refused("foreign_database", message));
            }
            _ => {}
        }
        for file in &self.files {
            durable::replace(file, format!("{caller}\n").as_bytes()).map_err(Error::at("write", file))?;
        }
        tracing::info!(database = %caller, "the node works for this database from now on");
        *database = Some(caller.clone());
        Ok(())
    }
}

/// Reads a file with an id, if there is one.
pub(crate) fn read(path: &Path) -> Result<Option<DatabaseId>, Error> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::at("read", path))?,
    };
    let id = text.trim().parse().map_err(std::io::Error::other).map_err(Error::at("parse", path))?;
    Ok(Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> DatabaseId {
        DatabaseId::from_random([byte; 5])
    }

    fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (state, volume) = (folder.path().join("state"), folder.path().join("volume"));
        fs::create_dir(&state).unwrap();
        fs::create_dir(&volume).unwrap();
        (folder, state, volume)
    }

    #[test]
    fn node_with_workspaces_works_for_no_other_database() {
        let (_folder, state, volume) = folders();
        let owner = Owner::open(&state, &volume).unwrap();
        // An older node has workspaces, and knows no database.
        owner.check(&id(1), || false).unwrap();
        let refused = owner.check(&id(2), || false).unwrap_err().to_string();
        assert!(refused.contains(id(1).as_str()) && refused.contains(id(2).as_str()), "{refused}");
        let restarted = Owner::open(&state, &volume).unwrap();
        assert!(restarted.check(&id(2), || false).is_err());
        restarted.check(&id(1), || false).unwrap();
        // Nothing is there to be lost.
        restarted.check(&id(2), || true).unwrap();
        assert!(restarted.check(&id(1), || false).is_err());
    }

    #[test]
    fn volume_tells_whose_it_is() {
        let (_folder, state, volume) = folders();
        Owner::open(&state, &volume).unwrap().check(&id(1), || false).unwrap();
        fs::remove_file(state.join(FILE)).unwrap();
        let without_journal = Owner::open(&state, &volume).unwrap();
        assert!(without_journal.check(&id(2), || false).is_err());
        fs::write(state.join(FILE), id(2).as_str()).unwrap();
        let refused = Owner::open(&state, &volume).unwrap_err().to_string();
        assert!(refused.contains("mount the right volume"), "{refused}");
    }
}
