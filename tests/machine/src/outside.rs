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
use emulator::{Emulator, Heard};
use report::Report;

/// Limit for everything that runs in the machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// Limit for a run at full length.
const SOAK_TIMEOUT: Duration = Duration::from_secs(3 * 3600);
/// Time without a sign of life after which the machine hangs. A boot on a busy host takes a minute.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(180);
/// A boot under emulation hangs now and then, for reasons of the emulator.
const MAX_HANGS: u32 = 1;
/// Resets of the machine: the tests ask for one, and its kernel may panic.
const MAX_RESETS: u32 = 3;

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
    std::fs::write(&console, "")?;
    let driver = if firecracker.is_some() { "firecracker" } else { "qemu" };
    let mut report = Report::begin(driver, inside::test_names());
    let (deadline, mut resets, mut hangs) = (Instant::now() + timeout, 0, 0);
    loop {
        let emulator = Emulator::start(&disks, &console).context("start the emulator")?;
        match watch(emulator, deadline, &mut report) {
            Watched::Ended => break,
            // The tests go on where they were.
            Watched::Reset if resets < MAX_RESETS => resets += 1,
            Watched::Reset => {
                report.give_up("the machine reset itself again and again");
                break;
            }
            Watched::HungAtBoot if hangs < MAX_HANGS => {
                hangs += 1;
                eprintln!("the machine hung at its boot: trying again");
            }
            Watched::HungAtBoot => {
                report.give_up("the machine hung at its boot");
                break;
            }
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
    Reset,
    HungAtBoot,
    Failed(String),
}

/// Reports events until the last one, or until there are none any more.
fn watch(mut emulator: Emulator, deadline: Instant, report: &mut Report) -> Watched {
    let mut is_up = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Watched::Failed("it took too long".to_owned());
        }
        match emulator.next_event(left.min(SILENCE_TIMEOUT)) {
            Ok(Heard::Event(Event::End)) => return Watched::Ended,
            Ok(Heard::Event(event)) => report.add(&event),
            Ok(Heard::Reset) => return Watched::Reset,
            Ok(Heard::Nothing) if left < SILENCE_TIMEOUT => {}
            Ok(Heard::Nothing) if !is_up => return Watched::HungAtBoot,
            Ok(Heard::Nothing) => {
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
