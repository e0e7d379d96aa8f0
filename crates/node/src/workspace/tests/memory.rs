//! Guests that stand still, are saved, and are put back.

use rigbox_proto::guestio::{AgentReady, RunState, SystemChanged, report};
use rigbox_proto::node::{MemoryKey, SetPausedRequest};

use super::*;

fn with_key(request: SetTargetRequest) -> SetTargetRequest {
    SetTargetRequest { memory_key: Some(MemoryKey { key: vec![7; 32].into() }), ..request }
}

impl Node {
    async fn set_paused(
        &self,
        id: &WorkspaceId,
        boot_id: &str,
        paused: bool,
    ) -> Result<WorkspaceReport, Error> {
        let (workspace_id, boot_id) = (id.to_string(), boot_id.to_owned());
        self.workspaces.set_paused(SetPausedRequest { workspace_id, boot_id, paused }).await
    }

    fn order(&self, boot_id: &str) -> (RunState, u32) {
        self.machine.state().orders[boot_id]
    }

    fn is_closed(&self, id: &WorkspaceId) -> bool {
        self.machine.state().closed.contains(id)
    }

    /// Waits until guestio is told of a state.
    async fn until_ordered(&self, boot_id: &str, state: RunState) {
        let is_ordered =
            || self.machine.state().orders.get(boot_id).is_some_and(|order| order.0 == state).then_some(());
        eventually(is_ordered).await.unwrap_or_else(|| panic!("{boot_id} is not ordered to be {state:?}"));
    }

    /// Waits until the link is open.
    async fn until_open(&self, id: &WorkspaceId) {
        eventually(|| (!self.is_closed(id)).then_some(())).await.expect("the link stays closed");
    }

    /// Suspends a running VM. Returns the report.
    async fn suspended(&self, id: &WorkspaceId, generation: u64) -> WorkspaceReport {
        let boot = self.latest(id).unwrap().boot_id;
        self.set(with_key(request(id, generation, STOPPED))).await;
        self.until_ordered(&boot, RunState::Saved).await;
        assert!(self.is_closed(id), "what it sent now would be lost");
        self.machine.state_reached(&boot, "");
        self.until(id, |report| report.vm() == VmState::VmNone).await
    }
}

#[tokio::test(start_paused = true)]
async fn guest_stands_still_behind_a_closed_link_until_its_agent_answers_again() {
    let (node, id) = (Node::new(1), id(1));
    let boot = node.running(&id).await.boot_id;
    assert_eq!(node.order(&boot), (RunState::Running, 0));
    for _ in 0..2 {
        node.set_paused(&id, &boot, true).await.unwrap();
        assert_eq!((node.order(&boot), node.is_closed(&id)), ((RunState::Paused, 1), true));
    }
    node.machine.state_reached(&boot, "");
    node.until(&id, |report| report.paused).await;
    assert!(!node.set_paused(&id, &boot, false).await.unwrap().paused);
    assert_eq!((node.order(&boot), node.is_closed(&id)), ((RunState::Running, 1), true));
    // Sent before it stood still.
    node.machine.send(&boot, report::Report::AgentReady(AgentReady { epoch: 0 }));
    let later = SystemChanged { state: "degraded".to_owned() };
    node.machine.send(&boot, report::Report::SystemChanged(later));
    node.until(&id, |report| report.system == "degraded").await;
    assert!(node.is_closed(&id), "the agent has not heard of it");
    node.machine.agent_ready(&boot);
    node.until_open(&id).await;
    let other = node.set_paused(&id, "another", true).await.unwrap_err();
    assert_eq!(other.code(), Some("other_boot"));
    node.set_paused(&id, &boot, true).await.unwrap();
    // Whoever stops it need not let it run first.
    node.set(request(&id, 2, STOPPED)).await;
    node.until_ordered(&boot, RunState::Running).await;
    assert_eq!(node.machine.state().shut_downs, 1);
}

#[tokio::test(start_paused = true)]
async fn paused_guest_stays_paused_when_the_node_is_restarted() {
    let (node, id) = (Node::new(1), id(1));
    let boot = node.running(&id).await.boot_id;
    node.set_paused(&id, &boot, true).await.unwrap();
    let node = node.restarted("this");
    node.until(&id, |report| report.vm() == VmState::VmRunning).await;
    node.until_ordered(&boot, RunState::Paused).await;
    node.machine.state_reached(&boot, "");
    node.until(&id, |report| report.paused).await;
    node.set_paused(&id, &boot, false).await.unwrap();
    node.machine.agent_ready(&boot);
    node.until_open(&id).await;
}

#[tokio::test(start_paused = true)]
async fn stop_with_a_key_keeps_the_memory_and_a_start_goes_on_from_it_once() {
    let (node, id) = (Node::new(1), id(1));
    node.machine.state().memory_fits = true;
    node.running(&id).await;
    let stopped = node.suspended(&id, 2).await;
    assert!(stopped.suspended && stopped.memory_lost.is_empty(), "{stopped:?}");
    assert_eq!(node.machine.state().shut_downs, 0);
    assert_eq!(node.machine.running(), 0);
    assert_eq!(node.machine.state().images.get(&id), Some(&true));

    node.set(with_key(request(&id, 3, RUNNING))).await;
    let booting = node.until(&id, |report| report.vm() == VmState::VmBooting).await;
    let boot = booting.boot_id;
    assert!(!booting.suspended && node.machine.state().images.is_empty(), "it could run twice");
    assert_eq!((node.order(&boot), node.is_closed(&id)), ((RunState::Paused, 1), true));
    node.machine.state_reached(&boot, "");
    node.until_ordered(&boot, RunState::Running).await;
    assert!(node.is_closed(&id));
    node.machine.agent_ready(&boot);
    node.until(&id, |report| report.vm() == VmState::VmRunning).await;
    assert!(!node.is_closed(&id));
}

#[tokio::test(start_paused = true)]
async fn memory_that_cannot_be_kept_or_used_is_a_reason_in_the_report_and_no_failure() {
    let (node, id) = (Node::new(1), id(1));
    let boot = node.running(&id).await.boot_id;
    // At the beginning of a save.
    node.machine.state().saves_fail = true;
    node.set(with_key(request(&id, 2, STOPPED))).await;
    node.until(&id, |report| report.memory_lost.contains("broken")).await;
    assert_eq!(node.machine.state().shut_downs, 1);
    node.machine.guest_ended(&boot, guest_ended::Cause::Poweroff);
    node.until(&id, |report| report.vm() == VmState::VmNone && !report.suspended).await;

    // In the middle of it: the guest runs on, to shut down.
    node.machine.state().saves_fail = false;
    node.set(request(&id, 3, RUNNING)).await;
    let boot = node.until(&id, |report| report.vm() == VmState::VmBooting).await.boot_id;
    node.machine.agent_ready(&boot);
    node.until(&id, |report| report.vm() == VmState::VmRunning).await;
    node.set(with_key(request(&id, 4, STOPPED))).await;
    node.until_ordered(&boot, RunState::Saved).await;
    node.machine.state_reached(&boot, "no space");
    node.until_ordered(&boot, RunState::Running).await;
    node.until(&id, |report| report.memory_lost == "no space").await;
    assert_eq!(node.machine.state().shut_downs, 2);
    assert!(node.machine.state().images.is_empty());
    node.machine.guest_ended(&boot, guest_ended::Cause::Poweroff);
    node.until(&id, |report| report.vm() == VmState::VmNone).await;

    // Of another CPU, or without its key.
    for (generation, key) in [(5, true), (8, false)] {
        node.set(request(&id, generation, RUNNING)).await;
        let boot = node.until(&id, |report| report.vm() == VmState::VmBooting).await.boot_id;
        node.machine.agent_ready(&boot);
        node.until(&id, |report| report.vm() == VmState::VmRunning).await;
        node.suspended(&id, generation + 1).await;
        let start = request(&id, generation + 2, RUNNING);
        node.set(if key { with_key(start) } else { start }).await;
        let cold = node.until(&id, |report| report.vm() == VmState::VmBooting).await;
        assert!(cold.memory_lost.contains(if key { "another CPU" } else { "discarded" }), "{cold:?}");
        assert_eq!(node.order(&cold.boot_id), (RunState::Running, 0));
        assert!(!node.is_closed(&id));
        assert!(node.machine.state().images.is_empty());
        node.set(request(&id, generation + 2, STOPPED)).await;
        node.machine.guest_ended(&cold.boot_id, guest_ended::Cause::Poweroff);
        node.until(&id, |report| report.vm() == VmState::VmNone).await;
    }
}

#[tokio::test(start_paused = true)]
async fn vm_that_does_not_go_on_from_its_memory_boots() {
    let (node, id) = (Node::new(1), id(1));
    node.machine.state().memory_fits = true;
    node.running(&id).await;
    for (generation, is_loaded) in [(2, false), (4, true)] {
        node.suspended(&id, generation).await;
        node.set(with_key(request(&id, generation + 1, RUNNING))).await;
        let restored = node.until(&id, |report| report.vm() == VmState::VmBooting).await.boot_id;
        if is_loaded {
            node.machine.state_reached(&restored, "");
            node.until_ordered(&restored, RunState::Running).await;
            node.machine.guest_ended(&restored, guest_ended::Cause::KernelPanic);
        } else {
            node.machine.state_reached(&restored, "it is broken");
        }
        let cold = |report: &WorkspaceReport| {
            report.vm() == VmState::VmBooting && report.boot_id != restored && !report.memory_lost.is_empty()
        };
        let booted = node.until(&id, cold).await.boot_id;
        assert_eq!(node.order(&booted), (RunState::Running, 0));
        node.machine.agent_ready(&booted);
        node.until(&id, |report| report.vm() == VmState::VmRunning).await;
    }
}

#[tokio::test(start_paused = true)]
async fn save_that_a_restart_of_the_node_interrupts_ends_in_an_orderly_stop_or_is_whole() {
    let (node, id) = (Node::new(1), id(1));
    let boot = node.running(&id).await.boot_id;
    node.set(with_key(request(&id, 2, STOPPED))).await;
    node.until_ordered(&boot, RunState::Saved).await;
    let node = node.restarted("this");
    node.until_ordered(&boot, RunState::Running).await;
    node.until(&id, |report| report.memory_lost.contains("restarted")).await;
    assert!(node.machine.state().images.is_empty());
    assert_eq!(node.machine.state().shut_downs, 1);

    // One that is whole when the node ends is kept, whether its VMM still runs or not.
    node.machine.guest_ended(&boot, guest_ended::Cause::Poweroff);
    node.until(&id, |report| report.vm() == VmState::VmNone).await;
    node.set(request(&id, 3, RUNNING)).await;
    let boot = node.until(&id, |report| report.vm() == VmState::VmBooting).await.boot_id;
    node.machine.agent_ready(&boot);
    node.until(&id, |report| report.vm() == VmState::VmRunning).await;
    let mut record = node.machine.state().journal[&id].clone();
    record.target.state = rigbox_core::lifecycle::Desired::Stopped;
    record.target.generation = 4;
    let saved = crate::record::BootMemory::Saved(crate::memory::MemoryImage::for_tests());
    record.boot.as_mut().unwrap().memory = saved;
    node.machine.state().journal.insert(id.clone(), record);
    let node = node.restarted("this");
    let stopped = node.until(&id, |report| report.vm() == VmState::VmNone).await;
    assert!(stopped.suspended, "{stopped:?}");
    assert_eq!(node.machine.running(), 0);
}
