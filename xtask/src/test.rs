//! `cargo xtask test`: every test there is, and one line that adds them up.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::build::{self, cargo, run};
use crate::place::program;
use crate::steps::step;
use crate::{image, schemathesis, websocket_clients};

/// What the tests need of Debian: a mail server, a browser, and the iptables that came before nftables.
const TEST_PACKAGES: &[&str] = &["python3-aiosmtpd", "chromium", "chromium-driver", "iptables"];

/// What tests said.
#[derive(Default, Clone, Copy)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Of `skipped`, those that their suite will call passed.
    called_passed: u64,
}

impl Counts {
    /// Adds a line such as `test result: ok. 5 passed; 0 failed; 0 ignored; ...`, or `skipped: why`, which a test says of itself. That may
    /// come after the test's name.
    fn add(&mut self, line: &str) {
        if line.rsplit("... ").next().is_some_and(|said| said.starts_with("skipped: ")) {
            self.skipped += 1;
            self.called_passed += 1;
            return;
        }
        let Some(result) = line.trim().strip_prefix("test result: ") else { return };
        let words: Vec<&str> = result.split_whitespace().collect();
        for pair in words.windows(2) {
            let [number, what] = pair else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what.trim_end_matches([';', '.']) {
                "passed" => self.passed += number - std::mem::take(&mut self.called_passed).min(number),
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Runs all tests; fails when one failed.
pub(crate) fn test(soak: bool, filter: Option<&str>) -> Result<()> {
    let clients = websocket_clients::packages();
    let packages =
        [build::RUN_PACKAGES, TEST_PACKAGES, rigbox_image::HOST_PACKAGES, schemathesis::PACKAGES, &clients];
    build::install_packages(&packages)?;
    let remedy = "read the message above";
    if filter.is_none() {
        step("formatting", "cargo fmt", || run(cargo().args(["fmt", "--all", "--check"])))?;
    }
    build::everything()?;
    let mut counts = Counts::default();
    let mut broken = Vec::new();
    if filter.is_none() {
        step("lints", remedy, || {
            run(cargo().args([
                "clippy",
                "--release",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]))
        })?;
        // `--no-fail-fast`: the sum is of all tests.
        let mut units = cargo();
        // The whole workspace, as it was built: a part of it would be built anew with other features. (The end-to-end suite has no
        // unit tests, see its Cargo.toml.)
        units.args(["test", "--release", "--workspace", "--no-fail-fast"]);
        units.env("RIGBOX_WEBSOCKET_CLIENTS", websocket_clients::install()?);
        let ended = step("unit tests", remedy, || watch(units.env_remove("RUST_BACKTRACE"), &mut counts))?;
        broken.extend((!ended).then_some("unit tests"));
    }
    image::build("base")?;
    let schemathesis = schemathesis::install()?;
    let mut suite = Command::new(program("rigbox-tests"));
    suite.args(filter).env("RIGBOX_SCHEMATHESIS", schemathesis);
    if soak {
        suite.env("RIGBOX_SOAK", "1");
    }
    let ended = step("end-to-end tests", remedy, || watch(&mut suite, &mut counts))?;
    broken.extend((!ended).then_some("end-to-end tests"));

    let Counts { passed, failed, skipped, .. } = counts;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    anyhow::ensure!(failed == 0 && broken.is_empty(), "failed: {}", broken.join(", "));
    Ok(())
}

/// Runs a test program, shows its output and counts; returns whether it ended well.
fn watch(command: &mut Command, counts: &mut Counts) -> Result<bool> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("{:?}", command.get_program()))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            counts.add(&line);
        }
    }
    Ok(child.wait()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut counts = Counts::default();
        counts.add(
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.1s",
        );
        counts.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured");
        counts.add("a line about 7 passed; things");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (8, 2, 1));
        counts.add("skipped: no such program");
        counts.add("test a::b ... skipped: no such program");
        counts.add("test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (11, 2, 3));
    }
}
