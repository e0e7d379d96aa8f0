//! State of the system in a running VM. The agent answers, and commands run, before the system has started.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// State of a guest's system, in systemd's words (systemctl(1), `is-system-running`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemState {
    /// Services are being started.
    Starting,
    /// All services have been started.
    Running,
    /// The start is over, and a service failed.
    Degraded,
}

/// Text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Unknown system state.")]
pub struct InvalidSystemState;

impl SystemState {
    const ALL: [Self; 3] = [Self::Starting, Self::Running, Self::Degraded];

    /// Returns the wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Degraded => "degraded",
        }
    }
}

impl fmt::Display for SystemState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SystemState {
    type Err = InvalidSystemState;

    fn from_str(text: &str) -> Result<Self, InvalidSystemState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(InvalidSystemState)
    }
}
