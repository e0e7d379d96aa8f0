//! Error of calls on apps.

use rigbox_core::apps::{InvalidAppName, InvalidDomain};

use crate::error::ServiceError;
use crate::guests::client::GuestError;

/// Error of a call on an app.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The app does not exist, or the caller may not know of it.
    #[error("App `{0}` not found.")]
    NotFound(String),
    /// The text is not an id of an app: a name, for example.
    #[error("App `{0}` not found. Use its id, such as ap-abcdefgh, not its name.")]
    NotAnId(String),
    /// Errors that all workspace calls share.
    #[error(transparent)]
    Workspace(#[from] ServiceError),
    /// The name is invalid.
    #[error(transparent)]
    InvalidName(#[from] InvalidAppName),
    /// The custom domain is invalid.
    #[error("custom_domain: {0}")]
    InvalidDomain(#[from] InvalidDomain),
    /// The value of a field is invalid.
    #[error("{field}: {problem}")]
    InvalidValue {
        /// Name of the field.
        field: &'static str,
        /// The problem, and the remedy.
        problem: String,
    },
    /// Another app has the name.
    #[error("An app named `{0}` already exists. Names are unique in the installation; choose another name.")]
    NameTaken(String),
    /// Another app has the custom domain.
    #[error("The domain `{0}` is already used by another app.")]
    DomainTaken(String),
    /// The workspace has its maximum number of apps.
    #[error("The workspace has {used} of {limit} apps. Delete one that you do not need.")]
    Quota {
        /// Name of the limit.
        limit_name: &'static str,
        /// Value of the limit.
        limit: u64,
        /// Current usage.
        used: u64,
    },
    /// Code in the workspace tried to give more people access to its app.
    #[error(
        "An app cannot be shared more widely from inside its workspace. Change it from outside, or set apps_from_inside to `any`."
    )]
    WidensAccess,
    /// The app has no systemd unit.
    #[error("App `{0}` has no service. Give it a command, or wrap what listens on its port.")]
    NoService(String),
    /// Concurrent changes conflicted with every attempt.
    #[error("The app was changed by another request at the same time. Try again.")]
    ConcurrentChange,
    /// The custom domain cannot be verified.
    #[error("{0}")]
    DomainNotVerified(String),
    /// The workspace is not running.
    #[error("The workspace is `{0}`. Start it first.")]
    NotRunning(rigbox_core::status::Status),
    /// The call to the guest failed.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

impl From<rigbox_store::Error> for AppError {
    fn from(error: rigbox_store::Error) -> Self {
        match error {
            rigbox_store::Error::Quota { limit_name, limit, used } => Self::Quota { limit_name, limit, used },
            other => Self::Workspace(other.into()),
        }
    }
}
