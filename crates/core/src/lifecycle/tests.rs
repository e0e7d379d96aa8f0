//! Tests of the lifecycle: the allowed transitions, and that every request and report keeps to them.

use proptest::prelude::*;

use super::*;

const TRANSITIONS: &[(Status, Status)] = {
    use Status::*;
    &[
        (Provisioning, Provisioned),
        (Provisioning, Deleting),
        (Provisioned, Starting),
        (Starting, Running),
        (Starting, Stopping),
        // The workspace ran in between, but its report was overtaken: starting -> running -> stopped.
        (Starting, Stopped),
        (Running, Stopping),
        (Running, Stopped),
        (Running, Starting),
        (Running, Failed),
        (Stopping, Stopped),
        (Stopped, Starting),
        (Failed, Starting),
        (Provisioned, Deleting),
        (Running, Deleting),
        (Stopped, Deleting),
        (Failed, Deleting),
        (Provisioning, Failed),
        (Starting, Failed),
        (Stopping, Failed),
        (Deleting, Failed),
    ]
};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

fn running() -> Lifecycle {
    let life = Lifecycle::created(at(0)).disk_created(at(1)).request(Request::Start, at(2)).unwrap();
    let generation = life.generation;
    life.boot_started("b1")
        .observe(
            &Report {
                generation,
                observed: ObservedState::Running {
                    boot: "b1".into(),
                    agent_lost: false,
                    system: SystemState::Starting,
                },
            },
            at(3),
        )
        .unwrap()
}

fn ended(life: &Lifecycle, cause: EndCause) -> Lifecycle {
    let end = End { boot: "b1".into(), cause, detail: String::new() };
    let report =
        Report { generation: life.generation, observed: ObservedState::Resting { ended: Some(end) } };
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
    ] {
        let before = running();
        let after = ended(&before, cause);
        assert_eq!(after.status, status, "{cause:?}");
        assert_eq!(after.failure.as_ref().map(|f| f.code.as_str()), code, "{cause:?}");
        let wanted = if status == Status::Starting { Desired::Running } else { Desired::Stopped };
        assert_eq!(after.desired, wanted, "{cause:?}");
        if status == Status::Starting {
            assert!(after.generation > before.generation, "a new boot is a new generation");
            assert_eq!(after.next_step(None), Step::Start);
        }
    }
}

#[test]
fn resting_report_from_before_a_start_is_ignored() {
    let stopped = ended(&running(), EndCause::Poweroff);
    let starting = stopped.request(Request::Start, at(20)).unwrap();
    let old = End { boot: "b1".into(), cause: EndCause::Poweroff, detail: String::new() };
    for generation in [starting.generation - 1, starting.generation] {
        let report = Report { generation, observed: ObservedState::Resting { ended: Some(old.clone()) } };
        assert_eq!(starting.observe(&report, at(21)), None);
    }
}

#[test]
fn cancelled_creation_is_deleted_and_a_cancelled_start_is_stopped() {
    let made = Lifecycle::created(at(0));
    assert_eq!(made.request(Request::Cancel, at(1)).unwrap().status, Status::Deleting);
    let starting = made.disk_created(at(1)).request(Request::Start, at(2)).unwrap();
    assert_eq!(starting.request(Request::Cancel, at(3)).unwrap().status, Status::Stopping);
}

#[test]
fn illegal_request_names_the_state_and_allowed_actions() {
    let error = running().request(Request::Start, at(5)).unwrap_err().to_string();
    assert!(error.contains("`running`") && error.contains("stop or delete"), "{error}");
}

#[test]
fn guest_that_reboots_before_running_times_out() {
    let mut life = Lifecycle::created(at(0)).disk_created(at(0)).request(Request::Start, at(0)).unwrap();
    for i in 0..20 {
        let end = End { boot: format!("b{i}"), cause: EndCause::Reboot, detail: String::new() };
        let report =
            Report { generation: life.generation, observed: ObservedState::Resting { ended: Some(end) } };
        life = life.observe(&report, at(i * 10_000)).unwrap();
    }
    let late = life.time_out(Duration::from_secs(200), at(200_000), &Timeouts::default()).unwrap();
    assert_eq!(late.failure.unwrap().code, "timeout_starting");
}

#[test]
fn failed_workspace_that_still_runs_is_stopped() {
    let life = Lifecycle::created(at(0)).disk_created(at(0)).request(Request::Start, at(0)).unwrap();
    let failed = life.time_out(Duration::MAX, at(1_000_000), &Timeouts::default()).unwrap();
    assert!(failed.generation > life.generation);
    assert_eq!(failed.next_step(Some(&ObservedState::Booting { boot: "b".into() })), Step::Stop);
}

#[test]
fn retry_after_a_failed_creation_creates_the_disk_first() {
    let failed = Lifecycle::created(at(0)).step_failed("disk_full", "no room", at(1));
    let again = failed.request(Request::Retry, at(2)).unwrap();
    assert_eq!((again.status, again.next_step(None)), (Status::Starting, Step::Provision));
    assert_eq!(again.disk_created(at(3)).next_step(None), Step::Start);
}

#[test]
fn half_deleted_workspace_can_only_be_deleted() {
    let deleting = running().request(Request::Delete, at(5)).unwrap();
    let failed = deleting.time_out(Duration::MAX, at(1_000_000), &Timeouts::default()).unwrap();
    assert_eq!(failed.allowed(), [Request::Delete]);
}

#[derive(Debug, Clone)]
enum Event {
    Ask(Request),
    DiskCreated,
    BootStarted(u8),
    StepFailed,
    TimeOut,
    Report(Report),
}

fn boots() -> impl Strategy<Value = String> {
    (0u8..4).prop_map(|n| format!("b{n}"))
}

fn observed_state() -> impl Strategy<Value = ObservedState> {
    let cause = prop::sample::select(vec![
        EndCause::Requested,
        EndCause::Poweroff,
        EndCause::Reboot,
        EndCause::Halt,
        EndCause::KernelPanic,
        EndCause::VmmDied,
        EndCause::AgentNeverAnswered,
        EndCause::Unobserved,
        EndCause::HostWentDown,
        EndCause::StartFailed,
    ]);
    let end = (boots(), cause).prop_map(|(boot, cause)| End { boot, cause, detail: String::new() });
    prop_oneof![
        prop::option::of(end).prop_map(|ended| ObservedState::Resting { ended }),
        boots().prop_map(|boot| ObservedState::Booting { boot }),
        (boots(), any::<bool>(), systems()).prop_map(|(boot, agent_lost, system)| ObservedState::Running {
            boot,
            agent_lost,
            system
        }),
        Just(ObservedState::Stopping),
        Just(ObservedState::Absent),
    ]
}

fn systems() -> impl Strategy<Value = SystemState> {
    prop::sample::select(vec![SystemState::Starting, SystemState::Running, SystemState::Degraded])
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        prop::sample::select(vec![
            Request::Start,
            Request::Stop,
            Request::Cancel,
            Request::Retry,
            Request::Delete
        ])
        .prop_map(Event::Ask),
        Just(Event::DiskCreated),
        (0u8..4).prop_map(Event::BootStarted),
        Just(Event::StepFailed),
        Just(Event::TimeOut),
        (0u64..12, observed_state())
            .prop_map(|(generation, observed)| Event::Report(Report { generation, observed })),
    ]
}

fn apply(life: &Lifecycle, event: &Event, now: Timestamp) -> Lifecycle {
    match event {
        Event::Ask(request) => life.request(*request, now).unwrap_or_else(|_| life.clone()),
        Event::DiskCreated => life.disk_created(now),
        Event::BootStarted(n) => life.boot_started(&format!("b{n}")),
        Event::StepFailed => life.step_failed("broken", "it broke", now),
        Event::TimeOut => {
            life.time_out(Duration::MAX, now, &Timeouts::default()).unwrap_or_else(|| life.clone())
        }
        Event::Report(report) => life.observe(report, now).unwrap_or_else(|| life.clone()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_history_makes_an_illegal_transition(history in prop::collection::vec(events(), 1..40)) {
        let mut life = Lifecycle::created(at(0));
        for (i, event) in history.iter().enumerate() {
            let next = apply(&life, event, at(i as i64));
            prop_assert!(
                next.status == life.status || TRANSITIONS.contains(&(life.status, next.status)),
                "{} -> {} by {event:?}", life.status, next.status
            );
            prop_assert!(next.generation >= life.generation);
            prop_assert_eq!(next.failure.is_some(), next.status == Status::Failed);
            prop_assert_eq!(next.desired == Desired::Deleted, next.status == Status::Deleting);
            prop_assert!(!next.agent_lost || next.status == Status::Running);
            prop_assert!(next.system == SystemState::Starting || next.status == Status::Running);
            life = next;
        }
    }

    #[test]
    fn transient_states_time_out_and_resting_states_can_be_deleted(
        history in prop::collection::vec(events(), 0..40),
    ) {
        let life = history
            .iter()
            .fold(Lifecycle::created(at(0)), |life, event| apply(&life, event, at(1)));
        let late = life.time_out(Duration::MAX, at(i64::MAX), &Timeouts::default());
        prop_assert_eq!(late.is_some(), life.status.is_transient());
        if let Some(late) = late {
            prop_assert_eq!(late.status, Status::Failed);
            prop_assert!(late.generation > life.generation);
        } else {
            prop_assert!(life.allowed().contains(&Request::Delete));
        }
    }
}
