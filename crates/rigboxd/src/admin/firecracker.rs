//! `rigboxd admin firecracker`: the official release that Rigbox is made for, in the state folder. The archive is used only if it is the
//! pinned one, byte for byte, wherever it comes from.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use clap::Subcommand;
use data_encoding::HEXLOWER;
use flate2::read::GzDecoder;

use crate::find::ExistingInstallation;

/// Release, for x86-64 Linux.
const ARCHIVE: &str = "firecracker-v1.15.1-x86_64.tgz";
/// SHA-256 of [`ARCHIVE`], as several public projects pin it.
const ARCHIVE_SHA256: &str = "d4a32ab2322d887ca1bc4a4e7afa9cc35393e6362dfc2b3becb389d362e4275a";
/// Address of [`ARCHIVE`].
const URL: &str = "https://github.com/firecracker-microvm/firecracker/releases/download/v1.15.1/firecracker-v1.15.1-x86_64.tgz";
/// Name of the program within the archive.
const PROGRAM: &str = "firecracker-v1.15.1-x86_64";
/// Bytes of an archive. The release has about 10 MB.
const MAX_ARCHIVE_BYTES: usize = 64 << 20;
/// Bytes of the unpacked archive, which has debug symbols too.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;
/// Time for the download.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Fetch the official release, check its hash, and put it in the state folder; restart Rigbox afterwards
    Install {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Archive of the release that was fetched by other means
        #[arg(long, value_name = "FILE")]
        archive: Option<PathBuf>,
    },
}

pub(super) fn run(command: Command) -> Result<()> {
    let Command::Install { config, archive } = command;
    let program = config.load()?.firecracker_release();
    let archive = match archive {
        Some(path) => read_bounded(File::open(&path).with_context(|| path.display().to_string())?)
            .with_context(|| path.display().to_string())?,
        None => fetch().with_context(|| {
            format!("cannot fetch {URL}. Fetch it by other means, and name the file with --archive FILE")
        })?,
    };
    install(&archive, ARCHIVE_SHA256, &program)?;
    println!("{} is installed. Rigbox uses it from its next start, if KVM works in it.", program.display());
    Ok(())
}

fn read_bounded(file: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_ARCHIVE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(bytes.len() <= MAX_ARCHIVE_BYTES, "it has more than {} MiB", MAX_ARCHIVE_BYTES >> 20);
    Ok(bytes)
}

/// Fetches the archive, by the proxy that the environment names.
fn fetch() -> Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = reqwest::Client::builder().timeout(DOWNLOAD_TIMEOUT).build()?;
        let mut response = client.get(URL).send().await?.error_for_status()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            anyhow::ensure!(bytes.len() + chunk.len() <= MAX_ARCHIVE_BYTES, "the response is too large");
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    })
}

/// Puts the program of an archive with this SHA-256 at `to`, whole or not at all.
fn install(archive: &[u8], sha256: &str, to: &Path) -> Result<()> {
    let found = HEXLOWER.encode(digest(&SHA256, archive).as_ref());
    anyhow::ensure!(
        found == sha256,
        "this is not {ARCHIVE}: its SHA-256 is {found}, expected {sha256}. Nothing was installed"
    );
    let mut archive = tar::Archive::new(GzDecoder::new(archive).take(MAX_UNPACKED_BYTES));
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.file_name().is_none_or(|name| name != PROGRAM) {
            continue;
        }
        let folder = to.parent().context("no folder for the program")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        // The probe runs it as the user of a VM.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        let new = to.with_extension("new");
        let mut file = File::create(&new).with_context(|| new.display().to_string())?;
        io::copy(&mut entry, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()?;
        return fs::rename(&new, to).with_context(|| to.display().to_string());
    }
    anyhow::bail!("there is no {PROGRAM} in the archive")
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn archive_of(name: &str, content: &[u8]) -> Vec<u8> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, content) in [("release-v1.15.1-x86_64/LICENSE", &b"text"[..]), (name, content)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, content).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn only_the_pinned_archive_is_installed() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("firecracker/firecracker");
        let archive = archive_of(&format!("release-v1.15.1-x86_64/{PROGRAM}"), b"program");
        let error = install(&archive, ARCHIVE_SHA256, &program).unwrap_err().to_string();
        assert!(error.contains(ARCHIVE_SHA256) && error.contains("Nothing was installed"), "{error}");
        assert!(!program.exists());

        let sha256 = HEXLOWER.encode(digest(&SHA256, &archive).as_ref());
        install(&archive, &sha256, &program).unwrap();
        assert_eq!(fs::read(&program).unwrap(), b"program");
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o7777, 0o755);
        let names: Vec<_> = fs::read_dir(program.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn archive_without_the_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive_of("release-v1.15.1-x86_64/jailer", b"program");
        let sha256 = HEXLOWER.encode(digest(&SHA256, &archive).as_ref());
        let error = install(&archive, &sha256, &folder.path().join("firecracker")).unwrap_err().to_string();
        assert!(error.contains(PROGRAM), "{error}");
    }

    #[test]
    fn large_archive_is_refused_before_it_is_read_to_its_end() {
        let error = read_bounded(io::repeat(0)).unwrap_err().to_string();
        assert!(error.contains("more than 64 MiB"), "{error}");
    }
}
