//! Installation that an operator's command is for. It has to exist: a command never creates one.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::config::{DEFAULT_PATH, Installation};

/// Configuration file of an installation that exists.
#[derive(clap::Args)]
pub(crate) struct ExistingInstallation {
    /// Configuration file; by default that of the installation in the usual place, or else of the one that runs
    #[arg(long = "config", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl ExistingInstallation {
    /// Finds and loads it.
    pub(crate) fn load(&self) -> Result<Installation> {
        Ok(self.load_with_path()?.0)
    }

    /// Finds and loads it. Also returns its configuration file, for another process.
    pub(crate) fn load_with_path(&self) -> Result<(Installation, PathBuf)> {
        let path = self.find()?;
        Ok((Installation::load(&path)?, path))
    }

    fn find(&self) -> Result<PathBuf> {
        if let Some(path) = &self.path {
            let state = Installation::state_folder(path)?;
            anyhow::ensure!(
                is_installed(&state),
                "no installation in {}, the state folder of {}. Create one with `rigboxd bootstrap`",
                state.display(),
                path.display()
            );
            return Ok(path.clone());
        }
        let default = Path::new(DEFAULT_PATH);
        let state = Installation::state_folder(default)?;
        if is_installed(&state) {
            return Ok(default.to_owned());
        }
        let running = running()?;
        match running.as_slice() {
            [path] => Ok(path.clone()),
            [] => anyhow::bail!(
                "no installation found: none in {}, and no `rigboxd up` runs here. Name its configuration with --config",
                state.display()
            ),
            several => {
                let named: Vec<String> =
                    several.iter().map(|path| format!("--config {}", path.display())).collect();
                anyhow::bail!("several installations run here. Name one: {}", named.join(", or "))
            }
        }
    }
}

fn is_installed(state: &Path) -> bool {
    state.join("control/rigbox.db").is_file()
}

/// Returns the configuration files of the installations that run, and that this process can see.
fn running() -> Result<Vec<PathBuf>> {
    let own = fs::read_link("/proc/self/ns/mnt")?;
    let mut found: Vec<PathBuf> = Vec::new();
    for process in fs::read_dir("/proc").context("/proc")? {
        let process = process?.path();
        // Processes end, and those of other mount namespaces have other files under the same paths.
        if !fs::read_link(process.join("ns/mnt")).is_ok_and(|namespace| namespace == own) {
            continue;
        }
        let Ok(line) = fs::read(process.join("cmdline")) else { continue };
        let words: Vec<OsString> =
            line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
        if let Some(path) = config_of(&words) {
            let folder = fs::read_link(process.join("cwd")).unwrap_or_default();
            let path = folder.join(path);
            if !found.contains(&path)
                && Installation::state_folder(&path).is_ok_and(|state| is_installed(&state))
            {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Returns the configuration file in the command line of a `rigboxd up`.
fn config_of(words: &[OsString]) -> Option<PathBuf> {
    let [program, command, options @ ..] = words else { return None };
    if Path::new(program).file_name()? != "rigboxd" || command != "up" {
        return None;
    }
    let path = options.iter().enumerate().find_map(|(at, word)| match word.to_str() {
        Some("--config") => options.get(at + 1).map(PathBuf::from),
        Some(word) => word.strip_prefix("--config=").map(PathBuf::from),
        None => None,
    });
    Some(path.unwrap_or_else(|| DEFAULT_PATH.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_names_the_configuration() {
        let of = |line: &str| config_of(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of("/usr/bin/rigboxd up"), Some(DEFAULT_PATH.into()));
        assert_eq!(of("rigboxd up --config a.toml"), Some("a.toml".into()));
        assert_eq!(of("rigboxd up --config=/b.toml"), Some("/b.toml".into()));
        assert_eq!(of("rigboxd role control --config a.toml"), None);
        assert_eq!(of("vim up"), None);
    }

    #[test]
    fn command_for_an_installation_creates_none() {
        let folder = tempfile::tempdir().unwrap();
        let (config, state) = (folder.path().join("rigbox.toml"), folder.path().join("state"));
        fs::write(&config, format!("state = {:?}\n", state.display().to_string())).unwrap();
        let error = ExistingInstallation { path: Some(config) }.load().err().unwrap().to_string();
        assert!(error.contains("no installation in"), "{error}");
        assert!(!state.exists());
    }
}
