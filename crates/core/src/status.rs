//! Status of a workspace (`VmStatus` in the API), and the requests allowed in each.

use std::fmt;
use std::str::FromStr;

/// Status of a workspace. The names are part of the HTTP API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The disk exists; the workspace has never run.
    Provisioned,
    /// The disk is being created.
    Provisioning,
    /// The VM is booting; its agent has not answered yet.
    Starting,
    /// The agent has answered.
    Running,
    /// The VM is shutting down.
    Stopping,
    /// There is no VM; the disk is kept.
    Stopped,
    /// Every trace is being removed.
    Deleting,
    /// An operation failed; the failure has the details.
    Failed,
}

/// Error for a text that is not a status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid status. Use one of {list}.", list = Status::ALL.map(Status::as_str).join(", "))]
pub struct InvalidStatus(String);

impl Status {
    /// All statuses.
    pub const ALL: [Self; 8] = [
        Self::Provisioned,
        Self::Provisioning,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Stopped,
        Self::Deleting,
        Self::Failed,
    ];

    /// Returns the wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioned => "provisioned",
            Self::Provisioning => "provisioning",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
            Self::Failed => "failed",
        }
    }

    /// Returns whether the platform is at work, so that the status ends without a user's action.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Provisioning | Self::Starting | Self::Stopping | Self::Deleting)
    }

    /// Returns the requests allowed in this status.
    pub fn allowed(self) -> &'static [Request] {
        match self {
            Self::Provisioned | Self::Stopped => &[Request::Start, Request::Delete],
            Self::Provisioning | Self::Starting => &[Request::Cancel],
            Self::Running => &[Request::Stop, Request::Delete],
            Self::Stopping | Self::Deleting => &[],
            Self::Failed => &[Request::Retry, Request::Delete],
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| InvalidStatus(text.chars().take(64).collect()))
    }
}

/// User request about an existing workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Boot the VM.
    Start,
    /// Shut the VM down and keep the disk.
    Stop,
    /// Abort the current operation: a start ends in stopped, a creation in deleting.
    Cancel,
    /// Start again after a failure.
    Retry,
    /// Remove every trace.
    Delete,
}

impl Request {
    /// Returns the verb used in messages and paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
