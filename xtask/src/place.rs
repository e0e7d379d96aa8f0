//! Where things are: the checkout, and the folders of the installation that `up` makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn checkout() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// A program that `build` made.
pub(crate) fn program(name: &str) -> PathBuf {
    checkout().join("target/release").join(name)
}

/// An installation in a folder.
pub(crate) struct Place {
    pub(crate) state: PathBuf,
}

impl Place {
    pub(crate) fn new(state: Option<PathBuf>) -> Result<Self> {
        let state = state.unwrap_or_else(|| checkout().join(".rigbox"));
        Ok(Self { state: std::path::absolute(state)? })
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.state.join("rigbox.toml")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.state.join("rigboxd.log")
    }

    /// The supervisor's lock, written when it starts.
    pub(crate) fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// The administrator's address and key, in the form of the CLI's configuration.
    pub(crate) fn admin(&self) -> PathBuf {
        self.state.join("admin.json")
    }

    /// The supervisor's pid, while it runs: it holds the lock in which the number stands.
    pub(crate) fn supervisor(&self) -> Result<Option<u32>> {
        let path = self.lock();
        let Ok(lock) = fs::File::open(&path) else { return Ok(None) };
        if lock.try_lock_shared().is_ok() {
            return Ok(None);
        }
        let pid = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Some(pid.trim().parse().context("the pid in the lock file")?))
    }

    /// The CLI, speaking to this installation.
    pub(crate) fn rig(&self) -> Result<Command> {
        let mut command = Command::new(program("rig"));
        for (variable, field) in RIG_ENVIRONMENT {
            let value = field_of(&self.admin(), field);
            command
                .env(variable, value.with_context(|| format!("no {field} in {}", self.admin().display()))?);
        }
        Ok(command)
    }
}

/// Variables that `rig` reads instead of its configuration, and the fields that they stand for.
pub(crate) const RIG_ENVIRONMENT: [(&str, &str); 2] =
    [("RIG_API_URL", "api_url"), ("RIG_API_KEY", "api_key")];

/// The CLI's own configuration file.
pub(crate) fn cli_config() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("HOME")?).join(".rigbox/config.json"))
}

/// A field of a CLI configuration, e.g. `api_url`.
pub(crate) fn field_of(config: &Path, field: &str) -> Option<String> {
    let text = fs::read_to_string(config).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(config.get(field)?.as_str()?.to_owned())
}
