//! Tests in a process of their own, because what they do to it stays: limits, filters of system calls, exhausted descriptors.

use std::process::Command;

/// Variable that is set in such a process.
const VARIABLE: &str = "RIGBOX_TEST_IN_OWN_PROCESS";
/// Line by which such a process tells that it has reached the test.
const REACHED: &str = "in a process of its own";

/// Returns true in a process of its own, where the test goes on. Otherwise starts that process for the test with this full name, asserts
/// that it succeeds, and returns false.
pub fn in_own_process(test: &str) -> bool {
    if std::env::var_os(VARIABLE).is_some() {
        eprintln!("{REACHED}");
        return true;
    }
    let mut inner = Command::new(std::env::current_exe().unwrap());
    inner.args(["--exact", test, "--test-threads=1", "--nocapture"]).env(VARIABLE, "1");
    let output = inner.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains(REACHED), "there is no test `{test}`");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "there is no test")]
    fn name_of_no_test_is_a_failure() {
        in_own_process("own_process::tests::no_such_test");
    }
}
