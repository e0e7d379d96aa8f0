//! Build of the tests with coverage counters, and the list of the fuzz targets among them. The flags are those of cargo-bolero, which would
//! have to be installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::folder;
use crate::command::cargo;

/// Rust's only target here. Naming it keeps the flags off build scripts and procedural macros.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const RUSTFLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "--cfg=fuzzing_libfuzzer",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
    // Several units of a crate would each define the same counters.
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];
/// Separator of flags in cargo's variable.
const SEPARATOR: &str = "\u{1f}";
/// Module of all fuzz targets, below the modules they test.
const MODULE: &str = "fuzz::";

/// Fuzz target: a test in a program of tests.
#[derive(Debug)]
pub(super) struct Target {
    /// Name of its folder of seeds.
    pub(super) name: String,
    pub(super) package: String,
    /// Full name of the test.
    pub(super) test: String,
    pub(super) program: PathBuf,
    /// Folder of its committed seeds.
    pub(super) seeds: PathBuf,
}

/// Builds the tests of all packages that have fuzz targets, and lists those.
pub(super) fn targets() -> Result<Vec<Target>> {
    let mut command = cargo();
    command.args(["test", "--no-run", "--lib", "--release", "--target", TRIPLE, "--target-dir"]);
    command.arg(folder().join("build")).args(["--message-format", "json-render-diagnostics"]);
    for package in packages()? {
        command.args(["--package", &package]);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join(SEPARATOR)).env("BOLERO_FUZZER", "libfuzzer");
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().context("cargo test")?;
    anyhow::ensure!(output.status.success(), "the build ended with {}", output.status);
    let mut targets = Vec::new();
    for message in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(message).context("a message of cargo")?;
        if let Some(program) = message.get("executable").and_then(Value::as_str) {
            targets.extend(targets_of(Path::new(program))?);
        }
    }
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = targets.windows(2).find(|pair| matches!(pair, [a, b] if a.name == b.name)) {
        anyhow::bail!("two fuzz targets have the same name: {pair:?}");
    }
    Ok(targets)
}

/// Returns the packages of the workspace that depend on bolero.
fn packages() -> Result<Vec<String>> {
    let output = cargo().args(["metadata", "--format-version", "1", "--no-deps"]).output()?;
    anyhow::ensure!(output.status.success(), "cargo metadata ended with {}", output.status);
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata.get("packages").and_then(Value::as_array).context("cargo lists no packages")?;
    let uses_bolero = |package: &&Value| {
        let dependencies = package.get("dependencies").and_then(Value::as_array);
        dependencies.is_some_and(|all| all.iter().any(|one| text(one, "name") == "bolero"))
    };
    Ok(packages.iter().filter(uses_bolero).map(|package| text(package, "name").to_owned()).collect())
}

/// Asks a program of tests for its fuzz targets. bolero prints a line of JSON for each, and runs none.
fn targets_of(program: &Path) -> Result<Vec<Target>> {
    let output = Command::new(program)
        .args([MODULE, "--nocapture", "--test-threads", "1"])
        .env("CARGO_BOLERO_SELECT", "all")
        .output()
        .with_context(|| program.display().to_string())?;
    anyhow::ensure!(output.status.success(), "{} lists no fuzz targets", program.display());
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().filter(|line| line.starts_with(r#"{"__bolero_target""#)).map(parse).collect()
}

fn parse(line: &str) -> Result<Target> {
    let target: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let folder = PathBuf::from(text(&target, "work_dir"));
    Ok(Target {
        name: folder.file_name().context("a fuzz target has no folder")?.to_string_lossy().into_owned(),
        package: text(&target, "package_name").to_owned(),
        test: text(&target, "test_name").to_owned(),
        program: text(&target, "exe").into(),
        seeds: folder.join("corpus"),
    })
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_named_after_its_folder() {
        let target = parse(
            r#"{"__bolero_target":"v0.5.0","exe":"/t/rigbox_edge-1","work_dir":"/c/src/__fuzz__/http1_head","package_name":"rigbox-edge","is_harnessed":true,"test_name":"inbound::fuzz::http1_head"}"#,
        )
        .unwrap();
        assert_eq!((target.name.as_str(), target.package.as_str()), ("http1_head", "rigbox-edge"));
        assert_eq!(target.test, "inbound::fuzz::http1_head");
        assert_eq!(target.seeds, Path::new("/c/src/__fuzz__/http1_head/corpus"));
    }
}
