//! Knowledge of clients: which requests were acknowledged, and which may or may not have had an effect. In the end, what is wanted, what is
//! observed and what is real are compared with it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::status::{Request, Status};
use rigbox_store::{Store, Workspace};
use secrecy::ExposeSecret;

use crate::network::MARKER;
use crate::world::World;

#[derive(Default)]
pub(crate) struct Oracle(Mutex<BTreeMap<WorkspaceId, Expected>>);

/// Knowledge of clients about one workspace.
#[derive(Debug, Clone, Default)]
struct Expected {
    /// Its creation was acknowledged, and not undone by a restored backup.
    is_created: bool,
    is_deleted: bool,
    may_be_deleted: bool,
    requests: Known<Request>,
    environment: Known<String>,
}

/// Last acknowledged value, unless something that is still on its way, or whose outcome nobody knows, may have replaced it.
#[derive(Debug, Clone)]
struct Known<T> {
    last: Option<T>,
    in_flight: u32,
    overlaps: bool,
}

/// How a request ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// It has had no effect.
    Refused,
    /// It may have had its effect.
    Unknown,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { last: None, in_flight: 0, overlaps: false }
    }
}

impl<T> Known<T> {
    fn begin(&mut self) {
        self.overlaps |= self.in_flight > 0;
        self.in_flight += 1;
    }

    fn end(&mut self, value: T, answer: Answer) {
        self.in_flight -= 1;
        match answer {
            Answer::Done if !self.overlaps => self.last = Some(value),
            Answer::Refused if !self.overlaps => {}
            _ => self.last = None,
        }
        self.overlaps &= self.in_flight > 0;
    }

    /// The answers that are missing never come.
    fn cut_off(&mut self) {
        if self.in_flight > 0 {
            *self = Self::default();
        }
    }
}

impl Oracle {
    pub(crate) fn ids(&self) -> Vec<WorkspaceId> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn creation(&self, id: &WorkspaceId, answer: Answer) {
        self.change(id, |expected| expected.is_created = answer == Answer::Done);
    }

    pub(crate) fn begin(&self, id: &WorkspaceId, request: Request) {
        self.change(id, |expected| {
            expected.requests.begin();
            expected.may_be_deleted |= may_delete(request);
        });
    }

    /// `status` is the one after the request, if it was acknowledged.
    pub(crate) fn end(&self, id: &WorkspaceId, request: Request, answer: Answer, status: Option<Status>) {
        self.change(id, |expected| {
            expected.requests.end(request, answer);
            expected.is_deleted |= status == Some(Status::Deleting);
        });
    }

    pub(crate) fn begin_environment(&self, id: &WorkspaceId) {
        self.change(id, |expected| expected.environment.begin());
    }

    pub(crate) fn end_environment(&self, id: &WorkspaceId, value: String, answer: Answer) {
        self.change(id, |expected| expected.environment.end(value, answer));
    }

    /// Control has crashed.
    pub(crate) fn cut_off(&self) {
        for expected in self.0.lock().unwrap().values_mut() {
            expected.requests.cut_off();
            expected.environment.cut_off();
        }
    }

    /// The database is an older one now.
    pub(crate) async fn restored(&self, world: &World, store: &Store) {
        for id in self.ids() {
            let workspace = store.workspace(&id).await.unwrap();
            if workspace.as_ref().is_some_and(|workspace| !workspace.lifecycle.has_disk) {
                // The database does not know that there was one.
                if let Some(disk) = world.machine().lost_disks.get_mut(&id) {
                    disk.was_used = false;
                }
            }
            let exists = workspace.is_some();
            self.change(&id, |expected| {
                expected.is_created = exists;
                expected.requests = Known::default();
                expected.environment = Known::default();
            });
        }
    }

    /// The operator has given an orphan to the user.
    pub(crate) fn adopted(&self, id: &WorkspaceId) {
        self.change(id, |expected| {
            expected.is_created = true;
            expected.requests = Known::default();
            expected.environment = Known::default();
        });
    }

    fn change(&self, id: &WorkspaceId, change: impl FnOnce(&mut Expected)) {
        change(self.0.lock().unwrap().entry(id.clone()).or_default());
    }

    /// Compares everything, after it has settled.
    pub(crate) async fn check(&self, world: &World, store: &Store) {
        let all = self.0.lock().unwrap().clone();
        for (id, expected) in &all {
            match store.workspace(id).await.unwrap() {
                None => check_missing(world, id, expected),
                Some(workspace) => {
                    check_status(world, &workspace, expected);
                    let network = store.network_revisions(id).unwrap().unwrap();
                    if !network.is_in_force() {
                        world.violation(format!("{id}: its network policy is acknowledged by nobody"));
                    }
                    let environment = store.environment(id).await.unwrap().unwrap().variables;
                    let environment = environment.iter().find(|(name, _)| name.as_str() == MARKER);
                    let environment = environment.map(|(_, value)| value.expose_secret().to_owned());
                    let last = &expected.environment.last;
                    if last.is_some() && *last != environment {
                        world
                            .violation(format!("{id}: {last:?} was acknowledged, and it is {environment:?}"));
                    }
                    check_vm(world, &workspace, environment, network.wanted);
                    check_key(world, &workspace, store).await;
                }
            }
        }
        let (disks, resources) = {
            let machine = world.machine();
            let disks: Vec<_> = machine.disks.keys().filter(|id| !all.contains_key(*id)).cloned().collect();
            let has_boot = |id: &WorkspaceId| machine.record(id).is_some_and(|record| record.boot.is_some());
            let resources: Vec<_> = machine.resources.iter().filter(|id| !has_boot(id)).cloned().collect();
            (disks, resources)
        };
        for id in disks {
            world.violation(format!("{id}: a disk of nobody"));
        }
        for id in resources {
            world.violation(format!("{id}: resources of a boot that is over"));
        }
    }
}

/// Returns whether a request may end in a deletion: the cancellation of a creation does.
pub(crate) fn may_delete(request: Request) -> bool {
    matches!(request, Request::Delete | Request::Cancel)
}

fn check_missing(world: &World, id: &WorkspaceId, expected: &Expected) {
    if expected.is_created && !expected.may_be_deleted {
        world.violation(format!("{id}: it was acknowledged, and is gone"));
    }
    let machine = world.machine();
    let runs = !machine.alive(id).is_empty();
    let is_there = runs || machine.disks.contains_key(id) || machine.journal.contains_key(id);
    drop(machine);
    if expected.is_deleted && is_there {
        world.violation(format!("{id}: it is deleted, and the node has it"));
    }
    if runs {
        world.violation(format!("{id}: it runs, and nobody knows it"));
    }
}

fn check_status(world: &World, workspace: &Workspace, expected: &Expected) {
    let (id, status) = (&workspace.id, workspace.lifecycle.status);
    if expected.is_deleted {
        world.violation(format!("{id}: its deletion was acknowledged, and it is {status}"));
    }
    if status.is_transient() {
        world.violation(format!("{id}: {status} for ever"));
    }
    let contradicts = match expected.requests.last {
        Some(Request::Stop | Request::Cancel) => status == Status::Running,
        Some(Request::Start | Request::Retry) => status == Status::Provisioned,
        Some(Request::Delete) | None => false,
    };
    if contradicts {
        world.violation(format!("{id}: {:?} was acknowledged, and it is {status}", expected.requests.last));
    }
}

/// Whoever has the key of a VM that runs is known.
async fn check_key(world: &World, workspace: &Workspace, store: &Store) {
    let (id, lifecycle) = (&workspace.id, &workspace.lifecycle);
    if let Some(boot) = lifecycle.boot().filter(|_| lifecycle.status == Status::Running)
        && !store.has_workspace_key(id, boot).await.unwrap()
    {
        world.violation(format!("{id}: the key of the running boot {boot} is not accepted"));
    }
}

fn check_vm(world: &World, workspace: &Workspace, environment: Option<String>, network: u64) {
    let (id, lifecycle) = (&workspace.id, &workspace.lifecycle);
    let machine = world.machine();
    let mut found = Vec::new();
    let is_lost = machine.lost_disks.contains_key(id);
    if lifecycle.has_disk && !is_lost && !machine.disks.get(id).is_some_and(|disk| disk.is_complete) {
        found.push("it has no disk".to_owned());
    }
    let is_running = lifecycle.status == Status::Running;
    match machine.alive(id).as_slice() {
        [] if is_running => found.push("it is running, and there is no VM".to_owned()),
        [] => {}
        [vm] if is_running => {
            if lifecycle.boot() != Some(&vm.boot) {
                found.push(format!("it is {:?}, and {} runs", lifecycle.boot(), vm.boot));
            }
            if !vm.has_key {
                found.push("it runs without its key".to_owned());
            }
            if vm.environment != environment {
                found.push(format!("its environment is {:?}, not {environment:?}", vm.environment));
            }
            let record = machine.record(id);
            let recorded = record.as_ref().map(|record| &record.network);
            if record.as_ref().is_none_or(|record| record.network_revision < network) {
                found.push(format!("the node does not know its network policy {network}"));
            }
            if machine.policies.get(&vm.boot) != recorded {
                found.push(format!("{:?} is in force, not {recorded:?}", machine.policies.get(&vm.boot)));
            }
        }
        [_] => found.push(format!("it is {}, and there is a VM", lifecycle.status)),
        _ => found.push("there are several VMs".to_owned()),
    }
    drop(machine);
    for problem in found {
        world.violation(format!("{id}: {problem}"));
    }
}
