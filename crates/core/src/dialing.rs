//! Permits to dial into a VM.

use crate::app_access::AppPermit;
use crate::ids::WorkspaceId;

/// Proof that a gateway may dial into the VM of a workspace.
pub trait DialPermit {
    /// Returns the workspace.
    fn workspace(&self) -> &WorkspaceId;
}

impl DialPermit for AppPermit {
    fn workspace(&self) -> &WorkspaceId {
        self.workspace()
    }
}

/// Proof that control has granted a log-in by SSH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshPermit(WorkspaceId);

impl SshPermit {
    /// Creates the permit of a log-in that control has granted.
    pub fn granted(workspace: WorkspaceId) -> Self {
        Self(workspace)
    }
}

impl DialPermit for SshPermit {
    fn workspace(&self) -> &WorkspaceId {
        &self.0
    }
}
