//! Reports of a workspace to control.

use rigbox_proto::node::{End, State, WorkspaceReport};

use super::state::Workspace;
use crate::journal::Phase;

impl Workspace {
    /// Publishes the current state.
    pub(super) fn publish(&self) {
        self.node.reports.publish(self.report());
    }

    pub(super) fn report(&self) -> WorkspaceReport {
        let state = match (&self.record.boot, self.record.phase) {
            (_, Phase::Provisioning) => State::Unspecified,
            (None, _) => State::Stopped,
            (Some(boot), _) if boot.stopping => State::Stopping,
            (Some(boot), _) if boot.ready => State::Running,
            (Some(_), _) => State::Booting,
        };
        let end = self.record.last_end.as_ref();
        WorkspaceReport {
            workspace_id: self.id.to_string(),
            generation: self.record.generation,
            state: state.into(),
            boot_id: match (&self.record.boot, end) {
                (Some(boot), _) => boot.boot_id.clone(),
                (None, Some(end)) => end.boot_id.clone(),
                (None, None) => String::new(),
            },
            end: end.map(|end| End { cause: end.cause, detail: end.detail.clone() }),
            agent_lost: self.vm.as_ref().is_some_and(|vm| vm.agent_lost),
            system: self.vm.as_ref().map(|vm| vm.system.to_string()).unwrap_or_default(),
            disk_size_mb: self.record.disk_size_mb,
        }
    }
}
