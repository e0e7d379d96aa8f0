//! State of the stand-in node: its workspaces, the steps towards their targets, and what a test has told it.

use std::collections::{BTreeMap, HashMap};

use rigbox_proto::node::*;
use tokio::sync::broadcast;

#[derive(Default)]
pub(super) struct SimulatedWorkspace {
    pub(super) generation: u64,
    pub(super) desired: Desired,
    pub(super) vm: VmState,
    /// The most recent boot, and its generation.
    pub(super) boot: String,
    pub(super) boot_generation: u64,
    pub(super) end: Option<End>,
    pub(super) agent_lost: bool,
    /// True if its disk was never completed.
    pub(super) lacks_disk: bool,
    /// Place in the queue of boots.
    pub(super) queue_position: Option<u32>,
}

impl SimulatedWorkspace {
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.vm, VmState::VmBooting | VmState::VmRunning | VmState::VmStopping)
    }

    /// Ends the VM.
    pub(super) fn end(&mut self, cause: Cause) {
        let boots_again = matches!(cause, Cause::Reboot | Cause::HostWentDown);
        self.vm = VmState::VmNone;
        self.end = Some(End {
            cause: cause.into(),
            generation: self.boot_generation,
            boot_id: self.boot.clone(),
            ..End::default()
        });
        if self.desired == Desired::Running && self.generation == self.boot_generation && !boots_again {
            self.desired = Desired::Stopped;
        }
    }
}

pub(super) struct Inner {
    /// Process of the node, and number of its last report.
    pub(super) session: u64,
    pub(super) sequence: u64,
    pub(super) workspaces: BTreeMap<String, SimulatedWorkspace>,
    pub(super) boots: u32,
    pub(super) calls: Vec<(&'static str, String, u64)>,
    pub(super) faults: HashMap<&'static str, (&'static str, &'static str)>,
    /// Revisions and policies.
    pub(super) networks: HashMap<String, (u64, NetworkPolicy)>,
    pub(super) starts: HashMap<String, SetTargetRequest>,
    pub(super) unfinished_boots: bool,
    /// Place in the queue of boots of whoever starts.
    pub(super) queue_position: Option<u32>,
    /// Database whose workspaces these are.
    pub(super) database: Option<String>,
    /// Calls for another database.
    pub(super) refused_calls: usize,
    pub(super) events: broadcast::Sender<WorkspaceReport>,
}

impl Inner {
    pub(super) fn new(events: broadcast::Sender<WorkspaceReport>) -> Self {
        Self {
            session: 0,
            sequence: 0,
            workspaces: BTreeMap::new(),
            boots: 0,
            calls: Vec::new(),
            faults: HashMap::new(),
            networks: HashMap::new(),
            starts: HashMap::new(),
            unfinished_boots: false,
            queue_position: None,
            database: None,
            refused_calls: 0,
            events,
        }
    }

    /// Returns the kind of a target.
    pub(super) fn kind(&self, request: &SetTargetRequest) -> &'static str {
        let held = self.workspaces.get(&request.workspace_id);
        match request.desired() {
            _ if held.is_some_and(|held| held.generation == request.generation) => "set_network",
            Desired::Deleted => "delete",
            Desired::Running => "start",
            _ if request.create && held.is_none() => "provision",
            _ => "stop",
        }
    }

    /// Replaces a policy unless it is later.
    pub(super) fn set_network(&mut self, request: &SetTargetRequest) {
        let Some(policy) = request.network.clone() else { return };
        let has = self.networks.entry(request.workspace_id.clone()).or_default();
        if request.network_revision >= has.0 {
            *has = (request.network_revision, policy);
        }
    }

    pub(super) fn report(&mut self, id: &str) -> WorkspaceReport {
        self.sequence += 1;
        let network_revision = self.networks.get(id).map_or(0, |(revision, _)| *revision);
        let Some(workspace) = self.workspaces.get(id) else { return self.absent(id, 0) };
        WorkspaceReport {
            workspace_id: id.to_owned(),
            session: self.session,
            sequence: self.sequence,
            generation: workspace.generation,
            desired: workspace.desired.into(),
            disk: if workspace.lacks_disk { DiskState::DiskIncomplete } else { DiskState::DiskComplete }
                .into(),
            disk_size_mb: 4096,
            vm: workspace.vm.into(),
            boot_id: workspace.boot.clone(),
            boot_generation: workspace.boot_generation,
            agent_lost: workspace.agent_lost,
            system: "running".to_owned(),
            queue_position: workspace.queue_position.unwrap_or(0),
            end: workspace.end.clone(),
            network_revision,
            ..WorkspaceReport::default()
        }
    }

    pub(super) fn absent(&mut self, id: &str, generation: u64) -> WorkspaceReport {
        self.sequence += 1;
        WorkspaceReport {
            workspace_id: id.to_owned(),
            session: self.session,
            sequence: self.sequence,
            generation,
            desired: Desired::Deleted.into(),
            disk: DiskState::DiskAbsent.into(),
            vm: VmState::VmNone.into(),
            ..WorkspaceReport::default()
        }
    }

    pub(super) fn announce(&mut self, id: &str) {
        let report = self.report(id);
        let _ = self.events.send(report);
    }

    /// Sets a target, and takes the steps towards it, but for the end of a VM. Returns the report.
    pub(super) fn set_target(&mut self, request: &SetTargetRequest) -> WorkspaceReport {
        let (id, desired) = (&request.workspace_id, request.desired());
        let is_new = !self.workspaces.contains_key(id);
        if is_new && desired != Desired::Deleted && !request.create {
            return self.absent(id, 0);
        }
        let held = self.workspaces.get(id).map_or(0, |held| held.generation);
        if request.generation < held {
            return self.report(id);
        }
        self.set_network(request);
        if request.generation == held {
            return self.report(id);
        }
        if desired == Desired::Deleted {
            self.workspaces.remove(id);
            let gone = self.absent(id, request.generation);
            let _ = self.events.send(gone.clone());
            return gone;
        }
        let workspace = self.workspaces.entry(id.clone()).or_default();
        (workspace.generation, workspace.desired) = (request.generation, desired);
        if is_new {
            workspace.vm = VmState::VmNone;
        }
        if desired == Desired::Running {
            self.starts.insert(id.clone(), request.clone());
        }
        let queue_position = self.queue_position;
        self.converge(id, queue_position);
        self.report(id)
    }

    /// Boots or shuts down, and reports it.
    pub(super) fn converge(&mut self, id: &str, queue_position: Option<u32>) {
        let workspace = self.workspaces.get_mut(id).unwrap();
        workspace.queue_position = None;
        let is_met =
            workspace.desired == Desired::Running && workspace.boot_generation == workspace.generation;
        if workspace.is_alive() {
            if !is_met {
                workspace.vm = VmState::VmStopping;
            }
        } else if workspace.desired == Desired::Running {
            workspace.queue_position = queue_position;
            if queue_position.is_none() {
                self.boots += 1;
                (workspace.vm, workspace.boot_generation) = (VmState::VmBooting, workspace.generation);
                (workspace.boot, workspace.end) = (format!("boot-{}", self.boots), None);
                if !self.unfinished_boots {
                    self.announce(id);
                    self.workspaces.get_mut(id).unwrap().vm = VmState::VmRunning;
                }
            }
        }
        self.announce(id);
    }
}
