//! Processes of the benchmark, each with one role.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::role::Process;

/// Parameters of a process.
#[derive(Serialize, Deserialize)]
pub(super) struct Parameters {
    pub(super) role: Role,
    /// Folder of sockets, keys and the database.
    pub(super) folder: PathBuf,
}

/// Role of a process.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Role {
    Provider,
    Control,
    Proxy,
}

/// Starts a role, which listens some time later.
pub(super) fn start(role: Role, folder: &Path) -> Result<Process> {
    Process::start("serve-ai", &Parameters { role, folder: folder.to_owned() })
}
