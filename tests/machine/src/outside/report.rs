//! Results, printed as test programs do, so that they can be summed up with those of others.

use std::time::Instant;

use crate::events::Event;

/// Module of these tests in the summary.
const MODULE: &str = "machine";

pub(super) struct Report {
    /// Monitor that VMs run in.
    driver: &'static str,
    missing: Vec<&'static str>,
    passed: u32,
    /// Names of tests, and why they failed.
    failures: Vec<(String, String)>,
    started: Instant,
    /// Time of the last result.
    last: Instant,
}

impl Report {
    /// Begins a report about tests of these names, with VMs in `driver`.
    pub(super) fn begin(driver: &'static str, tests: Vec<&'static str>) -> Self {
        println!("\nrunning {} tests", tests.len());
        let now = Instant::now();
        Self { driver, missing: tests, passed: 0, failures: Vec::new(), started: now, last: now }
    }

    pub(super) fn add(&mut self, event: &Event) {
        match event {
            Event::Note(text) => println!("    {text}"),
            Event::Test { name, failure } => self.add_test(name, failure.as_deref()),
            Event::Alive | Event::End => {}
        }
    }

    fn add_test(&mut self, name: &str, failure: Option<&str>) {
        self.missing.retain(|missing| *missing != name);
        let outcome = if failure.is_none() { "ok" } else { "FAILED" };
        println!(
            "test {MODULE}::{}::{name} ... {outcome} ({} s)",
            self.driver,
            self.last.elapsed().as_secs()
        );
        self.last = Instant::now();
        match failure {
            None => self.passed += 1,
            Some(why) => {
                // The whole of it follows at the end, which may be far away.
                println!("    {}", why.lines().next().unwrap_or_default());
                self.failures.push((name.to_owned(), why.to_owned()));
            }
        }
    }

    /// Fails all tests that have not ended.
    pub(super) fn give_up(&mut self, why: &str) {
        for name in std::mem::take(&mut self.missing) {
            self.add_test(name, Some(why));
        }
    }

    /// Prints the failures and the summary. Returns whether all tests passed.
    pub(super) fn end(mut self) -> bool {
        self.give_up("it did not run, because one before it failed");
        for (name, why) in &self.failures {
            println!("\n---- {MODULE}::{name} ----\n{why}");
        }
        let (passed, failed) = (self.passed, self.failures.len());
        let verdict = if failed == 0 { "ok" } else { "FAILED" };
        let seconds = self.started.elapsed().as_secs();
        println!(
            "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; finished in {seconds}s"
        );
        failed == 0
    }
}
