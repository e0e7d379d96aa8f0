use rigbox_proto::node::egress::Mode;
use rigbox_proto::node::{Egress, NetworkPolicy};

use super::*;

/// Record of the version before: of a VM that runs.
const EARLIER: &str = r#"{
  "workspace": "ws-aaaaaaaa",
  "generation": 7,
  "slot": 3,
  "image_version": "base-2026.11.23-1a2b3c4d",
  "disk_size_mb": 4096,
  "phase": "provisioned",
  "boot": {
    "boot_id": "9f1d2c3b-0000-4000-8000-000000000001",
    "host_boot_id": "5a6b7c8d-0000-4000-8000-000000000002",
    "process": { "pid": 4711, "start_time": 123456 },
    "about_json": "{\"id\":\"ws-aaaaaaaa\"}",
    "ready": true,
    "stopping": false
  },
  "last_end": null,
  "network": { "app_ports": [8080], "egress": { "mode": "internet" }, "limits": {} },
  "network_revision": 5
}"#;

fn parsed(text: &str) -> Record {
    Record::parse(text).unwrap().1
}

#[test]
fn record_of_the_version_before_loads_as_running() {
    let record = parsed(EARLIER);
    assert_eq!(record.target, Target { generation: 7, state: Desired::Running });
    let boot = record.boot.as_ref().unwrap();
    assert_eq!((boot.generation, boot.ready, boot.stopping), (7, true, false));
    assert_eq!(boot.process, Some(ProcessId { pid: 4711, start_time: 123_456 }));
    assert_eq!((record.slot, record.disk_size_mb, record.phase), (3, 4096, Phase::Provisioned));
    assert_eq!((record.network_revision, record.network.dial_port(8080)), (5, Some(8080)));
    assert_eq!(record.spec, None);
    assert_eq!(parsed(&serde_json::to_string(&record).unwrap()), record);
}

#[test]
fn state_of_a_record_of_the_version_before_tells_its_target() {
    let target = |from: &str, to: &str| {
        assert!(EARLIER.contains(from));
        let Target { generation, state } = parsed(&EARLIER.replace(from, to)).target;
        (generation, state)
    };
    assert_eq!(target(r#""stopping": false"#, r#""stopping": true"#), (7, Desired::Stopped));
    assert_eq!(target(r#""provisioned""#, r#""deleting""#), (7, Desired::Deleted));
    // The next target has to tell how to create the disk.
    assert_eq!(target(r#""provisioned""#, r#""provisioning""#), (0, Desired::Stopped));

    let (before, rest) = EARLIER.split_once(r#""boot": {"#).unwrap();
    let (_, after) = rest.split_once(r#""last_end": null"#).unwrap();
    let end = r#""last_end": { "boot_id": "b", "cause": 5, "detail": "oops" }"#;
    let ended = parsed(&format!(r#"{before}"boot": null, {end}{after}"#));
    assert_eq!(ended.target, Target { generation: 7, state: Desired::Stopped });
    let end = ended.last_end.unwrap();
    assert_eq!((end.generation, end.cause, end.detail.as_str()), (7, EndCause::KernelPanic, "oops"));
}

#[test]
fn older_network_policy_does_not_replace_a_later_one() {
    let mut record = Record::new(&WorkspaceId::from_random([1; 5]), 1);
    let none = Egress { mode: Mode::None.into(), ..Egress::default() };
    let none = Policy::try_from(NetworkPolicy { egress: Some(none), ..NetworkPolicy::default() }).unwrap();
    record.set_network(none.clone(), 5);
    record.set_network(Policy::default(), 4);
    assert_eq!((record.network.clone(), record.network_revision), (none, 5));
    record.set_network(Policy::default(), 5);
    assert_eq!(record.network, Policy::default(), "its limits may have changed with the configuration");
}

#[test]
fn text_for_people_is_short_and_has_no_control_characters() {
    let refusal = |detail: &str| BootEnd::refusal(1, "disk_full", detail).detail;
    assert_eq!(refusal("one\ntwo"), "one two");
    assert_eq!(refusal(&"ä".repeat(600)).len(), MAX_DETAIL_BYTES);
    assert_eq!(refusal(&format!("x{}", "ä".repeat(600))).len(), MAX_DETAIL_BYTES - 1);
}
