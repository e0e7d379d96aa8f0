//! Metrics of Firecracker: a line of JSON a minute, and one at its end, with its counters since the one before. Those of failures are told, among
//! them what the VMM's filter of system calls has refused, and what a guest does to its devices that no driver would do.

use serde_json::{Map, Value};

/// Size of a line.
pub(super) const MAX_LINE_BYTES: usize = 64 * 1024;
/// Failures of one line that are told.
const MAX_FAILURES: usize = 16;
/// Groups that are the sums of others, one for each device.
const SUMS: [&str; 2] = ["block", "net"];
/// End of the names of most counters of failures.
const FAILS: &str = "_fails";
/// Other counters of failures.
const FAILURES: [&str; 10] = [
    "failures",
    "invalid_reqs_count",
    "num_faults",
    "panic_count",
    "sigbus",
    "sigill",
    "sigsegv",
    "tx_errors",
    "tx_malformed_frames",
    "tx_spoofed_mac_count",
];

/// Returns the failures that a line counts, as text, or none. A line that is none of Firecracker's has none.
pub(super) fn failures(line: &str) -> Option<String> {
    let groups: Map<String, Value> = serde_json::from_str(line).ok()?;
    let counters = groups.iter().filter(|(group, _)| !SUMS.contains(&group.as_str()));
    let counters = counters.flat_map(|(group, counters)| {
        let counters = counters.as_object().into_iter().flatten();
        counters.filter_map(move |(name, count)| Some((group, name, count.as_u64()?)))
    });
    let failed = counters
        .filter(|(_, name, count)| *count > 0 && (name.ends_with(FAILS) || FAILURES.contains(&name.as_str())))
        .map(|(group, name, count)| format!("{group}.{name}={count}"))
        .take(MAX_FAILURES);
    let failed = failed.collect::<Vec<_>>().join(" ");
    (!failed.is_empty()).then_some(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_found_and_bounded() {
        let line = r#"{"utc_timestamp_ms": 1, "block": {"event_fails": 2}, "block_disk": {"event_fails": 2, "read_count": 5},
            "seccomp": {"num_faults": 1}, "vcpu": {"failures": 0}, "signals": {"sigbus": -1}, "other": ["x_fails"]}"#;
        assert_eq!(failures(line).unwrap(), "block_disk.event_fails=2 seccomp.num_faults=1");
        for quiet in [r#"{"vcpu": {"failures": 0}}"#, "", "[]", "{", "{\"a\": 1}", "\u{fffd}"] {
            assert_eq!(failures(quiet), None, "{quiet}");
        }
        let many: Map<String, Value> = (0..100).map(|n| (format!("{n}_fails"), 1.into())).collect();
        let line = serde_json::json!({"a": many}).to_string();
        assert_eq!(failures(&line).unwrap().split(' ').count(), MAX_FAILURES);
    }
}
