//! Tests of the lifecycle: each rule, and a model of control and node with every disturbance between them.

use super::*;

mod model;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

/// Report of the first session.
fn report(sequence: u64, target: Target, vm: Option<Vm>, end: Option<End>) -> Observed {
    Observed { order: ReportOrder { session: 1, sequence }, target, disk: Disk::Complete, vm, end }
}

fn vm(boot: &str, generation: u64, phase: VmPhase) -> Vm {
    Vm { boot: boot.into(), generation, phase }
}

fn answering() -> VmPhase {
    VmPhase::Running { agent_lost: false, system: SystemState::Running }
}

fn end(generation: u64, cause: EndCause) -> End {
    End { generation, boot: "b1".into(), cause, code: String::new(), detail: String::new() }
}

fn starting() -> Lifecycle {
    let made = Lifecycle::created(at(0));
    let made = made.observe(&report(1, made.wanted, None, None), at(1)).unwrap();
    assert_eq!(made.status, Status::Provisioned);
    made.request(Request::Start, at(2)).unwrap()
}

fn running() -> Lifecycle {
    let life = starting();
    let answered = report(2, life.wanted, Some(vm("b1", life.wanted.generation, answering())), None);
    let answered = life.observe(&answered, at(3)).unwrap();
    assert_eq!(answered.status, Status::Starting, "it has no secrets yet");
    let delivered = Delivered { boot: answered.answering_boot().unwrap().to_owned(), revision: 1 };
    let running = answered.delivered(delivered, at(4));
    assert_eq!(running.status, Status::Running);
    running
}

/// Returns the state after the node has reported that the wanted VM has ended.
fn ended(life: &Lifecycle, cause: EndCause) -> Lifecycle {
    let target = life.wanted.after_end(life.wanted.generation, cause);
    let report = report(10, target, None, Some(end(life.wanted.generation, cause)));
    life.observe(&report, at(10)).unwrap()
}

#[test]
fn each_end_cause_has_its_transition() {
    for (cause, status, code) in [
        (EndCause::Requested, Status::Stopped, None),
        (EndCause::Poweroff, Status::Stopped, None),
        (EndCause::Halt, Status::Stopped, None),
        (EndCause::Reboot, Status::Starting, None),
        (EndCause::HostWentDown, Status::Starting, None),
        (EndCause::KernelPanic, Status::Failed, Some("kernel_panic")),
        (EndCause::VmmDied, Status::Failed, Some("vmm_died")),
        (EndCause::AgentNeverAnswered, Status::Failed, Some("agent_never_answered")),
        (EndCause::Unobserved, Status::Failed, Some("ended_unobserved")),
        (EndCause::StartFailed, Status::Failed, Some("start_failed")),
        (EndCause::Refused, Status::Failed, Some("refused")),
    ] {
        let before = running();
        let after = ended(&before, cause);
        assert_eq!(after.status, status, "{cause:?}");
        assert_eq!(after.failure.as_ref().map(|f| f.code.as_str()), code, "{cause:?}");
        let wanted = if status == Status::Starting { Desired::Running } else { Desired::Stopped };
        assert_eq!(after.wanted, Target { state: wanted, ..before.wanted }, "{cause:?}");
        assert!(after.is_acknowledged(), "node and control conclude the same");
    }
}

#[test]
fn report_that_is_not_later_is_ignored() {
    let running = running();
    let mut old = report(2, running.wanted, None, Some(end(running.wanted.generation, EndCause::VmmDied)));
    assert_eq!(running.observe(&old, at(5)), None);
    old.order.sequence = 1;
    assert_eq!(running.observe(&old, at(5)), None);
    // The first report of another process of the node counts.
    old.order = ReportOrder { session: 2, sequence: 1 };
    assert_eq!(running.observe(&old, at(5)).unwrap().status, Status::Failed);
}

#[test]
fn state_of_before_a_start_says_nothing_about_it() {
    let stopped = ended(&running(), EndCause::Poweroff);
    let starting = stopped.request(Request::Start, at(20)).unwrap();
    let old = report(11, stopped.wanted, None, Some(end(stopped.wanted.generation, EndCause::Poweroff)));
    assert_eq!(starting.observe(&old, at(21)).unwrap().status, Status::Starting);
}

#[test]
fn stop_is_over_once_the_node_has_acknowledged_it() {
    let cancelled = starting().request(Request::Cancel, at(3)).unwrap();
    let before = Target { generation: cancelled.wanted.generation - 2, state: Desired::Stopped };
    let unaware = cancelled.observe(&report(5, before, None, None), at(4)).unwrap();
    assert_eq!(unaware.status, Status::Stopping, "the node may still get the start");
    let aware = unaware.observe(&report(6, cancelled.wanted, None, None), at(5)).unwrap();
    assert_eq!(aware.status, Status::Stopped);
}

#[test]
fn cancelled_creation_is_deleted_and_a_cancelled_start_is_stopped() {
    let made = Lifecycle::created(at(0));
    assert_eq!(made.request(Request::Cancel, at(1)).unwrap().status, Status::Deleting);
    assert_eq!(starting().request(Request::Cancel, at(3)).unwrap().status, Status::Stopping);
}

#[test]
fn deleted_workspace_is_gone_once_the_node_confirms_it() {
    let order = |sequence| ReportOrder { session: 1, sequence };
    let deleting = Lifecycle::created(at(0)).request(Request::Cancel, at(1)).unwrap();
    let absent = deleting.observe(&Observed::absent(order(3), 0), at(2)).unwrap();
    assert!(!absent.is_gone(), "the node may still get the creation");
    let confirmed = absent.observe(&Observed::absent(order(4), deleting.wanted.generation), at(2)).unwrap();
    assert!(confirmed.is_gone());
}

#[test]
fn illegal_request_names_the_state_and_allowed_actions() {
    let error = running().request(Request::Start, at(5)).unwrap_err().to_string();
    assert!(error.contains("`running`") && error.contains("stop or delete"), "{error}");
}

#[test]
fn guest_that_reboots_before_running_times_out() {
    let mut life = starting();
    let since = life.since;
    for i in 0..20 {
        let end = End { boot: format!("b{i}"), ..end(life.wanted.generation, EndCause::Reboot) };
        life = life.observe(&report(10 + i, life.wanted, None, Some(end)), at(10_000)).unwrap();
    }
    assert_eq!(life.since, since);
    let late = life.time_out(Duration::from_secs(200), at(200_000), &Timeouts::default()).unwrap();
    assert_eq!(late.failure.unwrap().code, "timeout_starting");
}

#[test]
fn failed_start_is_ended_on_the_node() {
    let life = starting();
    let failed = life.time_out(Duration::MAX, at(1_000_000), &Timeouts::default()).unwrap();
    assert!(failed.wanted.generation > life.wanted.generation);
    let facts = |stopping| Facts {
        has_disk: true,
        vm: Some(VmFacts { generation: life.wanted.generation, stopping }),
        given_up: None,
    };
    assert_eq!(failed.wanted.next_step(facts(false)), Step::Stop);
    assert_eq!(failed.wanted.next_step(facts(true)), Step::Rest);
}

#[test]
fn refused_creation_fails_and_its_retry_creates_the_disk_first() {
    let made = Lifecycle::created(at(0));
    let refusal = End { code: "disk_full".into(), detail: "no room".into(), ..end(1, EndCause::Refused) };
    let refused = Observed { disk: Disk::Incomplete, ..report(2, made.wanted, None, Some(refusal)) };
    let failed = made.observe(&refused, at(2)).unwrap();
    let failure = failed.failure.clone().unwrap();
    assert_eq!((failure.code.as_str(), failure.message.as_str()), ("disk_full", "no room"));
    let facts = Facts { has_disk: false, vm: None, given_up: Some(1) };
    assert_eq!(failed.wanted.next_step(facts), Step::Rest);
    let again = failed.request(Request::Retry, at(3)).unwrap();
    assert_eq!((again.status, again.wanted.next_step(facts)), (Status::Starting, Step::CreateDisk));
    assert_eq!(again.wanted.next_step(Facts { has_disk: true, ..facts }), Step::Boot);
}

#[test]
fn disk_that_is_gone_is_a_failure() {
    let absent = Observed::absent(ReportOrder { session: 2, sequence: 1 }, 0);
    let failed = running().observe(&absent, at(9)).unwrap();
    assert_eq!(failed.failure.as_ref().unwrap().code, "ended_unobserved");
    let again = failed.request(Request::Retry, at(10)).unwrap();
    assert!(again.has_disk, "an empty one must not take its place");
}

#[test]
fn deletion_that_takes_too_long_goes_on_and_can_only_be_repeated() {
    let deleting = running().request(Request::Delete, at(5)).unwrap();
    let failed = deleting.time_out(Duration::MAX, at(1_000_000), &Timeouts::default()).unwrap();
    assert_eq!(failed.allowed(), [Request::Delete]);
    assert_eq!(failed.wanted.state, Desired::Deleted);
}

#[test]
fn database_that_lags_behind_its_node_catches_up() {
    let running = running();
    let ahead = |state, sequence| {
        let target = Target { generation: running.wanted.generation + 5, state };
        running.observe(&report(sequence, target, None, None), at(9)).unwrap()
    };
    let same = ahead(Desired::Running, 20);
    assert_eq!(same.wanted, Target { generation: running.wanted.generation + 5, state: Desired::Running });
    let other = ahead(Desired::Stopped, 21);
    assert_eq!(other.wanted, Target { generation: running.wanted.generation + 6, state: Desired::Running });
    // Both went on from the backup, to the same number.
    let held = Target { state: Desired::Stopped, ..running.wanted };
    let forked = running.observe(&report(22, held, None, None), at(9)).unwrap();
    assert_eq!(forked.wanted.generation, running.wanted.generation + 1);
}
