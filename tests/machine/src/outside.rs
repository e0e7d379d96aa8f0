//! The half on the host: prepares disks, boots the machine, and prints results as test programs do.

mod disks;
mod emulator;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::events::Event;
use crate::inside;
use disks::Disks;
use emulator::Emulator;
use report::Report;

/// Limit for everything that runs in the machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// Limit for a run at full length.
const SOAK_TIMEOUT: Duration = Duration::from_secs(3 * 3600);
/// Time without a sign of life after which the machine hangs. A boot on a busy host takes a minute.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(180);
/// A boot under emulation hangs now and then, for reasons of the emulator.
const BOOT_ATTEMPTS: u32 = 2;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder with the programs of Rigbox.
    #[arg(long)]
    programs: PathBuf,
    /// Image of the machine.
    #[arg(long)]
    machine: PathBuf,
    /// Image of workspaces.
    #[arg(long)]
    image: PathBuf,
    /// Firecracker, for VMs that run in it instead of in QEMU.
    #[arg(long)]
    firecracker: Option<PathBuf>,
    /// Perform random operations at full length.
    #[arg(long)]
    soak: bool,
    /// Folder for what the machine prints.
    #[arg(long)]
    log: PathBuf,
}

/// Runs the tests. Returns whether all passed.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let scratch = tempfile::tempdir()?;
    let Arguments { programs, machine, image, firecracker, soak, .. } = arguments;
    let disks = Disks::create(programs, machine, image, firecracker.as_deref(), *soak, scratch.path())?;
    let timeout = if *soak { SOAK_TIMEOUT } else { RUN_TIMEOUT };
    std::fs::create_dir_all(&arguments.log)?;
    let console = arguments.log.join("console.log");
    let driver = if firecracker.is_some() { "firecracker" } else { "qemu" };
    let mut report = Report::begin(driver, inside::test_names());
    for attempt in 1..=BOOT_ATTEMPTS {
        let emulator = Emulator::start(&disks, &console).context("start the emulator")?;
        match watch(emulator, timeout, &mut report) {
            Watched::Ended => break,
            Watched::HungAtBoot if attempt < BOOT_ATTEMPTS => {
                eprintln!("the machine hung at its boot: trying again")
            }
            Watched::HungAtBoot => report.give_up("the machine hung at its boot"),
            Watched::Failed(why) => {
                report.give_up(&why);
                break;
            }
        }
    }
    let passed = report.end();
    if !passed {
        println!("The machine's console is in {}.", console.display());
    }
    Ok(passed)
}

/// End of one run of the machine.
enum Watched {
    Ended,
    HungAtBoot,
    Failed(String),
}

/// Reports events until the last one, or until there are none any more.
fn watch(mut emulator: Emulator, timeout: Duration, report: &mut Report) -> Watched {
    let deadline = Instant::now() + timeout;
    let mut is_up = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Watched::Failed(format!("not within {} minutes", timeout.as_secs() / 60));
        }
        match emulator.next_event(left.min(SILENCE_TIMEOUT)) {
            Ok(Some(Event::End)) => return Watched::Ended,
            Ok(Some(event)) => report.add(&event),
            Ok(None) if left < SILENCE_TIMEOUT => {}
            Ok(None) if !is_up => return Watched::HungAtBoot,
            Ok(None) => {
                return Watched::Failed(format!(
                    "the machine showed no sign of life for {} s",
                    SILENCE_TIMEOUT.as_secs()
                ));
            }
            Err(error) => return Watched::Failed(format!("{error:#}")),
        }
        is_up = true;
    }
}
