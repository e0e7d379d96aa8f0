//! List of what a backup consists of: `backup.json`. It is written last, so a folder without one is no complete backup.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::files;

/// Name of the list in the backup's folder.
const FILE: &str = "backup.json";
/// Copy of the database.
pub(crate) const DATABASE: &str = "rigbox.db";
/// Folder of the node's part.
pub(crate) const NODE: &str = "node";
/// Version of the layout and of this list.
const FORMAT: u32 = 1;

/// Backup and its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// Version of Rigbox that made the backup.
    pub(crate) rigbox: String,
    /// RFC 3339 time in UTC.
    pub(crate) created_at: String,
    /// Version of the database's schema.
    pub(crate) schema: i64,
    /// Id of the database.
    pub(crate) database: String,
    /// Id of the token key that belongs to it.
    pub(crate) token_key: String,
    /// Ids of the master keys that its secrets are encrypted with.
    pub(crate) master_keys: Vec<String>,
    /// True if the backup includes disks.
    pub(crate) disks: bool,
    /// All files, by path within the folder.
    files: BTreeMap<String, Entry>,
}

/// Size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    size: u64,
    sha256: String,
}

/// Facts about the database in a backup, as control's part reports them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatabaseFacts {
    pub(crate) schema: i64,
    pub(crate) database: String,
    pub(crate) token_key: String,
    pub(crate) master_keys: Vec<String>,
}

impl Manifest {
    /// Lists the files of a folder.
    pub(crate) fn of(folder: &Path, facts: DatabaseFacts, disks: bool, created_at: String) -> Result<Self> {
        let DatabaseFacts { schema, database, token_key, master_keys } = facts;
        let rigbox = env!("CARGO_PKG_VERSION").to_owned();
        let files = entries(folder)?;
        Ok(Self {
            format: FORMAT,
            rigbox,
            created_at,
            schema,
            database,
            token_key,
            master_keys,
            disks,
            files,
        })
    }

    /// Writes the list, which makes the backup complete.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        files::sync_folders(folder)?;
        let text = serde_json::to_vec_pretty(self)?;
        files::write_new(&folder.join(FILE), &text)?;
        files::sync_folders(folder)
    }

    /// Reads the list of a backup of this format or an older one.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let path = folder.join(FILE);
        let text = fs::read(&path).with_context(|| {
            format!("no complete backup in {}: cannot read {}", folder.display(), path.display())
        })?;
        let invalid = || format!("{} is damaged: use another backup", path.display());
        let Format { format } = serde_json::from_slice(&text).with_context(invalid)?;
        ensure!(
            format <= FORMAT,
            "the backup has format {format}, which is newer than this rigboxd: use the newer version"
        );
        serde_json::from_slice(&text).with_context(invalid)
    }

    /// Checks that the folder has exactly the listed files, unchanged.
    pub(crate) fn verify(&self, folder: &Path) -> Result<()> {
        let found = entries(folder)?;
        for (path, entry) in &self.files {
            match found.get(path) {
                Some(same) if same == entry => {}
                Some(_) => bail!("{path} in the backup is damaged: use another backup"),
                None => bail!("{path} is missing in the backup: use another backup"),
            }
        }
        if let Some(path) = found.keys().find(|path| !self.files.contains_key(*path)) {
            bail!("{path} does not belong to the backup: move it away");
        }
        Ok(())
    }
}

/// Returns the entries of all files below a folder but the list itself.
fn entries(folder: &Path) -> Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    for path in files::below(folder)? {
        let name = path.strip_prefix(folder).unwrap_or(&path);
        let name = name.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned();
        if name != FILE {
            entries.insert(name, entry(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    Ok(entries)
}

fn entry(path: &Path) -> std::io::Result<Entry> {
    let mut file = File::open(path)?;
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        hash.update(chunk.get(..count).unwrap_or_default());
        size += count as u64;
    }
    Ok(Entry { size, sha256: data_encoding::HEXLOWER.encode(hash.finish().as_ref()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> (tempfile::TempDir, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("node")).unwrap();
        for name in ["rigbox.db", "node/database"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let facts = DatabaseFacts {
            schema: 17,
            database: "db-aaaaaaaa".into(),
            token_key: "0".into(),
            master_keys: vec!["1".into()],
        };
        let manifest = Manifest::of(folder.path(), facts, false, "2026-01-01T00:00:00Z".into()).unwrap();
        manifest.write(folder.path()).unwrap();
        (folder, manifest)
    }

    #[test]
    fn whole_backup_is_accepted() {
        let (folder, manifest) = backup();
        assert_eq!(Manifest::read(folder.path()).unwrap(), manifest);
        manifest.verify(folder.path()).unwrap();
        let entry = &manifest.files["rigbox.db"];
        // As `sha256sum` prints it.
        let sha256 = "233a3c56a06cca46212bc55f76b1ba50432b169fdded0fc2816cf84a04393ebd";
        assert_eq!((entry.size, entry.sha256.as_str()), (9, sha256));
    }

    #[test]
    fn changed_missing_or_added_file_is_named() {
        type Change = fn(&Path);
        let changes: [(Change, &str); 4] = [
            (
                |folder| fs::write(folder.join("rigbox.db"), "rigbox.dc").unwrap(),
                "rigbox.db in the backup is damaged",
            ),
            (|folder| fs::write(folder.join("rigbox.db"), "").unwrap(), "rigbox.db in the backup is damaged"),
            (|folder| fs::remove_file(folder.join("node/database")).unwrap(), "node/database is missing"),
            (|folder| fs::write(folder.join("node/more"), "").unwrap(), "node/more does not belong"),
        ];
        for (change, says) in changes {
            let (folder, manifest) = backup();
            change(folder.path());
            let refused = manifest.verify(folder.path()).unwrap_err().to_string();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn incomplete_damaged_or_newer_backup_is_refused() {
        let (folder, _) = backup();
        for (text, says) in [("{", "is damaged"), ("{\"format\": 2, \"more\": 1}", "use the newer version")] {
            fs::write(folder.path().join(FILE), text).unwrap();
            let refused = format!("{:#}", Manifest::read(folder.path()).unwrap_err());
            assert!(refused.contains(says), "{refused}");
        }
        fs::remove_file(folder.path().join(FILE)).unwrap();
        assert!(Manifest::read(folder.path()).unwrap_err().to_string().contains("no complete backup"));
    }
}
