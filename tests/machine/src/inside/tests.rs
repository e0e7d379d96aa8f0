//! The tests, in the order in which they run: each goes on with what those before it have left.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rigbox_sys::project_quota::{Usage, project, usage};
use rigbox_testkit::blocking::eventually;
use rustix::io::Errno;

use super::groups::{self, Vmm, groups_named, setting, units_named, vmm_of};
use super::growth::{Growth, STEP_MB, grow};
use super::installation::{Driver, Installation, SETTLE_TIMEOUT, START_TIMEOUT, run};
use super::port::Port;
use super::{Step, Test, counted, random, traffic};

const WORKSPACE_MB: u64 = 512;
/// Limits of a disk by default, as the kernel shows them.
const DISK_LIMITS: &str = "rbps=500000000 wbps=500000000 riops=20000 wiops=20000";

pub(super) const STEPS: &[Step] = &[
    Step::Needed("rigboxd_runs_as_a_service", rigboxd_runs_as_a_service as Test),
    // While there is room for a second copy of a memory.
    Step::Conformance,
    Step::Needed("two_workspaces_run_at_once_and_answer", two_workspaces_run_at_once_and_answer),
    Step::Test("vmm_has_its_limits_in_a_scope_of_its_own", vmm_has_its_limits_in_a_scope_of_its_own),
    Step::Test("vmm_is_confined", vmm_is_confined),
    Step::Test("files_pass_in_both_directions", traffic::files_pass_in_both_directions),
    Step::Test("app_is_reached_by_its_owner_only", traffic::app_is_reached_by_its_owner_only),
    Step::Test("vm_reaches_its_own_bridge_only", traffic::vm_reaches_its_own_bridge_only),
    Step::Test("failures_that_a_vmm_counts_are_logged", traffic::failures_that_a_vmm_counts_are_logged),
    Step::Test("system_calls_of_a_start_are_counted", counted::system_calls_of_a_start_are_counted),
    Step::Test("ends_of_a_guest_are_told", ends_of_a_guest_are_told),
    Step::Test("vms_outlive_a_restart_of_the_service", vms_outlive_a_restart_of_the_service),
    Step::Test("vms_outlive_kill_9_of_the_service", vms_outlive_kill_9_of_the_service),
    Step::Test("vms_outlive_an_upgrade", vms_outlive_an_upgrade),
    Step::Test("group_of_a_node_outside_of_systemd_is_found", group_of_a_node_outside_of_systemd_is_found),
    Step::Test("random_operations_leave_what_they_must", random::random_operations_leave_what_they_must),
    Step::Test("stopped_workspace_leaves_no_scope", stopped_workspace_leaves_no_scope),
    Step::Test("disk_does_not_grow_past_its_quota", disk_does_not_grow_past_its_quota),
    Step::Reboot,
    Step::Test("workspace_that_ran_runs_again_after_a_reboot", workspace_that_ran_runs_again_after_a_reboot),
    Step::Test(
        "deleted_workspaces_leave_neither_scope_nor_quota",
        deleted_workspaces_leave_neither_scope_nor_quota,
    ),
    Step::Test("purge_leaves_no_slice", purge_leaves_no_slice),
];

fn rigboxd_runs_as_a_service(rigbox: &Installation, port: &Port) -> Result<()> {
    ensure!(Path::new("/dev/kvm").exists(), "the machine has no /dev/kvm");
    ensure!(Path::new("/run/systemd/system").is_dir(), "systemd is not PID 1");
    let started = Instant::now();
    rigbox.install()?;
    rigbox.wait_ready()?;
    port.note(&format!("ready after {} s", started.elapsed().as_secs()))?;
    let log = run("journalctl", &["-u", "rigboxd", "--no-pager", "-o", "cat"])?;
    let selected = log.lines().find(|line| line.contains("selected VMM")).context("no VMM was selected")?;
    port.note(selected)?;
    let driver = match rigbox.driver() {
        Driver::Qemu => "driver=\"qemu\" accelerator=\"kvm\"",
        Driver::Firecracker => "driver=\"firecracker\" accelerator=\"kvm\"",
    };
    ensure!(selected.contains(driver), "not {driver}");
    Ok(())
}

fn two_workspaces_run_at_once_and_answer(rigbox: &Installation, port: &Port) -> Result<()> {
    for name in ["one", "two"] {
        let started = Instant::now();
        rigbox.rig(&["workspace", "spawn", name])?;
        port.note(&format!("workspace {name} runs after {} s", started.elapsed().as_secs()))?;
    }
    for name in ["one", "two"] {
        let started = Instant::now();
        let memory: u64 =
            rigbox.exec(name, "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo")?.parse()?;
        port.note(&format!("command in {name} after {} ms", started.elapsed().as_millis()))?;
        ensure!((WORKSPACE_MB / 2..=WORKSPACE_MB).contains(&memory), "{name} has {memory} MiB");
    }
    ensure!(groups::vmms()?.len() == 2, "VMMs: {:?}", groups::vmms()?);
    Ok(())
}

fn vmm_has_its_limits_in_a_scope_of_its_own(rigbox: &Installation, _: &Port) -> Result<()> {
    // Systemd then writes all settings of its own units again.
    run("systemctl", &["daemon-reload"])?;
    let installation = rigbox.id()?;
    let slice = Path::new(groups::ROOT).join(format!("rigbox.slice/rigbox-{installation}.slice"));
    for name in ["one", "two"] {
        let id = rigbox.field(name, "id")?;
        let Vmm { group, .. } = vmm_of(&id)?;
        let expected = slice.join(format!("rigbox-vm-{installation}-{id}.scope/vmm"));
        ensure!(group == expected, "{} instead of {}", group.display(), expected.display());
        // What a VMM has beside its guest and one thread of that (`vmm/qemu.rs`, `vmm/firecracker.rs`).
        let (overhead_mb, threads) = match rigbox.driver() {
            Driver::Qemu => (64 + 128, 128),
            Driver::Firecracker => (64, 8),
        };
        let memory = (WORKSPACE_MB + overhead_mb) << 20;
        let device = fs::metadata(rigbox.disk(name)?)?.dev();
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        for (file, expected) in [
            ("memory.max", memory.to_string()),
            ("memory.swap.max", "0".to_owned()),
            ("cpu.max", "150000 100000".to_owned()),
            ("pids.max", (threads + 1).to_string()),
            ("io.max", format!("{device} {DISK_LIMITS}")),
        ] {
            let found = setting(&group, file);
            // The kernel may be without swap, and then has no such file.
            if file != "memory.swap.max" || found.is_ok() {
                let found = found?;
                ensure!(found == expected, "{file} of {name} is {found:?}, not {expected:?}");
            }
        }
    }
    let limit: u64 = setting(&slice, "memory.max")?.parse().context("the slice has no limit")?;
    let machine = fs::read_to_string("/proc/meminfo")?;
    let total = machine.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("no MemTotal")?;
    let total = total.trim().trim_end_matches(" kB").parse::<u64>()? * 1024;
    ensure!(limit <= total / 8 * 7 && limit + 8192 > total / 8 * 7, "{limit} of {total}");
    Ok(())
}

/// Every thread has a filter of system calls, no capability, a uid of its own and nothing of the host's files.
fn vmm_is_confined(rigbox: &Installation, _: &Port) -> Result<()> {
    let vmm = vmm_of(&rigbox.field("one", "id")?)?;
    let threads = fs::read_dir(format!("/proc/{}/task", vmm.pid))?.collect::<Result<Vec<_>, _>>()?;
    ensure!(threads.len() > 1, "{} threads", threads.len());
    for thread in threads {
        let status = fs::read_to_string(thread.path().join("status"))?;
        let field = |name: &str| {
            let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            found.with_context(|| format!("no {name}"))
        };
        for (name, expected) in [
            ("Seccomp", "2"),
            ("NoNewPrivs", "1"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
        ] {
            ensure!(field(name)? == expected, "{name} is {}", field(name)?);
        }
        ensure!(field("Uid")?.split('\t').all(|uid| uid != "0"), "uid {}", field("Uid")?);
    }
    let root = format!("/proc/{}/root", vmm.pid);
    let mut found: Vec<_> =
        fs::read_dir(&root)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    found.sort();
    for outside in ["etc", "proc", "sys", "home", "var", "run", "opt"] {
        // The programs of this machine are where people may put them.
        let is_own = rigbox.driver() == Driver::Firecracker && outside == "opt";
        ensure!(is_own || found.iter().all(|name| name != outside), "the jail has {found:?}");
    }
    let own = |namespace: &str| fs::read_link(format!("/proc/{}/ns/{namespace}", vmm.pid));
    for namespace in ["mnt", "pid", "net", "ipc", "uts"] {
        let host = fs::read_link(format!("/proc/self/ns/{namespace}"))?;
        ensure!(own(namespace)? != host, "it is in the host's {namespace} namespace");
    }
    Ok(())
}

/// A reboot starts it again, also one without systemd; a power-off and a halt stop it; a VMM that dies is a failure.
fn ends_of_a_guest_are_told(rigbox: &Installation, port: &Port) -> Result<()> {
    let id = rigbox.field("two", "id")?;
    let boot = || rigbox.exec("two", "cat /proc/sys/kernel/random/boot_id");
    for command in ["reboot -f", "systemctl reboot"] {
        let (before, started) = (boot()?, Instant::now());
        // It may cut off its own answer.
        let _ = rigbox.exec("two", &format!("sudo {command}"));
        eventually(&format!("it runs again after {command}"), START_TIMEOUT, || {
            Ok(boot().ok().filter(|boot| *boot != before))
        })?;
        port.note(&format!("{command}: runs again after {} s", started.elapsed().as_secs()))?;
    }
    for command in ["poweroff -f", "systemctl poweroff", "systemctl halt"] {
        let started = Instant::now();
        let _ = rigbox.exec("two", &format!("sudo {command}"));
        rigbox.wait_status("two", "stopped", START_TIMEOUT)?;
        port.note(&format!("{command}: stopped after {} s", started.elapsed().as_secs()))?;
        rigbox.rig(&["workspace", "start", "two"])?;
    }
    run("kill", &["-9", &vmm_of(&id)?.pid.to_string()])?;
    rigbox.wait_status("two", "failed", SETTLE_TIMEOUT)?;
    let shown = rigbox.rig(&["workspace", "show", "two", "--output", "json"])?;
    ensure!(shown.contains("vmm_died"), "{shown}");
    rigbox.rig(&["workspace", "start", "two"])?;
    boot().map(drop)
}

/// Runs `disturb`, and checks that both VMs have noticed nothing, and belong to the node afterwards.
fn vms_outlive(rigbox: &Installation, disturb: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = ["one", "two"].map(|name| witness(rigbox, name));
    rigbox.wait_restarted(disturb)?;
    for (name, before) in ["one", "two"].into_iter().zip(before) {
        rigbox.wait_status(name, "running", SETTLE_TIMEOUT)?;
        let before = before?;
        let after = eventually(&format!("{name} answers"), SETTLE_TIMEOUT, || Ok(Some(seen(rigbox, name)?)))?;
        ensure!(before == after, "{name} was {before:?} and is {after:?}");
    }
    Ok(())
}

/// Starts a process in a workspace, and returns what a new boot would change.
fn witness(rigbox: &Installation, name: &str) -> Result<(Vmm, String)> {
    rigbox.exec(
        name,
        "test -e ~/witness || (setsid sleep 100000 > /dev/null 2>&1 < /dev/null & echo $! > ~/witness)",
    )?;
    seen(rigbox, name)
}

fn seen(rigbox: &Installation, name: &str) -> Result<(Vmm, String)> {
    let inside =
        rigbox.exec(name, "kill -0 $(cat ~/witness) && cat ~/witness /proc/sys/kernel/random/boot_id")?;
    Ok((vmm_of(&rigbox.field(name, "id")?)?, inside))
}

fn vms_outlive_a_restart_of_the_service(rigbox: &Installation, _: &Port) -> Result<()> {
    vms_outlive(rigbox, || run("systemctl", &["restart", "rigboxd.service"]).map(drop))
}

fn vms_outlive_kill_9_of_the_service(rigbox: &Installation, _: &Port) -> Result<()> {
    vms_outlive(rigbox, || run("systemctl", &["kill", "--signal=KILL", "rigboxd.service"]).map(drop))
}

fn vms_outlive_an_upgrade(rigbox: &Installation, _: &Port) -> Result<()> {
    vms_outlive(rigbox, || {
        rigbox.upgrade()?;
        ensure!(!rigbox.is_current()?, "the program was not replaced");
        run("systemctl", &["restart", "rigboxd.service"]).map(drop)
    })?;
    ensure!(rigbox.is_current()?, "the service runs the former program");
    Ok(())
}

/// A recorded place that is no slice, as a node leaves it that ran where systemd was not PID 1.
fn group_of_a_node_outside_of_systemd_is_found(rigbox: &Installation, _: &Port) -> Result<()> {
    let place = Path::new(groups::ROOT).join(format!("rigbox-{}", rigbox.id()?));
    let group = place.join("ws-aaaaaaaa");
    fs::create_dir_all(&group)?;
    let mut leftover = Command::new("sleep").arg("100000").spawn()?;
    fs::write(group.join("cgroup.procs"), leftover.id().to_string())?;
    let record = rigbox.record_of_places()?;
    fs::write(&record, format!("{}{}\n", fs::read_to_string(&record)?, place.display()))?;
    vms_outlive(rigbox, || run("systemctl", &["restart", "rigboxd.service"]).map(drop))?;
    eventually("the leftover ends", SETTLE_TIMEOUT, || Ok(leftover.try_wait()?))?;
    eventually("its group is removed", SETTLE_TIMEOUT, || Ok((!group.exists()).then_some(())))
}

fn stopped_workspace_leaves_no_scope(rigbox: &Installation, _: &Port) -> Result<()> {
    let id = rigbox.field("two", "id")?;
    ensure!(!units_named(&id)?.is_empty(), "it has no scope before");
    rigbox.rig(&["workspace", "stop", "two"])?;
    nothing_is_left(&id)
}

fn disk_does_not_grow_past_its_quota(rigbox: &Installation, port: &Port) -> Result<()> {
    let running = File::open(rigbox.disk("one")?)?;
    let uid = groups::uid(&vmm_of(&rigbox.field("one", "id")?)?)?;
    ensure!(project(&running)? == uid, "the disk of one has project {}, not {uid}", project(&running)?);

    // The one that is stopped, because its VM would find its disk full.
    let path = rigbox.disk("two")?;
    let disk = File::open(&path)?;
    let uid = project(&disk)?;
    let limit_bytes = usage(&disk, uid)?.limit_bytes.context("the disk of two has no limit")?;
    let (size, limit_mb) = (disk.metadata()?.len(), limit_bytes >> 20);
    ensure!(limit_bytes > size && limit_bytes < size * 2, "{limit_mb} MiB for {} MiB", size >> 20);
    let refused = grow(&path, uid, limit_mb + STEP_MB)?;
    port.note(&format!(
        "a disk of {} MiB with a limit of {limit_mb} MiB grew by {} MiB",
        size >> 20,
        refused.grown_mb
    ))?;
    let full = [Errno::NOSPC, Errno::DQUOT].map(|errno| Some(errno.raw_os_error()));
    ensure!(full.contains(&refused.errno), "{refused:?}");
    ensure!((disk.metadata()?.blocks() >> 11) + refused.grown_mb <= limit_mb, "{refused:?}");

    // Nothing but the quota stops it.
    let free = path.with_extension("free");
    File::create(&free)?.set_len(size)?;
    let grown = grow(&free, uid, limit_mb + STEP_MB);
    fs::remove_file(&free)?;
    let grown = grown?;
    ensure!(matches!(grown, Growth { errno: None, .. }), "without a quota: {grown:?}");
    Ok(())
}

/// Waits until neither systemd nor the kernel has a group of this name.
fn nothing_is_left(text: &str) -> Result<()> {
    eventually(&format!("nothing of {text} is left"), SETTLE_TIMEOUT, || {
        let (units, groups) = (units_named(text)?, groups_named(text)?);
        ensure!(units.is_empty() && groups.is_empty(), "units {units:?}, groups {groups:?}");
        Ok(Some(()))
    })
}

fn workspace_that_ran_runs_again_after_a_reboot(rigbox: &Installation, port: &Port) -> Result<()> {
    let started = Instant::now();
    rigbox.wait_ready()?;
    rigbox.wait_status("one", "running", START_TIMEOUT)?;
    port.note(&format!("workspace one runs again {} s after the boot", started.elapsed().as_secs()))?;
    rigbox.wait_status("two", "stopped", SETTLE_TIMEOUT)?;
    // The disk is the same, and the boot is another one.
    rigbox.exec("one", "test -e ~/witness && ! kill -0 $(cat ~/witness) 2> /dev/null")?;
    vmm_of(&rigbox.field("one", "id")?).map(drop)
}

fn deleted_workspaces_leave_neither_scope_nor_quota(rigbox: &Installation, _: &Port) -> Result<()> {
    for name in ["one", "two"] {
        let id = rigbox.field(name, "id")?;
        let disk = rigbox.disk(name)?;
        let project = project(&File::open(&disk)?)?;
        let folder = File::open(disk.parent().context("no folder")?)?;
        ensure!(usage(&folder, project)?.limit_bytes.is_some(), "{name} has no limit before");
        rigbox.rig(&["workspace", "rm", name, "--force"])?;
        nothing_is_left(&id)?;
        let left = usage(&folder, project)?;
        ensure!(left == Usage { limit_bytes: None, used_bytes: 0 }, "{name} leaves {left:?}");
    }
    ensure!(groups::vmms()?.is_empty(), "VMMs: {:?}", groups::vmms()?);
    Ok(())
}

fn purge_leaves_no_slice(rigbox: &Installation, _: &Port) -> Result<()> {
    let id = rigbox.id()?;
    run("systemctl", &["stop", "rigboxd.service"])?;
    run("rigboxd", &["purge"])?;
    nothing_is_left(&format!("rigbox-{id}"))
}
