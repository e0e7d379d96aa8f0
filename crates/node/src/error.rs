//! Errors of the node, with the stable codes that control acts on.

use std::path::PathBuf;

use rigbox_proto::fault;
use tonic::{Code, Status};

/// Reason why the node could not carry out a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request contradicts the node's state. Holds the code and the message.
    #[error("{1}")]
    Refused(&'static str, String),
    /// The request has to be repeated a little later.
    #[error("{0}; try again later")]
    Retry(String),
    /// The space for a disk cannot be reserved.
    #[error(
        "the node lacks {wanted_mb} MiB of disk space ({detail}): delete workspaces or enlarge the file system of the state folder"
    )]
    DiskFull {
        /// Missing space, MiB.
        wanted_mb: u64,
        /// The calculation behind it.
        detail: String,
    },
    /// There is no image of that name.
    #[error("no image `{0}` on this node: build it with `cargo xtask image {0}`")]
    NoImage(String),
    /// A system call on a path failed.
    #[error("failed to {action} {}: {source}", path.display())]
    Path {
        /// Verb phrase; the path follows it in the message.
        action: &'static str,
        /// Path that it was tried on.
        path: PathBuf,
        /// Cause of the failure.
        source: std::io::Error,
    },
    /// A program that the node depends on failed.
    #[error("`{program}` failed: {output}")]
    Program {
        /// Program and arguments.
        program: String,
        /// Exit status and standard error.
        output: String,
    },
    /// Another system call failed.
    #[error("failed to {action}: {source}")]
    System {
        /// Action that was tried.
        action: &'static str,
        /// Cause of the failure.
        source: std::io::Error,
    },
    /// The VMM or its jail could not be started.
    #[error("failed to start the VMM: {0}")]
    Launch(String),
}

impl Error {
    /// Returns a converter for `map_err` on a call about `path`.
    pub(crate) fn at(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Path { action, path, source }
    }

    /// Returns a converter for `map_err` on any other call.
    pub(crate) fn system<E: Into<std::io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }

    /// Returns the stable code of a refusal. `None`: the call may succeed if it is repeated a little later.
    pub(crate) fn code(&self) -> Option<&'static str> {
        let is_full = |source: &std::io::Error| source.kind() == std::io::ErrorKind::StorageFull;
        match self {
            Self::Retry(_) => None,
            Self::Refused(code, _) => Some(code),
            Self::DiskFull { .. } => Some("disk_full"),
            Self::Path { source, .. } | Self::System { source, .. } if is_full(source) => Some("disk_full"),
            Self::NoImage(_) => Some("no_image"),
            Self::Launch(_) => Some("start_failed"),
            Self::Path { .. } | Self::Program { .. } | Self::System { .. } => Some("node_error"),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        // Without a fault code, control retries.
        let Some(fault_code) = error.code() else { return Status::unavailable(error.to_string()) };
        let code = match fault_code {
            "bad_request" => Code::InvalidArgument,
            "disk_full" | "node_full" => Code::ResourceExhausted,
            "no_image" => Code::NotFound,
            "start_failed" => Code::Aborted,
            "node_error" => Code::Internal,
            _ => Code::FailedPrecondition,
        };
        fault::status(code, fault_code, error.to_string())
    }
}
