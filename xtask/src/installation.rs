//! The installation that `up` creates: its folders, its supervisor, and the CLI that talks to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths::{checkout, program};

/// An installation in a folder.
pub(crate) struct Installation {
    pub(crate) state: PathBuf,
}

impl Installation {
    /// Returns the installation in `state`, by default in `.rigbox` in the checkout.
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

    /// Returns the path of the supervisor's lock, which is written when it starts.
    pub(crate) fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// Returns the path of the administrator's address and key, in the form of the CLI's configuration.
    pub(crate) fn admin(&self) -> PathBuf {
        self.state.join("admin.json")
    }

    /// Returns the path where the operator's command installs Firecracker.
    pub(crate) fn firecracker(&self) -> PathBuf {
        self.state.join("firecracker/firecracker")
    }

    /// Returns the pid of the running supervisor: it holds the lock that its pid is in.
    pub(crate) fn supervisor(&self) -> Result<Option<u32>> {
        let path = self.lock();
        let Ok(lock) = fs::File::open(&path) else { return Ok(None) };
        if lock.try_lock_shared().is_ok() {
            return Ok(None);
        }
        let pid = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Some(pid.trim().parse().context("the pid in the lock file")?))
    }

    /// Returns a command that runs the CLI against this installation.
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

/// Variables that `rig` prefers to its configuration, and the fields that they replace.
pub(crate) const RIG_ENVIRONMENT: [(&str, &str); 2] =
    [("RIG_API_URL", "api_url"), ("RIG_API_KEY", "api_key")];

/// Returns the path of the CLI's own configuration.
pub(crate) fn cli_config() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("HOME")?).join(".rigbox/config.json"))
}

/// Reads a field of a CLI configuration, e.g. `api_url`.
pub(crate) fn field_of(config: &Path, field: &str) -> Option<String> {
    let text = fs::read_to_string(config).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(config.get(field)?.as_str()?.to_owned())
}
