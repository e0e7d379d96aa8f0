//! Guests that stand still, are suspended, and go on.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rigbox_proto::node::Desired;
use rigbox_testkit::blocking::eventually;

use crate::control::{Control, GRACE, SETTLE_TIMEOUT};

/// Time for which a guest stands still.
const PAUSE: Duration = Duration::from_secs(5);
/// Difference between the guest's clock and the host's that is left after the agent has set it, and a command was run.
const CLOCK_TOLERANCE_S: u64 = 3;
/// Word that is in the guest's memory and nowhere else.
const CANARY: &str = "canary-in-the-memory-of-a-guest";

/// Traces of a boot that another one would not have.
#[derive(Debug, PartialEq, Eq)]
struct Witness {
    boot_id: String,
    process: String,
    memory: String,
}

/// Starts a process that counts, and writes a word to the guest's memory.
fn begin_to_count(control: &mut Control) -> Result<()> {
    let count = "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/new; mv /dev/shm/new /dev/shm/count; sleep 0.1; done";
    control.exec(&format!(
        "printf %s canary-in-the-memory > /dev/shm/word; printf %s -of-a-guest >> /dev/shm/word; \
         setsid sh -c '{count}' > /dev/null 2>&1 < /dev/null & echo $! > /dev/shm/pid; \
         until [ -e /dev/shm/count ]; do sleep 0.1; done"
    ))?;
    Ok(())
}

fn witness(control: &mut Control) -> Result<Witness> {
    let mut read = |command: &str| control.exec(command);
    Ok(Witness {
        boot_id: read("cat /proc/sys/kernel/random/boot_id")?,
        process: read("kill -0 $(cat /dev/shm/pid) && cat /dev/shm/pid")?,
        memory: read("cat /dev/shm/word")?,
    })
}

fn count(control: &mut Control) -> Result<u64> {
    Ok(control.exec("cat /dev/shm/count")?.parse()?)
}

/// Checks that the counting process goes on.
fn check_counting(control: &mut Control) -> Result<()> {
    let before = count(control)?;
    eventually("it counts", SETTLE_TIMEOUT, || Ok((count(control)? > before).then_some(())))
}

/// Checks that the guest has the host's time.
fn check_clock(control: &mut Control) -> Result<()> {
    let guest: u64 = control.exec("date +%s")?.parse()?;
    let host = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    ensure!(host.abs_diff(guest) <= CLOCK_TOLERANCE_S, "the guest has {guest}, the host {host}");
    Ok(())
}

fn image(control: &Control) -> PathBuf {
    control.volume().join(format!("memory/{}.memory", control.id))
}

/// Returns the CPU time of a process in clock ticks (fields 14 and 15 of proc_pid_stat(5)).
fn cpu_ticks(pid: Pid) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    Ok(fields.next().context("no user time")?? + fields.next().context("no system time")??)
}

pub(crate) fn paused_guest_stands_still_and_runs_on_in_the_right_time(control: &mut Control) -> Result<()> {
    control.start(None)?;
    begin_to_count(control)?;
    let before = witness(control)?;
    for _ in 0..2 {
        control.pause()?;
        let counted_until = SystemTime::now();
        let pid = control.vmm()?.context("there is no VMM")?;
        let ticks = cpu_ticks(pid)?;
        ensure!(control.exec("true").is_err(), "it answers");
        // The clock is what is tested: it goes on while the guest does not.
        eventually("time passes", SETTLE_TIMEOUT, || Ok((counted_until.elapsed()? >= PAUSE).then_some(())))?;
        let used = cpu_ticks(pid)? - ticks;
        ensure!(used < 50, "the VMM used {used} ticks of CPU time");
        control.set_paused(false)?;
        control.wait_answering()?;
        check_clock(control)?;
        check_counting(control)?;
        ensure!(witness(control)? == before, "it was {before:?} and is {:?}", witness(control));
    }
    Ok(())
}

/// Suspends the guest and lets it go on.
fn suspend_and_resume(control: &mut Control, key: [u8; 32]) -> Result<()> {
    let before = witness(control)?;
    ensure!(before.memory == CANARY, "{before:?}");
    let file = format!("/root/{:x}", key[0]);
    control.exec(&format!("echo on the disk > {file}"))?;
    let counted = count(control)?;
    let stopped = control.stop(Some(key))?;
    ensure!(stopped.suspended && stopped.memory_lost.is_empty(), "{stopped:?}");
    ensure!(control.vmm()?.is_none(), "its VMM runs");
    check_sealed(&image(control))?;

    control.start(Some(key))?;
    ensure!(!image(control).exists(), "its memory could run twice");
    let after = witness(control)?;
    ensure!(after == before, "it was {before:?} and is {after:?}");
    let now = count(control)?;
    // It counted for as long as the save had not begun, and since it goes on: some minutes at most, in emulation.
    ensure!((counted..counted + 3_000).contains(&now), "it had counted to {counted}, and now to {now}");
    check_counting(control)?;
    check_clock(control)?;
    ensure!(control.exec(&format!("cat {file}"))? == "on the disk", "the file on the disk");
    Ok(())
}

/// Checks that an image has nothing of the guest in clear.
fn check_sealed(image: &std::path::Path) -> Result<()> {
    let file = fs::File::open(image).with_context(|| image.display().to_string())?;
    let size = file.metadata()?.len();
    ensure!(size > 10 << 20, "an image of {size} bytes");
    let (mut piece, mut at) = (vec![0; 1 << 20], 0);
    while at < size {
        let length = file.read_at(&mut piece, at)?;
        let read = piece.get(..length).unwrap_or_default();
        for word in [CANARY.as_bytes(), b"Linux version"] {
            ensure!(!read.windows(word.len()).any(|found| found == word), "it has {word:?} in clear");
        }
        // Pieces overlap by the longest word.
        at += u64::try_from(length.saturating_sub(64).max(1))?;
    }
    Ok(())
}

pub(crate) fn suspended_guest_goes_on_where_it_was(control: &mut Control) -> Result<()> {
    suspend_and_resume(control, [1; 32])
}

pub(crate) fn guest_is_suspended_and_resumed_again(control: &mut Control) -> Result<()> {
    suspend_and_resume(control, [2; 32])
}

/// Starts a suspended workspace, and checks that it boots, for this reason.
fn check_cold(control: &mut Control, key: Option<[u8; 32]>, reason: &str) -> Result<()> {
    let started = control.start(key)?;
    ensure!(started.memory_lost.contains(reason), "{started:?}");
    ensure!(control.exec("test ! -e /dev/shm/word").is_ok(), "it goes on from a memory");
    ensure!(!image(control).exists(), "the image is there");
    Ok(())
}

pub(crate) fn memory_of_another_disk_is_not_used(control: &mut Control) -> Result<()> {
    let key = [3; 32];
    control.stop(Some(key))?;
    let disk = control.volume().join(format!("disks/{}.ext4", control.id));
    fs::File::options().write(true).open(&disk)?.set_modified(UNIX_EPOCH)?;
    check_cold(control, Some(key), "of another state of the disk")
}

pub(crate) fn memory_without_its_key_is_not_used(control: &mut Control) -> Result<()> {
    control.stop(Some([4; 32]))?;
    // With another one, nothing of it can be read.
    check_cold(control, Some([5; 32]), "")?;
    ensure!(!control.until("it runs", SETTLE_TIMEOUT, |_| true)?.memory_lost.is_empty(), "no reason");
    control.stop(Some([6; 32]))?;
    check_cold(control, None, "discarded")
}

pub(crate) fn vmm_that_dies_while_it_is_saved_leaves_nothing(control: &mut Control) -> Result<()> {
    let pid = control.vmm()?.context("there is no VMM")?;
    control.set(Desired::Stopped, Some([7; 32]))?;
    // Wherever it is by then.
    kill(pid, Signal::SIGKILL)?;
    let stopped = control.wait_ended()?;
    check_remains(control, stopped.suspended)
}

/// Checks that there is a memory image, or none, and no part of one.
pub(crate) fn check_remains(control: &Control, is_suspended: bool) -> Result<()> {
    let image = image(control);
    ensure!(image.exists() == is_suspended, "{}: {}", image.display(), image.exists());
    let partial = image.with_added_extension("new");
    ensure!(!partial.exists(), "{} is left", partial.display());
    Ok(())
}

pub(crate) fn silent_vmm_is_ended_and_leaves_nothing(control: &mut Control) -> Result<()> {
    control.start(None)?;
    let pid = control.vmm()?.context("there is no VMM")?;
    kill(pid, Signal::SIGSTOP)?;
    control.grace = Duration::from_secs(1);
    let stopped = control.stop(Some([8; 32]));
    control.grace = GRACE;
    let stopped = stopped?;
    ensure!(!stopped.suspended && stopped.memory_lost.contains("did not answer"), "{stopped:?}");
    ensure!(control.vmm()?.is_none(), "its VMM is there");
    check_remains(control, false)
}

pub(crate) fn guest_that_stands_still_is_stopped_and_deleted(control: &mut Control) -> Result<()> {
    control.start(None)?;
    control.pause()?;
    let stopped = control.stop(None)?;
    ensure!(!stopped.suspended, "{stopped:?}");
    control.start(None)?;
    control.stop(Some([9; 32]))?;
    control.delete()?;
    let left = fs::read_dir(control.volume().join("memory"))?.count();
    ensure!(left == 0, "{left} memory images are left");
    ensure!(control.vmm()?.is_none(), "its VMM runs");
    Ok(())
}
