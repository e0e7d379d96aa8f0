//! Model of control and node with a network between them that loses, delays, doubles and reorders messages.

use proptest::prelude::*;

use super::super::*;
use super::at;

const TRANSITIONS: &[(Status, Status)] = {
    use Status::*;
    &[
        (Provisioning, Provisioned),
        (Provisioning, Deleting),
        (Provisioning, Failed),
        (Provisioned, Starting),
        (Provisioned, Deleting),
        (Starting, Running),
        (Starting, Stopping),
        // The guest ended before control had seen it run.
        (Starting, Stopped),
        (Starting, Failed),
        (Running, Stopping),
        (Running, Stopped),
        (Running, Starting),
        (Running, Failed),
        (Running, Deleting),
        (Stopping, Stopped),
        (Stopping, Failed),
        (Stopped, Starting),
        (Stopped, Deleting),
        (Deleting, Failed),
        (Failed, Starting),
        (Failed, Deleting),
    ]
};

#[derive(Debug, Clone)]
enum Event {
    Ask(Request),
    /// Control sends what is wanted.
    Send,
    /// A message arrives at the node, and may arrive again.
    Arrive(prop::sample::Index, bool),
    Lose(prop::sample::Index),
    NodeSteps,
    Answers,
    Ends(EndCause),
    Report,
    /// A report arrives at control, and may arrive again.
    Observe(prop::sample::Index, bool),
    Deliver,
    TimeOut,
    NodeRestarts,
    HostRestarts,
}

#[derive(Debug, Clone)]
struct Node {
    target: Target,
    has_disk: bool,
    vm: Option<Vm>,
    end: Option<End>,
}

#[derive(Debug)]
struct World {
    control: Lifecycle,
    node: Option<Node>,
    /// Generation of the latest deletion that the node has confirmed.
    deleted: u64,
    targets: Vec<(Target, bool)>,
    reports: Vec<Observed>,
    session: u64,
    sequence: u64,
    boots: u64,
}

impl World {
    fn new() -> Self {
        Self {
            control: Lifecycle::created(at(0)),
            node: None,
            deleted: 0,
            targets: Vec::new(),
            reports: Vec::new(),
            session: 1,
            sequence: 0,
            boots: 0,
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Ask(request) => {
                if let Ok(next) = self.control.request(*request, at(1)) {
                    self.control = next;
                }
            }
            Event::Send => self.targets.push((self.control.wanted, !self.control.has_disk)),
            Event::Arrive(index, again) if !self.targets.is_empty() => {
                let (target, creates) = *index.get(&self.targets);
                if !again {
                    self.targets.remove(index.index(self.targets.len()));
                }
                self.arrive(target, creates);
            }
            Event::Lose(index) if !self.targets.is_empty() => {
                self.targets.remove(index.index(self.targets.len()));
            }
            Event::NodeSteps => self.step(),
            Event::Answers => {
                if let Some(vm) = self.vm().filter(|vm| vm.phase == VmPhase::Booting) {
                    vm.phase = VmPhase::Running { agent_lost: false, system: SystemState::Running };
                }
            }
            Event::Ends(cause) => self.end(*cause),
            Event::Report => self.report(),
            Event::Observe(index, again) if !self.reports.is_empty() => {
                let report = index.get(&self.reports).clone();
                if !again {
                    self.reports.remove(index.index(self.reports.len()));
                }
                self.control = self.control.observe(&report, at(1)).unwrap_or_else(|| self.control.clone());
            }
            Event::Deliver => {
                if let Some(boot) = self.control.answering_boot().map(str::to_owned) {
                    self.control = self.control.delivered(Delivered { boot, revision: 1 }, at(1));
                }
            }
            Event::TimeOut => {
                if let Some(late) = self.control.time_out(Duration::MAX, at(1), &Timeouts::default()) {
                    self.control = late;
                }
            }
            Event::NodeRestarts => self.restart(),
            Event::HostRestarts => {
                if self.vm().is_some() {
                    self.end(EndCause::HostWentDown);
                }
                self.restart();
            }
            Event::Arrive(..) | Event::Lose(_) | Event::Observe(..) => {}
        }
    }

    fn vm(&mut self) -> Option<&mut Vm> {
        self.node.as_mut()?.vm.as_mut()
    }

    fn arrive(&mut self, target: Target, creates: bool) {
        match &mut self.node {
            Some(node) if target.generation > node.target.generation => node.target = target,
            Some(_) => {}
            None if target.state == Desired::Deleted => self.deleted = self.deleted.max(target.generation),
            None if creates => self.node = Some(Node { target, has_disk: false, vm: None, end: None }),
            None => {}
        }
    }

    fn step(&mut self) {
        let Some(node) = &mut self.node else { return };
        let vm = node.vm.as_ref();
        let facts = Facts {
            has_disk: node.has_disk,
            vm: vm.map(|vm| VmFacts { generation: vm.generation, stopping: vm.phase == VmPhase::Stopping }),
            given_up: None,
        };
        match node.target.next_step(facts) {
            Step::Rest => {}
            Step::CreateDisk => node.has_disk = true,
            Step::Boot => {
                self.boots += 1;
                let (boot, generation) = (format!("b{}", self.boots), node.target.generation);
                node.vm = Some(Vm { boot, generation, phase: VmPhase::Booting });
                node.end = None;
            }
            Step::Stop => {
                if let Some(vm) = &mut node.vm {
                    vm.phase = VmPhase::Stopping;
                }
            }
            Step::Delete => {
                self.deleted = node.target.generation;
                self.node = None;
            }
        }
    }

    fn end(&mut self, cause: EndCause) {
        let Some(node) = &mut self.node else { return };
        let Some(vm) = node.vm.take() else { return };
        let cause = if vm.phase == VmPhase::Stopping { EndCause::Requested } else { cause };
        node.target = node.target.after_end(vm.generation, cause);
        let (code, detail) = (String::new(), String::new());
        node.end = Some(End { generation: vm.generation, boot: vm.boot, cause, code, detail });
    }

    fn report(&mut self) {
        self.sequence += 1;
        let order = ReportOrder { session: self.session, sequence: self.sequence };
        self.reports.push(match &self.node {
            None => Observed::absent(order, self.deleted),
            Some(Node { target, has_disk, vm, end }) => Observed {
                order,
                target: *target,
                disk: if *has_disk { Disk::Complete } else { Disk::Incomplete },
                vm: vm.clone(),
                end: end.clone(),
            },
        });
    }

    /// Another process of the node: control reads no report of the earlier one any more.
    fn restart(&mut self) {
        self.session += 1;
        self.sequence = 0;
        self.reports.clear();
    }

    /// Everything that was said arrives, and nothing more is disturbed.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.targets.clear();
            self.apply(&Event::Send);
            for (target, creates) in std::mem::take(&mut self.targets) {
                self.arrive(target, creates);
            }
            self.step();
            self.apply(&Event::Answers);
            if self.vm().is_some_and(|vm| vm.phase == VmPhase::Stopping) {
                self.end(EndCause::Requested);
            }
            self.reports.clear();
            self.report();
            for report in std::mem::take(&mut self.reports) {
                self.control = self.control.observe(&report, at(2)).unwrap_or_else(|| self.control.clone());
            }
            self.apply(&Event::Deliver);
        }
    }
}

fn events() -> impl Strategy<Value = Event> {
    let requests = [Request::Start, Request::Stop, Request::Cancel, Request::Retry, Request::Delete];
    let causes = [EndCause::Poweroff, EndCause::Reboot, EndCause::KernelPanic, EndCause::VmmDied];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => prop::sample::select(requests.to_vec()).prop_map(Event::Ask),
        4 => Just(Event::Send),
        4 => (index(), any::<bool>()).prop_map(|(index, again)| Event::Arrive(index, again)),
        1 => index().prop_map(Event::Lose),
        4 => Just(Event::NodeSteps),
        3 => Just(Event::Answers),
        2 => prop::sample::select(causes.to_vec()).prop_map(Event::Ends),
        4 => Just(Event::Report),
        4 => (index(), any::<bool>()).prop_map(|(index, again)| Event::Observe(index, again)),
        3 => Just(Event::Deliver),
        1 => Just(Event::TimeOut),
        1 => Just(Event::NodeRestarts),
        1 => Just(Event::HostRestarts),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn history_of_disturbances_keeps_to_the_transitions_and_settles(
        history in prop::collection::vec(events(), 1..80),
    ) {
        let mut world = World::new();
        for event in &history {
            let before = world.control.clone();
            world.apply(event);
            let after = &world.control;
            prop_assert!(
                after.status == before.status || TRANSITIONS.contains(&(before.status, after.status)),
                "{} -> {} by {event:?}", before.status, after.status
            );
            prop_assert!(after.wanted.generation >= before.wanted.generation);
            prop_assert_eq!(after.failure.is_some(), after.status == Status::Failed);
            prop_assert!(before.wanted.state != Desired::Deleted || after.wanted.state == Desired::Deleted);
            let late = after.time_out(Duration::MAX, at(i64::MAX), &Timeouts::default());
            prop_assert_eq!(late.is_some(), after.status.is_transient());
            if late.is_none() {
                prop_assert!(after.allowed().contains(&Request::Delete));
            }
        }
        let wanted = world.control.wanted;
        world.settle();
        let World { control, node, .. } = &world;
        prop_assert_eq!(control.wanted.generation, wanted.generation, "only requests, and time, count it up");
        if wanted.state == Desired::Deleted {
            prop_assert!(control.is_gone() && node.is_none());
        } else {
            prop_assert!(!control.status.is_transient(), "{} for ever", control.status);
            let runs = node.as_ref().is_some_and(|node| node.vm.is_some());
            prop_assert_eq!(runs, control.status == Status::Running);
        }
    }
}
