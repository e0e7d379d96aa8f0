//! Results of test programs, read from their output: counts and durations per module.

use std::fmt;
use std::time::Duration;

/// Counts and durations of everything that ran.
#[derive(Debug, Default)]
pub(super) struct Results {
    modules: Vec<Module>,
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Tests that printed `skipped: why`, and that the summary of their program will count as passed.
    skipped_as_passed: u64,
}

/// A crate's unit tests, or a module of end-to-end tests.
#[derive(Debug)]
struct Module {
    name: String,
    duration: Duration,
}

impl Results {
    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    /// Adds a line that `cargo test` printed. A crate's first program is that of its `src`, and its other ones follow.
    pub(super) fn add_unit(&mut self, line: &str) {
        self.count(line);
        let line = line.trim();
        if let Some(running) = line.strip_prefix("Running unittests ") {
            let program = running.rsplit(['/', '(']).next().unwrap_or_default();
            let name = program.rsplit_once('-').map_or(program, |(name, _)| name).replace('_', "-");
            self.modules.push(Module { name, duration: Duration::ZERO });
        } else if let Some((_, seconds)) = line.rsplit_once("finished in ")
            && let Ok(seconds) = seconds.trim_end_matches('s').parse()
            && let Some(module) = self.modules.last_mut()
        {
            module.duration += Duration::from_secs_f64(seconds);
        }
    }

    /// Adds a line that the end-to-end suite printed, such as `test module::name ... ok`, `took` after the line before.
    pub(super) fn add_end_to_end(&mut self, line: &str, took: Duration) {
        self.count(line);
        let name = if line.starts_with("running ") {
            "(start)"
        } else if let Some(test) = line.strip_prefix("test ").and_then(|test| test.split("::").next())
            && !test.starts_with("result")
        {
            test
        } else {
            return;
        };
        match self.modules.iter_mut().find(|module| module.name.strip_prefix(END_TO_END) == Some(name)) {
            Some(module) => module.duration += took,
            None => self.modules.push(Module { name: format!("{END_TO_END}{name}"), duration: took }),
        }
    }

    /// Counts `test result: ok. 5 passed; 0 failed; 0 ignored; ...` and `skipped: why`, which may follow the test's name.
    fn count(&mut self, line: &str) {
        if line.rsplit("... ").next().is_some_and(|output| output.starts_with("skipped: ")) {
            self.skipped += 1;
            self.skipped_as_passed += 1;
            return;
        }
        let Some(result) = line.trim().strip_prefix("test result: ") else { return };
        let words: Vec<&str> = result.split_whitespace().collect();
        for pair in words.windows(2) {
            let [number, outcome] = pair else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match outcome.trim_end_matches([';', '.']) {
                "passed" => self.passed += number - std::mem::take(&mut self.skipped_as_passed).min(number),
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

const END_TO_END: &str = "end-to-end ";

/// The table of modules that took time, and the last line.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "minutes  module")?;
        for Module { name, duration } in &self.modules {
            let minutes = duration.as_secs_f64() / 60.0;
            // Less would be shown as 0.
            if minutes >= 0.005 {
                writeln!(f, "{minutes:7.2}  {name}")?;
            }
        }
        let Self { passed, failed, skipped, .. } = self;
        writeln!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut results = Results::default();
        let counts = |results: &Results| (results.passed, results.failed, results.skipped);
        results.add_unit(
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.1s",
        );
        results.add_unit("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured");
        results.add_unit("a line about 7 passed; things");
        assert_eq!(counts(&results), (8, 2, 1));
        results.add_unit("skipped: no such program");
        results.add_unit("test a::b ... skipped: no such program");
        results.add_unit("test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured");
        assert_eq!(counts(&results), (11, 2, 3));
    }

    #[test]
    fn durations_are_added_per_crate_and_module() {
        let mut results = Results::default();
        for line in [
            "     Running unittests src/lib.rs (target/release/deps/rigbox_core-0123456789abcdef)",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 30.00s",
            "     Running tests/api.rs (target/release/deps/api-0123456789abcdef)",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 6.00s",
            "     Running unittests src/main.rs (target/release/deps/rig-0123456789abcdef)",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ] {
            results.add_unit(line);
        }
        let second = Duration::from_secs(1);
        for (line, took) in [
            ("", second),
            ("running 3 tests", 3 * second),
            ("test apps::a_promise          ... ok", 12 * second),
            ("test apps::another_promise    ... ok", 12 * second),
            ("test secrets::a_third_promise ... FAILED", 6 * second),
            ("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured", second),
        ] {
            results.add_end_to_end(line, took);
        }
        assert_eq!(
            results.to_string(),
            "minutes  module\n   0.60  rigbox-core\n   0.05  end-to-end (start)\n   0.40  end-to-end apps\n   \
             0.10  end-to-end secrets\n9 passed, 1 failed, 0 skipped\n"
        );
    }
}
