//! Reports of a workspace to control.

use rigbox_core::lifecycle::Desired;
use rigbox_core::system::SystemState;
use rigbox_proto::node::{self, DiskState, End, VmState, WorkspaceReport};

use super::state::Workspace;
use crate::cause;
use crate::host::Host;
use crate::record::{BootEnd, Phase};

impl<H: Host> Workspace<H> {
    /// Publishes the current state. Returns the report with its number.
    pub(super) fn publish(&self) -> WorkspaceReport {
        self.host.reports().publish(self.report())
    }

    fn report(&self) -> WorkspaceReport {
        let record = &self.record;
        let vm = match &record.boot {
            None => VmState::VmNone,
            Some(boot) if boot.stopping || self.is_deleted() => VmState::VmStopping,
            Some(boot) if boot.ready => VmState::VmRunning,
            Some(_) => VmState::VmBooting,
        };
        let running = self.vm.as_ref().filter(|_| vm == VmState::VmRunning);
        let system = running.map_or(SystemState::Starting, |vm| vm.system);
        WorkspaceReport {
            workspace_id: self.id.to_string(),
            generation: record.target.generation,
            desired: match record.target.state {
                Desired::Stopped => node::Desired::Stopped.into(),
                Desired::Running => node::Desired::Running.into(),
                Desired::Deleted => node::Desired::Deleted.into(),
            },
            disk: match record.phase {
                Phase::Provisioned if !self.is_deleted() => DiskState::DiskComplete.into(),
                _ => DiskState::DiskIncomplete.into(),
            },
            disk_size_mb: record.disk_size_mb,
            vm: vm.into(),
            boot_id: record.boot.as_ref().map(|boot| boot.boot_id.clone()).unwrap_or_default(),
            boot_generation: record.boot.as_ref().map_or(0, |boot| boot.generation),
            agent_lost: running.is_some_and(|vm| vm.agent_lost),
            system: if vm == VmState::VmRunning { system.to_string() } else { String::new() },
            queue_position: self.queue_place.map_or(0, |place| place.position),
            end: record.last_end.as_ref().map(end),
            paused: running.is_some_and(|vm| vm.is_standing),
            suspended: record.memory.is_some(),
            memory_lost: record.memory_lost.clone(),
            // What is not in force does not count.
            network_revision: if self.network_due.is_none() { record.network_revision } else { 0 },
            ..WorkspaceReport::default()
        }
    }
}

fn end(end: &BootEnd) -> End {
    End {
        cause: cause::to_wire(end.cause).into(),
        detail: end.detail.clone(),
        generation: end.generation,
        boot_id: end.boot_id.clone(),
        code: end.code.clone(),
    }
}
