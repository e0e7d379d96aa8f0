use std::sync::Arc;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Target;
use rigbox_proto::guestio::guest_ended;
use rigbox_proto::node::{self, Cause, DiskState, NetworkPolicy, SetTargetRequest, VmState, WorkspaceReport};

use crate::error::Error;
use crate::host::Host as _;
use crate::record::Phase;
use crate::workspaces::Workspaces;

mod machine;
mod memory;
use machine::Machine;

const STOPPED: node::Desired = node::Desired::Stopped;
const RUNNING: node::Desired = node::Desired::Running;
const DELETED: node::Desired = node::Desired::Deleted;

/// Node on a machine in memory.
struct Node {
    machine: Arc<Machine>,
    workspaces: Workspaces<Machine>,
}

impl Node {
    fn new(max_boots: usize) -> Self {
        Self::on(Machine::new(max_boots))
    }

    fn on(machine: Arc<Machine>) -> Self {
        Self { workspaces: Workspaces::new(Arc::clone(&machine)), machine }
    }

    /// Ends this process of the node, and starts another one on what it leaves.
    fn restarted(self, host_boot_id: &str) -> Self {
        drop(self.workspaces);
        let node = Self::on(self.machine.restarted(host_boot_id));
        let journal = node.machine.state().journal.clone();
        for (id, record) in journal {
            node.workspaces.adopt(id, record);
        }
        node
    }

    async fn set(&self, request: SetTargetRequest) -> WorkspaceReport {
        self.workspaces.set_target(request).await.unwrap()
    }

    fn latest(&self, id: &WorkspaceId) -> Option<WorkspaceReport> {
        let latest = self.machine.reports().subscribe().latest;
        latest.into_iter().find(|report| report.workspace_id == id.as_str())
    }

    /// Waits for a report.
    async fn until(&self, id: &WorkspaceId, wanted: impl Fn(&WorkspaceReport) -> bool) -> WorkspaceReport {
        let found = eventually(|| self.latest(id).filter(&wanted)).await;
        found.unwrap_or_else(|| panic!("last report: {:?}", self.latest(id)))
    }

    /// Creates a workspace whose VM runs.
    async fn running(&self, id: &WorkspaceId) -> WorkspaceReport {
        self.set(request(id, 1, RUNNING)).await;
        let boot = self.until(id, |report| report.vm() == VmState::VmBooting).await;
        self.machine.agent_ready(&boot.boot_id);
        self.until(id, |report| report.vm() == VmState::VmRunning).await
    }
}

/// Waits until `check` returns a value, for 100 s of the test's clock, which stands still while something runs.
async fn eventually<T>(check: impl Fn() -> Option<T>) -> Option<T> {
    for _ in 0..10_000 {
        if let Some(value) = check() {
            return Some(value);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}

fn id(byte: u8) -> WorkspaceId {
    WorkspaceId::from_random([byte; 5])
}

fn request(id: &WorkspaceId, generation: u64, desired: node::Desired) -> SetTargetRequest {
    SetTargetRequest {
        workspace_id: id.to_string(),
        generation,
        desired: desired.into(),
        create: true,
        image: "base".to_owned(),
        disk_size_mb: 64,
        ram_mb: 128,
        vcpu_count: 1,
        owner: "anna".to_owned(),
        grace_ms: 10_000,
        ..SetTargetRequest::default()
    }
}

fn port(port: u32, revision: u64, request: SetTargetRequest) -> SetTargetRequest {
    let network = NetworkPolicy { app_ports: vec![port], ..NetworkPolicy::default() };
    SetTargetRequest { network: Some(network), network_revision: revision, ..request }
}

fn cause(report: &WorkspaceReport) -> Option<(Cause, u64)> {
    report.end.as_ref().map(|end| (end.cause(), end.generation))
}

#[tokio::test(start_paused = true)]
async fn workspace_is_created_and_booted_and_its_poweroff_is_final() {
    let (node, id) = (Node::new(1), id(1));
    let answer = node.set(request(&id, 1, RUNNING)).await;
    assert_eq!((answer.generation, answer.desired(), answer.disk()), (1, RUNNING, DiskState::DiskIncomplete));
    assert!(answer.session != 0 && answer.sequence != 0);
    let boot = node.until(&id, |report| report.vm() == VmState::VmBooting).await;
    assert_eq!((boot.boot_id.as_str(), boot.boot_generation), ("boot-1", 1));
    assert_eq!((boot.disk(), boot.disk_size_mb), (DiskState::DiskComplete, 64));
    assert!(boot.sequence > answer.sequence);
    node.machine.agent_ready("boot-1");
    let running = node.until(&id, |report| report.vm() == VmState::VmRunning).await;
    assert_eq!(running.system, "starting");
    node.machine.guest_ended("boot-1", guest_ended::Cause::Poweroff);
    let ended = node.until(&id, |report| report.vm() == VmState::VmNone).await;
    assert_eq!((ended.generation, ended.desired()), (1, STOPPED));
    assert_eq!(cause(&ended), Some((Cause::Poweroff, 1)));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((node.machine.running(), node.latest(&id)), (0, Some(ended)));
}

#[tokio::test(start_paused = true)]
async fn reboot_boots_again_with_another_boot_id() {
    let (node, id) = (Node::new(1), id(1));
    let first = node.running(&id).await;
    node.machine.guest_ended(&first.boot_id, guest_ended::Cause::Reboot);
    let second = node.until(&id, |report| report.boot_id == "boot-2").await;
    assert_eq!((second.generation, second.desired(), second.boot_generation), (1, RUNNING, 1));
    assert_eq!((node.machine.running(), second.end), (1, None));
}

#[tokio::test(start_paused = true)]
async fn refused_creation_is_reported_and_not_tried_again_until_the_next_generation() {
    let (node, id) = (Node::new(1), id(1));
    node.machine.state().refusal = Some("disk_full");
    node.set(request(&id, 1, RUNNING)).await;
    let refused = node.until(&id, |report| report.end.is_some()).await;
    assert_eq!(cause(&refused), Some((Cause::Refused, 1)));
    assert_eq!(refused.end.as_ref().unwrap().code, "disk_full");
    assert_eq!((refused.desired(), refused.disk()), (STOPPED, DiskState::DiskIncomplete));
    node.machine.state().refusal = None;
    node.set(request(&id, 1, RUNNING)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((node.machine.state().creations, node.latest(&id)), (1, Some(refused)));
    node.set(request(&id, 2, RUNNING)).await;
    node.until(&id, |report| report.vm() == VmState::VmBooting).await;
}

#[tokio::test(start_paused = true)]
async fn failed_launch_is_the_end_of_its_generation() {
    let (node, id) = (Node::new(1), id(1));
    node.machine.state().launch_fails = true;
    node.set(request(&id, 1, RUNNING)).await;
    let ended = node.until(&id, |report| report.end.is_some()).await;
    assert_eq!((ended.desired(), cause(&ended)), (STOPPED, Some((Cause::StartFailed, 1))));
    assert_eq!(ended.end.unwrap().boot_id, "boot-1");
}

#[tokio::test(start_paused = true)]
async fn stop_leaves_the_queue_of_boots() {
    let (node, first, second, third) = (Node::new(1), id(1), id(2), id(3));
    node.set(request(&first, 1, RUNNING)).await;
    node.until(&first, |report| report.vm() == VmState::VmBooting).await;
    node.set(request(&second, 1, RUNNING)).await;
    node.until(&second, |report| report.queue_position == 1).await;
    node.set(request(&third, 1, RUNNING)).await;
    node.until(&third, |report| report.queue_position == 2).await;
    let stopped = node.set(request(&second, 2, STOPPED)).await;
    assert_eq!((stopped.generation, stopped.desired()), (2, STOPPED));
    node.until(&second, |report| report.queue_position == 0).await;
    node.until(&third, |report| report.queue_position == 1).await;
    node.machine.agent_ready("boot-1");
    node.until(&third, |report| report.vm() == VmState::VmBooting).await;
    assert_eq!(node.latest(&second).unwrap().vm(), VmState::VmNone);
}

#[tokio::test(start_paused = true)]
async fn boots_that_wait_follow_each_other_at_once() {
    let (node, first, second) = (Node::new(1), id(1), id(2));
    node.set(request(&first, 1, RUNNING)).await;
    node.until(&first, |report| report.vm() == VmState::VmBooting).await;
    node.set(request(&second, 1, RUNNING)).await;
    node.until(&second, |report| report.queue_position == 1).await;
    let before = tokio::time::Instant::now();
    node.machine.agent_ready("boot-1");
    node.until(&second, |report| report.vm() == VmState::VmBooting).await;
    assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn equal_or_lower_generation_changes_nothing_but_the_network() {
    let (node, id) = (Node::new(1), id(1));
    let running = node.running(&id).await;
    for generation in [1, 0] {
        let answer = node.set(request(&id, generation, STOPPED)).await;
        assert_eq!(answer, running);
    }
    let answer = node.set(port(80, 3, request(&id, 0, STOPPED))).await;
    assert_eq!((answer.network_revision, answer.desired(), answer.generation), (3, RUNNING, 1));
    assert_eq!(node.machine.state().policies, 1);
    // An earlier policy is late, and the same one is in force.
    let answer = node.set(port(81, 2, request(&id, 1, RUNNING))).await;
    assert_eq!(answer.network_revision, 3);
    node.set(port(80, 3, request(&id, 1, RUNNING))).await;
    assert_eq!(node.machine.state().policies, 1);
    assert_eq!(node.machine.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn network_policy_that_is_not_in_force_is_not_reported_and_tried_again() {
    let (node, id) = (Node::new(1), id(1));
    node.running(&id).await;
    node.machine.state().network_fails = true;
    let refused = node.workspaces.set_target(port(80, 3, request(&id, 1, RUNNING))).await.unwrap_err();
    assert!(matches!(refused, Error::Retry(_)), "{refused}");
    node.until(&id, |report| report.network_revision == 0).await;
    // Nor does the next process of the node report it.
    let node = node.restarted("this");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.latest(&id).unwrap().network_revision, 0);
    node.machine.state().network_fails = false;
    let report = node.until(&id, |report| report.network_revision == 3).await;
    assert_eq!((report.vm(), report.boot_id.as_str()), (VmState::VmRunning, "boot-1"));
}

#[tokio::test(start_paused = true)]
async fn vm_that_has_to_stop_is_killed_at_its_deadline() {
    let (node, id) = (Node::new(1), id(1));
    node.running(&id).await;
    let before = tokio::time::Instant::now();
    node.set(request(&id, 2, STOPPED)).await;
    node.until(&id, |report| report.vm() == VmState::VmStopping).await;
    // A later target gives no more time, and another VM follows.
    node.set(request(&id, 3, RUNNING)).await;
    let next = node.until(&id, |report| report.boot_id == "boot-2").await;
    assert_eq!((before.elapsed().as_secs(), node.machine.state().shut_downs), (10, 1));
    assert_eq!((next.boot_generation, node.machine.running()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn deletion_is_confirmed_with_its_generation_once_everything_is_gone() {
    let (node, id) = (Node::new(1), id(1));
    node.running(&id).await;
    node.machine.state().removal_fails = true;
    let answer = node.set(request(&id, 4, DELETED)).await;
    assert_eq!((answer.desired(), answer.disk()), (DELETED, DiskState::DiskIncomplete));
    assert_eq!(answer.vm(), VmState::VmStopping);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(node.latest(&id).is_some() && !node.workspaces.is_empty());
    // The deletion goes on in the next process of the node.
    let node = node.restarted("this");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut events = node.machine.reports().subscribe().events;
    node.machine.state().removal_fails = false;
    let Ok(node::watch_event::Event::Report(absent)) = events.recv().await else { panic!("no report") };
    assert_eq!((absent.generation, absent.disk()), (4, DiskState::DiskAbsent));
    assert_eq!((node.machine.running(), node.latest(&id)), (0, None));
    assert_eq!(node.machine.state().journal.len(), 0);
    assert_eq!(node.machine.state().disks.len(), 0);
    let again = node.set(request(&id, 4, DELETED)).await;
    assert_eq!((again.generation, again.disk()), (4, DiskState::DiskAbsent));
    assert!(again.sequence > absent.sequence && node.workspaces.is_empty());
}

#[tokio::test(start_paused = true)]
async fn deletion_that_a_restored_database_takes_back_leaves_a_stopped_workspace() {
    let (node, id) = (Node::new(1), id(1));
    node.running(&id).await;
    node.machine.state().removal_fails = true;
    node.set(request(&id, 2, DELETED)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.set(request(&id, 3, STOPPED)).await;
    let stopped = node.until(&id, |report| report.vm() == VmState::VmNone).await;
    assert_eq!((stopped.generation, stopped.disk()), (3, DiskState::DiskComplete));
    assert_eq!((cause(&stopped), node.machine.running()), (Some((Cause::Requested, 1)), 0));
}

#[tokio::test(start_paused = true)]
async fn workspace_that_the_node_does_not_know_is_created_only_if_it_is_new() {
    let (node, id) = (Node::new(1), id(1));
    let known = SetTargetRequest { create: false, ..request(&id, 3, RUNNING) };
    let answer = node.set(known).await;
    assert_eq!((answer.generation, answer.disk()), (0, DiskState::DiskAbsent));
    let answer = node.set(request(&id, 3, DELETED)).await;
    assert_eq!((answer.generation, answer.disk()), (3, DiskState::DiskAbsent));
    assert!(node.workspaces.is_empty());
    for bad in [
        request(&id, 0, STOPPED),
        request(&id, 1, node::Desired::Unspecified),
        port(0, 1, request(&id, 1, STOPPED)),
        SetTargetRequest { workspace_id: "../x".to_owned(), ..request(&id, 1, STOPPED) },
    ] {
        let refused = node.workspaces.set_target(bad).await.unwrap_err();
        assert_eq!(refused.code(), Some("bad_request"), "{refused}");
    }
    for number in 1..=3 {
        node.set(request(&self::id(number), 1, STOPPED)).await;
    }
    let refused = node.workspaces.set_target(request(&self::id(4), 1, STOPPED)).await.unwrap_err();
    assert_eq!(refused.code(), Some("node_full"));
}

#[tokio::test(start_paused = true)]
async fn target_that_cannot_be_written_is_unavailable_and_changes_nothing() {
    let (node, id, other) = (Node::new(1), id(1), id(2));
    let running = node.running(&id).await;
    node.machine.state().journal_fails = true;
    for request in [port(80, 3, request(&id, 2, STOPPED)), request(&other, 1, RUNNING)] {
        let refused = node.workspaces.set_target(request).await.unwrap_err();
        assert_eq!(tonic::Status::from(refused).code(), tonic::Code::Unavailable);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.latest(&id), Some(running));
    assert_eq!(node.latest(&other), None);
    node.machine.state().journal_fails = false;
    node.set(request(&id, 2, STOPPED)).await;
    node.until(&id, |report| report.vm() == VmState::VmNone && report.generation == 2).await;
    node.set(request(&other, 1, RUNNING)).await;
    node.until(&other, |report| report.vm() == VmState::VmBooting).await;
}

#[tokio::test(start_paused = true)]
async fn restarted_node_takes_over_vms_and_boots_those_that_went_with_the_host() {
    let (node, id) = (Node::new(1), id(1));
    node.running(&id).await;
    let node = node.restarted("this");
    let taken_over = node.until(&id, |report| report.vm() == VmState::VmRunning).await;
    assert_eq!((taken_over.boot_id.as_str(), taken_over.session), ("boot-1", 2));
    let node = node.restarted("another");
    let booted = node.until(&id, |report| report.boot_id == "boot-2").await;
    assert_eq!((booted.generation, booted.desired(), node.machine.running()), (1, RUNNING, 1));
}

#[tokio::test(start_paused = true)]
async fn boot_that_was_only_begun_when_the_node_ended_begins_again() {
    let (node, id) = (Node::new(1), id(1));
    node.running(&id).await;
    for record in node.machine.state().journal.values_mut() {
        record.boot.as_mut().unwrap().process = None;
    }
    let node = node.restarted("this");
    let booted = node.until(&id, |report| report.boot_id == "boot-2").await;
    assert_eq!((booted.desired(), booted.end), (RUNNING, None));
}

#[tokio::test(start_paused = true)]
async fn vm_of_an_earlier_version_is_not_booted_before_control_has_sent_its_size() {
    let (node, id) = (Node::new(1), id(1));
    node.running(&id).await;
    for record in node.machine.state().journal.values_mut() {
        record.spec = None;
    }
    let node = node.restarted("this");
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.machine.guest_ended("boot-1", guest_ended::Cause::Reboot);
    let ended = node.until(&id, |report| report.desired() == STOPPED).await;
    assert_eq!((ended.generation, cause(&ended)), (1, Some((Cause::Reboot, 1))));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.latest(&id), Some(ended));
    node.set(request(&id, 2, RUNNING)).await;
    node.until(&id, |report| report.vm() == VmState::VmBooting && report.generation == 2).await;
}

#[tokio::test(start_paused = true)]
async fn disk_without_a_record_stays_as_it_is_until_control_says_otherwise() {
    let (node, id) = (Node::new(1), id(1));
    let mut record = crate::record::Record::new(&id, 1);
    (record.phase, record.disk_size_mb) = (Phase::Provisioned, 64);
    assert_eq!(record.target, Target { generation: 0, state: rigbox_core::lifecycle::Desired::Stopped });
    node.workspaces.adopt(id.clone(), record);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let report = node.latest(&id).unwrap();
    assert_eq!((report.generation, report.desired(), report.disk()), (0, STOPPED, DiskState::DiskComplete));
    assert_eq!(node.machine.state().creations, 0);
}
