//! Backups and restores of installations that do not run, by the program itself. They need root, as the program does.

// clippy's exemption for tests does not cover helpers outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Installation in a folder of its own, which no role serves.
struct Installation {
    folder: TempDir,
}

impl Installation {
    /// Returns `None` without root.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: rigboxd needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "state = {:?}\nrun = {:?}\n[node]\nimage_cache = {:?}\n",
            path("state"),
            path("run"),
            path("images")
        );
        fs::write(folder.path().join("rigbox.toml"), config).unwrap();
        // The path of control's part leads through the folder.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { folder })
    }

    /// Returns one with an administrator and a master key.
    fn with_user() -> Option<Self> {
        let installation = Self::new()?;
        installation.run(&["bootstrap", "--email", "a@example.com"]).unwrap();
        installation.run(&["admin", "rotate-master-key"]).unwrap();
        Some(installation)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the standard output, or the standard error of a failure.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigboxd"));
        command.args(arguments).arg("--config").arg(self.path("rigbox.toml")).env("RUST_LOG", "warn");
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn users(&self) -> Vec<String> {
        let listed = self.run(&["admin", "user", "ls"]).unwrap();
        listed.lines().map(|line| line.split_whitespace().nth(2).unwrap().to_owned()).collect()
    }

    fn back_up(&self) -> (String, String) {
        let (folder, keys) =
            (self.path("backup").display().to_string(), self.path("keys").display().to_string());
        self.run(&["admin", "backup", &folder, "--keys", &keys]).unwrap();
        (folder, keys)
    }

    /// Returns all files of the state with their content, but the lock.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut files, mut folders) = (BTreeMap::new(), vec![self.path("state")]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path != self.path("state/lock") {
                    files.insert(path.clone(), fs::read(path).unwrap());
                }
            }
        }
        files
    }

    #[track_caller]
    fn refuses(&self, arguments: &[&str], says: &str) {
        let before = self.files();
        let refused = self.run(arguments).unwrap_err();
        assert!(refused.contains(says), "{refused}");
        assert!(before == self.files(), "{says}: something was changed");
    }
}

fn edit_manifest(folder: &str, edit: impl FnOnce(&mut Value)) {
    let path = Path::new(folder).join("backup.json");
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    fs::write(&path, manifest.to_string()).unwrap();
}

#[test]
fn database_of_a_backup_takes_the_place_of_the_one_that_is_kept() {
    let Some(rig) = Installation::with_user() else { return };
    rig.run(&["admin", "user", "add", "b@example.com"]).unwrap();
    let (folder, keys) = rig.back_up();
    for (path, mode) in [
        (&folder, 0o700),
        (&keys, 0o700),
        (&format!("{folder}/rigbox.db"), 0o600),
        (&format!("{keys}/token.key"), 0o600),
    ] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
    for entry in fs::read_dir(&folder).unwrap() {
        assert!(!entry.unwrap().path().display().to_string().contains("key"));
    }
    rig.run(&["admin", "user", "add", "c@example.com"]).unwrap();
    rig.run(&["admin", "user", "disable", "b@example.com"]).unwrap();
    let said = rig.run(&["admin", "restore", &folder]).unwrap();
    assert_eq!(rig.users(), ["a@example.com", "b@example.com"]);
    rig.run(&["admin", "audit", "verify"]).unwrap();
    assert!(said.contains("is revoked again"), "{said}");
    assert!(rig.run(&["admin", "user", "ls"]).unwrap().contains("b@example.com  disabled"));
    // What was there before is named and whole, with its log.
    let kept =
        said.split_whitespace().find(|word| word.starts_with("rigbox-")).unwrap().trim_end_matches('.');
    let control = rig.path("state/control");
    for suffix in ["-wal", "-shm", ""] {
        let _ = fs::remove_file(control.join(format!("rigbox.db{suffix}")));
        let _ =
            fs::rename(control.join(format!("{kept}{suffix}")), control.join(format!("rigbox.db{suffix}")));
    }
    assert_eq!(rig.users(), ["a@example.com", "b@example.com", "c@example.com"]);
}

#[test]
fn refused_restore_changes_nothing() {
    let Some(rig) = Installation::with_user() else { return };
    let (folder, keys) = rig.back_up();
    let restore = ["admin", "restore", folder.as_str()];

    let lock = File::options().write(true).open(rig.path("state/lock")).unwrap();
    lock.try_lock().unwrap();
    rig.refuses(&restore, "already running");
    drop(lock);

    let database = format!("{folder}/rigbox.db");
    let content = fs::read(&database).unwrap();
    fs::write(&database, &content[..content.len() - 1]).unwrap();
    rig.refuses(&restore, "rigbox.db in the backup is damaged");
    fs::write(&database, &content).unwrap();

    edit_manifest(&folder, |manifest| manifest["format"] = json!(2));
    rig.refuses(&restore, "use the newer version");
    edit_manifest(&folder, |manifest| manifest["format"] = json!(1));

    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute("UPDATE _sqlx_migrations SET version = 999 WHERE version = 1", []).unwrap();
    drop(connection);
    let newer = fs::read(&database).unwrap();
    let hash = Command::new("sha256sum").arg(&database).output().unwrap().stdout;
    let hash = String::from_utf8(hash).unwrap().split_whitespace().next().unwrap().to_owned();
    let entry = |size: usize, sha256: &Value| json!({"size": size, "sha256": sha256});
    let mut before = Value::Null;
    edit_manifest(&folder, |manifest| {
        before = manifest["files"]["rigbox.db"].clone();
        manifest["files"]["rigbox.db"] = entry(newer.len(), &json!(hash));
    });
    rig.refuses(&restore, "schema version 999");
    fs::write(&database, &content).unwrap();
    edit_manifest(&folder, |manifest| manifest["files"]["rigbox.db"] = before);

    for (key, says) in [("token.key", "wrong token key"), ("master.key", "wrong master key")] {
        let place = rig.path("state/control").join(key);
        let right = fs::read(&place).unwrap();
        let wrong = match key {
            "token.key" => vec![7; 32],
            _ => b"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n".to_vec(),
        };
        fs::write(&place, &wrong).unwrap();
        rig.refuses(&restore, says);
        // The right ones may be given beside.
        rig.run(&["admin", "restore", &folder, "--keys", &keys]).unwrap();
        assert_eq!(fs::read(&place).unwrap(), right);
    }
}

#[test]
fn database_put_back_by_hand_revives_no_disabled_user() {
    let Some(rig) = Installation::with_user() else { return };
    rig.run(&["admin", "user", "add", "b@example.com"]).unwrap();
    let (folder, _) = rig.back_up();
    rig.run(&["admin", "user", "disable", "b@example.com"]).unwrap();
    let control = rig.path("state/control");
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(control.join(format!("rigbox.db{suffix}")));
    }
    fs::copy(format!("{folder}/rigbox.db"), control.join("rigbox.db")).unwrap();
    assert!(rig.run(&["admin", "user", "ls"]).unwrap().contains("b@example.com  disabled"));
}

#[test]
fn backup_of_another_database_than_the_log_is_refused() {
    let (Some(rig), Some(other)) = (Installation::with_user(), Installation::with_user()) else { return };
    let (folder, keys) = other.back_up();
    rig.refuses(&["admin", "restore", &folder, "--keys", &keys], "has the revocations of the database");
}

#[test]
fn new_machine_needs_the_keys_of_the_backup() {
    let (Some(old), Some(new)) = (Installation::with_user(), Installation::new()) else { return };
    let (folder, keys) = old.back_up();
    let refused = new.run(&["admin", "restore", &folder]).unwrap_err();
    assert!(refused.contains("--keys") && refused.contains("token.key"), "{refused}");
    let said = new.run(&["admin", "restore", &folder, "--keys", &keys]).unwrap();
    assert!(said.contains("no log of revocations"), "{said}");
    assert_eq!(new.users(), ["a@example.com"]);
    new.run(&["admin", "rotate-master-key"]).unwrap();
}

#[test]
fn interrupted_restore_is_finished_before_anything_starts() {
    let Some(rig) = Installation::with_user() else { return };
    let (folder, _) = rig.back_up();
    rig.run(&["admin", "user", "add", "b@example.com"]).unwrap();
    let manifest: Value =
        serde_json::from_slice(&fs::read(format!("{folder}/backup.json")).unwrap()).unwrap();
    let text = |name: &str| manifest[name].as_str().unwrap().to_owned();
    let backup = format!("{} of {}", text("database"), text("created_at"));
    let mark = rig.path("state/restore");
    fs::write(&mark, json!({"backup": backup, "folder": folder, "with_node": true}).to_string()).unwrap();
    for left in ["rigbox.db.restore", "rigbox.db.restore-wal", "token.key.restore"] {
        fs::write(rig.path("state/control").join(left), "part").unwrap();
    }
    rig.refuses(&["up"], "was interrupted");
    rig.run(&["admin", "restore", &folder]).unwrap();
    assert_eq!(rig.users(), ["a@example.com"]);
    assert!(!mark.exists());
    let left = |path: &PathBuf| path.display().to_string().contains(".restore");
    assert!(!rig.files().keys().any(left));
}

#[test]
fn backup_overwrites_nothing_and_keeps_keys_apart() {
    let Some(rig) = Installation::with_user() else { return };
    let path = |name: &str| rig.path(name).display().to_string();
    fs::create_dir(rig.path("full")).unwrap();
    fs::write(rig.path("full/file"), "").unwrap();
    rig.refuses(&["admin", "backup", &path("full")], "is not empty");
    rig.refuses(&["admin", "backup", &path("state/backup")], "is in the state folder");
    rig.refuses(&["admin", "backup", &path("one"), "--keys", &path("one/keys")], "Name another folder");
    rig.refuses(&["admin", "backup", &path("one"), "--keys", &path("one")], "Name another folder");
    fs::create_dir(rig.path("keys")).unwrap();
    rig.refuses(&["admin", "backup", &path("keys/one"), "--keys", &path("keys")], "");
    assert!(!rig.path("one").exists() && !rig.path("keys/one").exists() && rig.path("full/file").exists());
}
