//! Control's part of a backup: a copy of the database, and which keys it needs. And its part of a restore: such a copy in place of the
//! database.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rigbox_service::clock;
use rigbox_service::database::{self, CopyInfo, KeySource, Store, TokenKey};

use super::Database;
use crate::{Config, Error};

/// Copy of the database for a backup.
#[derive(Debug, Clone)]
pub struct DatabaseCopy {
    /// Facts about the copy.
    pub info: CopyInfo,
    /// Id of the token key whose hashes it contains.
    pub token_key: String,
}

/// Writes a copy of the database to `path`, beside a control role that may be running.
pub async fn copy_database(config: &Config, path: &Path) -> Result<DatabaseCopy, Error> {
    let Database { store, token_key } = Database::open(config).await?;
    let info = store.copy_to(path).await?;
    store.close().await;
    Ok(DatabaseCopy { info, token_key: token_key.id() })
}

/// Files of a backup in control's folder, beside the places where they belong.
#[derive(Debug, Clone)]
pub struct Staged {
    /// Copy of the database.
    pub database: PathBuf,
    /// Token key, if it is not in place.
    pub token_key: Option<PathBuf>,
    /// Master key, if it is not in place.
    pub master_key: Option<PathBuf>,
}

/// Checks that this version opens the staged database with the staged keys, or else with those in place. Changes nothing.
pub async fn check(config: &Config, staged: &Staged) -> Result<DatabaseCopy, Error> {
    let info = database::inspect_copy(&staged.database)?;
    database::check_revocation_log(&config.database, &info.database)?;
    let token_key = TokenKey::load(staged.token_key.as_ref().unwrap_or(&config.token_key));
    let token_key = token_key.map_err(Error::BackupKeys)?;
    let master_key = match &staged.master_key {
        Some(path) if own_master_key(config).is_some() => KeySource::File(path.clone()),
        _ => config.master_key.clone(),
    };
    master_key.check(&info.master_keys).await.map_err(Error::BackupKeys)?;
    Ok(DatabaseCopy { info, token_key: token_key.id() })
}

/// Returns the place of the master key, if it is a file beside the database.
fn own_master_key(config: &Config) -> Option<&Path> {
    match &config.master_key {
        KeySource::File(path) if path.parent() == config.database.parent() => Some(path),
        _ => None,
    }
}

/// Result of putting files in their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// New names of the files that were there.
    pub kept: Vec<String>,
    /// True if what was revoked since the backup was in the log and is revoked again.
    pub has_revocations: bool,
}

/// Puts checked files in their places, applies what was revoked since the backup, and ends what does not outlive a restore. What was there
/// is kept under a name with `time`. After an interruption all of it may be done again.
pub async fn install(config: &Config, staged: &Staged, time: &str) -> Result<Installed, Error> {
    let mut kept = Vec::new();
    let id = database::inspect_copy(&staged.database)?.database;
    let has_revocations = database::check_revocation_log(&config.database, &id)?;
    for (staged, place) in [
        (staged.token_key.as_deref(), Some(config.token_key.as_path())),
        (staged.master_key.as_deref(), own_master_key(config)),
    ] {
        if let (Some(staged), Some(place)) = (staged, place) {
            kept.extend(at(place, install_key(staged, place, time))?);
        }
    }
    let token_key = TokenKey::load(&config.token_key)?;
    let store = Store::open(&staged.database, &token_key).await?;
    store.end_sign_ins(clock::now()).await?;
    store.close().await;
    kept.extend(at(&config.database, replace_database(&staged.database, &config.database, time))?);
    Ok(Installed { kept, has_revocations })
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, Error> {
    let file = |problem: io::Error| database::Error::File {
        path: path.display().to_string(),
        problem: problem.to_string(),
    };
    Ok(result.map_err(file)?)
}

fn install_key(staged: &Path, place: &Path, time: &str) -> io::Result<Option<String>> {
    match fs::read(place) {
        Ok(content) if content == fs::read(staged)? => {
            fs::remove_file(staged)?;
            return Ok(None);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::rename(staged, place)?;
            return Ok(None);
        }
        read => drop(read?),
    }
    let kept = kept_path(place, time);
    fs::rename(place, &kept)?;
    fs::rename(staged, place)?;
    Ok(Some(name(&kept)))
}

fn replace_database(staged: &Path, place: &Path, time: &str) -> io::Result<Option<String>> {
    let log = |database: &Path, suffix: &str| {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    if log(staged, "-wal").exists() {
        return Err(io::Error::other("the restored database is still open: try again"));
    }
    let folder = place.parent().unwrap_or(Path::new("."));
    let kept = interrupted(folder)?.unwrap_or_else(|| kept_path(place, time));
    let mut moved = None;
    // The log goes first: one that is left would be applied to the database that comes.
    for suffix in ["-wal", "-shm", ""] {
        match fs::rename(log(place, suffix), log(&kept, suffix)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            renamed => {
                renamed?;
                moved = Some(name(&kept));
            }
        }
    }
    fs::rename(staged, place)?;
    fs::File::open(folder)?.sync_all()?;
    Ok(moved)
}

/// Returns the kept name of a database whose log is kept already, because an earlier restore was interrupted in between.
fn interrupted(folder: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let log = name(&path);
        if log.starts_with("rigbox-")
            && let Some(database) = log.strip_suffix("-wal").map(|database| folder.join(database))
            && !database.exists()
        {
            return Ok(Some(database));
        }
    }
    Ok(None)
}

/// Returns a path that is free, e.g. `rigbox-20260101T120000Z.db`.
fn kept_path(place: &Path, time: &str) -> PathBuf {
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (part(place.file_stem()), part(place.extension()));
    let mut kept = place.with_file_name(format!("{stem}-{time}.{extension}"));
    let mut number = 1;
    while kept.exists() {
        number += 1;
        kept = place.with_file_name(format!("{stem}-{time}-{number}.{extension}"));
    }
    kept
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_replacement_keeps_database_and_log_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let read = |name: &str| fs::read_to_string(path(name)).ok();
        fs::write(path("rigbox.db"), "old").unwrap();
        // An earlier restore came as far as the log.
        fs::write(path("rigbox-1.db-wal"), "old log").unwrap();
        fs::write(path("new"), "new").unwrap();
        let kept = replace_database(&path("new"), &path("rigbox.db"), "2").unwrap();
        assert_eq!(kept.as_deref(), Some("rigbox-1.db"));
        assert_eq!(
            (read("rigbox.db").as_deref(), read("rigbox-1.db").as_deref()),
            (Some("new"), Some("old"))
        );
        // The next one gets a name of its own.
        fs::write(path("new"), "newer").unwrap();
        fs::write(path("rigbox.db-wal"), "log").unwrap();
        let kept = replace_database(&path("new"), &path("rigbox.db"), "3").unwrap();
        assert_eq!(kept.as_deref(), Some("rigbox-3.db"));
        assert_eq!((read("rigbox-3.db-wal").as_deref(), read("rigbox.db-wal")), (Some("log"), None));
    }

    #[test]
    fn what_is_kept_already_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("rigbox.db"), "one").unwrap();
        for (content, kept) in [("two", "rigbox-1.db"), ("three", "rigbox-1-2.db"), ("four", "rigbox-1-3.db")]
        {
            fs::write(path("new"), content).unwrap();
            let name = replace_database(&path("new"), &path("rigbox.db"), "1").unwrap();
            assert_eq!(name.as_deref(), Some(kept));
        }
        let contents = ["rigbox-1.db", "rigbox-1-2.db", "rigbox-1-3.db", "rigbox.db"]
            .map(|name| fs::read_to_string(path(name)).unwrap());
        assert_eq!(contents, ["one", "two", "three", "four"]);
    }

    #[test]
    fn other_key_is_kept_and_the_same_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (content, kept) in [("one", None), ("one", None), ("two", Some("token-1.key".to_owned()))] {
            fs::write(path("staged"), content).unwrap();
            assert_eq!(install_key(&path("staged"), &path("token.key"), "1").unwrap(), kept);
            assert_eq!(fs::read_to_string(path("token.key")).unwrap(), content);
            assert!(!path("staged").exists());
        }
        assert_eq!(fs::read_to_string(path("token-1.key")).unwrap(), "one");
    }
}
