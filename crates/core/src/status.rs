//! What a workspace is doing, as the API says it (`VmStatus`), and what may be asked of it in each state.

use std::fmt;
use std::str::FromStr;

/// Status of a workspace. The names are part of the HTTP API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Its disk exists; it never ran.
    Provisioned,
    /// Its disk is being made.
    Provisioning,
    /// On the way to running: the VM boots, its agent has not answered.
    Starting,
    /// Its agent has answered.
    Running,
    /// On the way to stopped.
    Stopping,
    /// No VM; the disk is kept.
    Stopped,
    /// Everything of it is being removed.
    Deleting,
    /// Something went wrong; the failure says what.
    Failed,
}

/// A text that is no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a status: expected one of {list}", list = Status::ALL.map(Status::as_str).join(", "))]
pub struct BadStatus(String);

impl Status {
    /// Every status.
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

    /// The wire name.
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

    /// Whether the platform is at work and the state must end by itself.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Provisioning | Self::Starting | Self::Stopping | Self::Deleting)
    }

    /// What a user may ask for in this state.
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
    type Err = BadStatus;

    fn from_str(text: &str) -> Result<Self, BadStatus> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| BadStatus(text.chars().take(64).collect()))
    }
}

/// What a user may ask of an existing workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Boot it.
    Start,
    /// Shut it down and keep the disk.
    Stop,
    /// Give up what is under way: a start ends in stopped, a creation in deleting.
    Cancel,
    /// Start again after a failure.
    Retry,
    /// Remove every trace.
    Delete,
}

impl Request {
    /// The verb in messages and paths.
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
