//! Why the node could not do what was asked, with the stable code that control acts on.

use std::path::PathBuf;

use rigbox_proto::fault;
use tonic::{Code, Status};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request contradicts what the node knows.
    #[error("{1}")]
    Refused(&'static str, String),
    /// The request has to be repeated a little later.
    #[error("{0}: ask again")]
    NotNow(String),
    /// The disk's size cannot be set aside.
    #[error(
        "the node has no room for {wanted_mb} MiB more ({detail}): delete workspaces or give the state folder more room"
    )]
    DiskFull {
        /// MiB.
        wanted_mb: u64,
        /// What was counted.
        detail: String,
    },
    /// No image of that name.
    #[error("no image `{0}` on this node: build it with `cargo xtask image {0}`")]
    NoImage(String),
    /// A system call on a path failed.
    #[error("{}: {what}: {source}", path.display())]
    Path {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program that the node needs failed.
    #[error("`{program}` failed: {output}")]
    Program {
        /// Its name.
        program: String,
        /// What it said.
        output: String,
    },
    /// Something else in the system failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The VMM or its jail could not be started.
    #[error("the VMM could not be started: {0}")]
    Launch(String),
}

impl Error {
    /// For `map_err` on a call about `path`.
    pub(crate) fn at(what: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Path { what, path, source }
    }

    /// For `map_err` on other calls.
    pub(crate) fn system<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let full = |source: &std::io::Error| source.kind() == std::io::ErrorKind::StorageFull;
        let (code, name) = match &error {
            // Without a fault: control asks again.
            Error::NotNow(_) => return Status::unavailable(error.to_string()),
            Error::Refused(name, _) => (Code::FailedPrecondition, *name),
            Error::DiskFull { .. } => (Code::ResourceExhausted, "disk_full"),
            Error::Path { source, .. } | Error::System { source, .. } if full(source) => {
                (Code::ResourceExhausted, "disk_full")
            }
            Error::NoImage(_) => (Code::NotFound, "no_image"),
            Error::Launch(_) => (Code::Aborted, "start_failed"),
            Error::Path { .. } | Error::Program { .. } | Error::System { .. } => {
                (Code::Internal, "node_error")
            }
        };
        fault::status(code, name, error.to_string())
    }
}
