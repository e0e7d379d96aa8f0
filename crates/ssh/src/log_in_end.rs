//! End of a log-in: a session, the start of a workspace that comes first, or the end of the connection.

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ssh::LogInRequest;

use crate::control::Session;

/// End of a log-in.
pub(crate) enum LogInEnd {
    Granted(Session),
    /// The workspace has to start first.
    Starting(Starting),
    /// The connection has to end, with a code and a text for people.
    Ended {
        reason: u32,
        text: String,
    },
}

/// Log-in to a workspace that starts.
pub(crate) struct Starting {
    pub(crate) workspace: WorkspaceId,
    /// Text for the owner of the workspace.
    pub(crate) text: String,
    pub(crate) request: LogInRequest,
}

/// Returns the end of a connection.
pub(crate) fn ended(reason: u32, text: &str) -> LogInEnd {
    LogInEnd::Ended { reason, text: text.to_owned() }
}
