//! `cargo xtask test`: runs the tests, and sums them up in a table and one last line.

mod host;
mod machine;
mod results;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::build;
use crate::client_tools::{self, AGENTS, AI_CLIENTS, OPENAPI_TOOLS, SSH_CLIENTS, WEBSOCKET_CLIENTS};
use crate::command::{cargo, run};
use crate::paths::program;
use crate::steps::step;
use crate::{image, python_packages};
use host::KeptHost;
use results::Results;

/// Debian packages that the end-to-end tests need: a mail server, a browser, legacy iptables, and what makes system calls fail.
const TEST_PACKAGES: &[&str] = &["python3-aiosmtpd", "chromium", "chromium-driver", "iptables", "strace"];
const REMEDY: &str = "read the message above";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run formatting, lints and unit tests only.
    #[arg(long, conflicts_with_all = ["soak", "only", "fresh", "down", "filter"])]
    unit: bool,
    /// Run one end-to-end module, or the tests whose name contains NAME, on an installation that is kept for the next run.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["down", "filter"])]
    only: Option<String>,
    /// With `--only`: replace the kept installation first.
    #[arg(long, requires = "only")]
    fresh: bool,
    /// Remove the installation that `--only` has kept.
    #[arg(long, conflicts_with_all = ["soak", "filter"])]
    down: bool,
    /// Run random tests at full length.
    #[arg(long)]
    soak: bool,
    /// Run only the tests in an emulated machine with systemd: about a quarter of an hour.
    #[arg(long, conflicts_with_all = ["unit", "only", "fresh", "down", "filter"])]
    machine: bool,
    /// Run the tests in the emulated machine with VMs in this Firecracker.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["unit", "only", "fresh", "down", "filter"])]
    firecracker: Option<PathBuf>,
    /// Run only end-to-end tests whose name contains this, on a new installation.
    filter: Option<String>,
}

/// Runs the tests; fails if one failed.
pub(crate) fn test(options: &Options) -> Result<()> {
    if options.down {
        return KeptHost::new().remove();
    }
    if options.machine || options.firecracker.is_some() {
        return machine::test(options.firecracker.as_deref(), options.soak);
    }
    let end_to_end = !options.unit;
    let unit = options.only.is_none() && options.filter.is_none();
    install_packages(end_to_end)?;
    let mut results = Results::default();
    let mut failed = Vec::new();
    if unit {
        step("formatting", "cargo fmt --all", || run(cargo().args(["fmt", "--all", "--check"])))?;
    }
    let prepared = std::thread::scope(|scope| {
        // It waits for downloads and for the disk, while compilers compute.
        let prepared = end_to_end.then(|| scope.spawn(Prepared::new));
        if end_to_end {
            build::programs()?;
        }
        if unit {
            if !end_to_end {
                step("lints", REMEDY, || lint(cargo()))?;
            }
            let passed = step("unit tests", REMEDY, || unit_tests(options, &mut results))?;
            failed.extend((!passed).then_some("unit tests"));
        }
        let joined = prepared.map(|prepared| prepared.join().map_err(|_| anyhow::anyhow!("it panicked")));
        joined.transpose()?.transpose()
    })?;
    if let Some(prepared) = prepared {
        let (passed, linted) = std::thread::scope(|scope| {
            // These tests wait more than they compute.
            let lints = unit.then(|| scope.spawn(|| step("lints", REMEDY, || lint(idle_cargo()))));
            let passed = end_to_end_tests(options, &prepared, &mut results);
            let linted =
                lints.map(|lints| lints.join().map_err(|_| anyhow::anyhow!("it panicked")).flatten());
            (passed, linted.unwrap_or(Ok(())))
        });
        failed.extend((!passed?).then_some("end-to-end tests"));
        if let Err(error) = linted {
            eprintln!("{error:#}");
            failed.push("lints");
        }
    }
    if unit && end_to_end {
        println!("{}", machine::SKIPPED);
        results.add_end_to_end(machine::SKIPPED, Duration::ZERO);
    }
    print!("{results}");
    anyhow::ensure!(results.failed() == 0 && failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Needs of end-to-end tests alone: the image, and the folder of each set of foreign programs with the variable that tells it.
struct Prepared {
    image: PathBuf,
    variables: [(&'static str, PathBuf); 3],
}

impl Prepared {
    fn new() -> Result<Self> {
        let variables = [
            ("RIGBOX_SCHEMATHESIS", python_packages::SCHEMATHESIS.install()?.join("bin/schemathesis")),
            (SSH_CLIENTS.variable, SSH_CLIENTS.install()?),
            (AGENTS.variable, AGENTS.install()?),
        ];
        Ok(Self { image: image::build("base")?, variables })
    }
}

fn install_packages(end_to_end: bool) -> Result<()> {
    let clients = client_tools::packages();
    let image_packages = rigbox_image::host_packages();
    let mut packages: Vec<&[&str]> = vec![build::RUN_PACKAGES, &clients];
    if end_to_end {
        packages.extend([TEST_PACKAGES, &image_packages, python_packages::PACKAGES]);
    }
    build::install_packages(&packages)
}

/// Returns a command for the cargo that runs this program, which leaves the CPU to all others.
fn idle_cargo() -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(cargo().get_program());
    command
}

fn lint(mut cargo: Command) -> Result<()> {
    let arguments =
        ["clippy", "--release", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    run(cargo.args(arguments))
}

fn unit_tests(options: &Options, results: &mut Results) -> Result<bool> {
    let mut command = cargo();
    if options.soak {
        command.env("RIGBOX_SOAK", "1");
    }
    // The whole workspace, as it was built: a part of it would be rebuilt with other features. All of it runs even when a test fails.
    command.args(["test", "--release", "--workspace", "--no-fail-fast"]);
    command.env(WEBSOCKET_CLIENTS.variable, WEBSOCKET_CLIENTS.install()?);
    command.env(AI_CLIENTS.variable, AI_CLIENTS.install()?);
    command.env(OPENAPI_TOOLS.variable, OPENAPI_TOOLS.install()?).env_remove("RUST_BACKTRACE");
    // Cargo names the test programs on stderr.
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    watch(command, reader, |line| results.add_unit(line))
}

fn end_to_end_tests(options: &Options, prepared: &Prepared, results: &mut Results) -> Result<bool> {
    let mut command = Command::new(program("rigbox-tests"));
    command.envs(prepared.variables.iter().map(|(variable, folder)| (variable, folder)));
    // The unit tests need these as well.
    command.env(OPENAPI_TOOLS.variable, OPENAPI_TOOLS.install()?);
    command.env(AI_CLIENTS.variable, AI_CLIENTS.install()?);
    if options.soak {
        command.env("RIGBOX_SOAK", "1");
    }
    if let Some(only) = &options.only {
        let host = KeptHost::new();
        host.prepare(&prepared.image, options.fresh)?;
        command.arg(only).env("RIGBOX_TEST_HOST", host.folder());
    }
    command.args(&options.filter);
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer);
    let mut last = Instant::now();
    step("end-to-end tests", REMEDY, || {
        watch(command, reader, |line| {
            results.add_end_to_end(line, last.elapsed());
            last = Instant::now();
        })
    })
}

/// Runs a command, prints its output line by line, and returns whether it succeeded.
fn watch(mut command: Command, output: impl Read, mut each: impl FnMut(&str)) -> Result<bool> {
    let name = format!("{:?}", command.get_program());
    let mut child = command.stdin(Stdio::null()).spawn().context(name)?;
    // It holds ends of the pipe, which has no end before them.
    drop(command);
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        each(&line);
    }
    Ok(child.wait()?.success())
}
