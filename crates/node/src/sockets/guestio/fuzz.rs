//! Fuzz target of guestio's reports: the role that talks to guests may have been taken over by one.

use super::*;

/// Texts of a report that leave the node.
fn texts(report: &Report) -> Vec<&str> {
    match &report.report {
        Some(report::Report::AgentLost(lost)) => vec![&lost.reason],
        Some(report::Report::GuestEnded(ended)) => vec![&ended.detail],
        _ => vec![],
    }
}

#[test]
fn guestio_report() {
    bolero::check!(name = "guestio_report").for_each(|bytes: &[u8]| {
        let Ok(report) = Report::decode(bytes) else { return };
        let passed = shortened(report.clone());
        for text in texts(&passed) {
            assert!(text.chars().count() <= MAX_REPORT_TEXT_CHARS && !text.contains(char::is_control));
        }
        assert_eq!(passed.boot_id, report.boot_id);
        assert_eq!(shortened(passed.clone()), passed);
    });
}
