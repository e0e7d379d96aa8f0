//! End of a log-in: what was decided about it, or the start of a workspace that comes before the decision.

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ssh::LogInRequest;

use crate::control::Session;

/// End of a log-in.
pub(crate) enum LogInEnd {
    Decided(Admission),
    /// The workspace has to start first.
    Starting(Starting),
}

/// Decision about a log-in.
pub(crate) enum Admission {
    Granted(Session),
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
    pub(crate) request: Box<LogInRequest>,
}

impl From<Admission> for LogInEnd {
    fn from(admission: Admission) -> Self {
        Self::Decided(admission)
    }
}

/// Returns the end of a connection.
pub(crate) fn ended(reason: u32, text: &str) -> Admission {
    Admission::Ended { reason, text: text.to_owned() }
}
