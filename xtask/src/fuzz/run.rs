//! Run of one fuzz target, and what libFuzzer tells of it at the end.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::build::Target;
use super::{files, folder};

/// Time after which one input counts as a finding: what is parsed takes microseconds.
const INPUT_TIMEOUT_S: u32 = 10;
/// Memory beyond which a run counts as a finding.
const MAX_MEMORY_MB: u32 = 2048;

/// Result of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    name: String,
    package: String,
    test: String,
    seeds: PathBuf,
    statistics: Statistics,
    corpus: usize,
    /// Inputs that failed, those of earlier runs included.
    pub(super) findings: Vec<PathBuf>,
}

/// Numbers that libFuzzer prints.
#[derive(Debug, Default, PartialEq)]
struct Statistics {
    executions: u64,
    edges: u64,
    features: u64,
}

/// Runs a target for `duration`. Its corpus grows with each run, from the committed seeds on.
pub(super) fn run(target: &Target, duration: Duration) -> Result<Outcome> {
    let (corpus, findings) =
        (folder().join("corpus").join(&target.name), folder().join("findings").join(&target.name));
    for folder in [&corpus, &findings] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    for seed in files(&target.seeds)? {
        let name = seed.file_name().context("a seed has no name")?;
        fs::copy(&seed, corpus.join(name)).with_context(|| seed.display().to_string())?;
    }
    let log = folder().join("logs").join(format!("{}.log", target.name));
    fs::create_dir_all(folder().join("logs"))?;
    let output = File::create(&log).with_context(|| log.display().to_string())?;
    // Relative paths, because bolero splits the arguments at spaces.
    let arguments = format!(
        "corpus/{name} -artifact_prefix=findings/{name}/ -max_total_time={} -timeout={INPUT_TIMEOUT_S} \
         -rss_limit_mb={MAX_MEMORY_MB} -print_final_stats=1 -reload=0",
        duration.as_secs().max(1),
        name = target.name,
    );
    let status = Command::new(&target.program)
        .args([&target.test, "--exact", "--nocapture", "--quiet", "--test-threads", "1"])
        .env("BOLERO_TEST_NAME", &target.test)
        .env("BOLERO_LIBTEST_HARNESS", "1")
        .env("BOLERO_LIBFUZZER_ARGS", arguments)
        .current_dir(folder())
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| target.program.display().to_string())?;
    let findings = files(&findings)?;
    // An end without a finding is libFuzzer's own failure.
    anyhow::ensure!(
        status.success() || !findings.is_empty(),
        "libFuzzer ended with {status}; read {}",
        log.display()
    );
    let text = fs::read(&log).with_context(|| log.display().to_string())?;
    Ok(Outcome {
        name: target.name.clone(),
        package: target.package.clone(),
        test: target.test.clone(),
        seeds: target.seeds.clone(),
        statistics: statistics(&String::from_utf8_lossy(&text)),
        corpus: files(&corpus)?.len(),
        findings,
    })
}

/// Reads lines such as `#8192 DONE cov: 120 ft: 300 corp: 40/2Kb lim: 4096 exec/s: 4096 rss: 60Mb`.
fn statistics(log: &str) -> Statistics {
    let mut statistics = Statistics::default();
    for line in log.lines().filter(|line| line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let executions = words.next().and_then(|word| word.trim_start_matches('#').parse().ok());
        statistics.executions = executions.unwrap_or(statistics.executions);
        while let Some(word) = words.next() {
            let number = match word {
                "cov:" => &mut statistics.edges,
                "ft:" => &mut statistics.features,
                _ => continue,
            };
            *number = words.next().and_then(|word| word.parse().ok()).unwrap_or(*number);
        }
    }
    statistics
}

/// Returns the table of all runs.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let width = outcomes.iter().map(|outcome| outcome.name.len()).max().unwrap_or_default().max(6);
    let mut table = format!(
        "\n{:width$} {:>12} {:>7} {:>9} {:>7} {:>8}\n",
        "target", "executions", "edges", "features", "corpus", "findings"
    );
    for Outcome { name, statistics, corpus, findings, .. } in outcomes {
        let Statistics { executions, edges, features } = statistics;
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "{name:width$} {executions:>12} {edges:>7} {features:>9} {corpus:>7} {:>8}",
            findings.len()
        );
    }
    table
}

impl Outcome {
    /// Returns what to do with the findings.
    pub(super) fn remedy(&self) -> String {
        let Self { name, package, test, seeds, findings, .. } = self;
        let mut text = format!(
            "\n{name} failed; target/fuzz/logs/{name}.log says how. To reproduce it and to keep it as a seed:\n"
        );
        let _ = writeln!(text, "    mkdir -p {}", seeds.display());
        for finding in findings {
            let _ = writeln!(text, "    mv {} {}/", finding.display(), seeds.display());
        }
        let _ = writeln!(text, "    cargo test --release -p {package} {test}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_numbers_of_the_log_count() {
        let log = "INFO: seed corpus\n#2\tINITED cov: 7 ft: 8 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                   #4096\tNEW    cov: 90 ft: 200 corp: 20/1Kb lim: 43 exec/s: 4096 rss: 31Mb\n\
                   #8192\tDONE   cov: 91 ft: 201 corp: 21/1Kb lim: 80 exec/s: 4096 rss: 31Mb\nDone 8192 runs\n";
        assert_eq!(statistics(log), Statistics { executions: 8192, edges: 91, features: 201 });
        assert_eq!(statistics("panicked"), Statistics::default());
    }
}
