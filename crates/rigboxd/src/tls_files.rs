//! Copies certificates and keys to where the role that serves them can read them: edge and control see no file system but their own part,
//! and may not read root's files. The supervisor copies them again when they change.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::config::{Installation, RoleCertificates};

/// Limit for a PEM file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Copies changed files.
pub(crate) fn copy(installation: &Installation) -> Result<()> {
    let roles = installation.certificates();
    roles.iter().try_for_each(|certificates| copy_all(certificates, installation.uid(certificates.role)))
}

fn copy_all(RoleCertificates { role: _, folder, pairs }: &RoleCertificates, group: u32) -> Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    // Owned by root, so that no link in it can redirect root.
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o750)))
        .and_then(|()| chown(folder, Some(0), Some(group)))
        .with_context(|| format!("cannot prepare {}", folder.display()))?;
    for (number, (certificate, key)) in pairs.iter().enumerate() {
        // The key first: a role loads a pair only when it matches, and retries until then.
        for (from, kind) in [(key, "key"), (certificate, "crt")] {
            copy_one(from, &folder.join(format!("{number}.{kind}")), group)?;
        }
    }
    for number in pairs.len().. {
        let extra: Vec<PathBuf> = ["crt", "key"].map(|kind| folder.join(format!("{number}.{kind}"))).into();
        if !extra.iter().any(|path| path.exists()) {
            break;
        }
        for path in extra.iter().filter(|path| path.exists()) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Copies changed files periodically.
pub(crate) async fn watch(installation: Installation) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        if let Err(error) = copy(&installation) {
            tracing::warn!(error = format!("{error:#}"), "failed to copy certificates to the roles");
        }
    }
}

fn copy_one(from: &Path, to: &Path, group: u32) -> Result<()> {
    let mut content = Vec::new();
    let file = fs::File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    anyhow::ensure!(
        content.len() as u64 <= MAX_FILE_BYTES,
        "{} is larger than 1 MiB; expected a PEM file",
        from.display()
    );
    if fs::read(to).is_ok_and(|current| current == content) {
        return Ok(());
    }
    let partial = to.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::File::options().write(true).create(true).truncate(true).mode(0o640).open(&partial)?;
        chown(&partial, Some(0), Some(group))?;
        file.write_all(&content)?;
        fs::rename(&partial, to)
    };
    write().with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_follows_its_original() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("0.key"));
        for content in ["one", "two"] {
            fs::write(&from, content).unwrap();
            copy_one(&from, &to, nix::unistd::getgid().as_raw()).unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), content);
        }
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o640);
        fs::write(&from, vec![0; MAX_FILE_BYTES as usize + 1]).unwrap();
        assert!(copy_one(&from, &to, 0).unwrap_err().to_string().contains("PEM"));
        assert!(copy_one(&folder.path().join("none"), &to, 0).unwrap_err().to_string().contains("none"));
    }
}
