//! `/init` of a VM without an agent: load the modules, mount the root file system, execute systemd, nothing else.
//!
//! It is the yardstick of `cargo xtask bench spawn` (what does the agent cost?) and the way to look at an image
//! by itself. It boots what the agent boots: `/modules/*` from the initramfs and the root on `/dev/vda`.

mod serve;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount, mount_move};

/// Where the root file system is put together before it becomes `/`.
const NEW_ROOT: &str = "/newroot";

/// What is mounted for systemd, which then leaves it alone.
const KERNEL_FILE_SYSTEMS: &[(&str, &str, MountFlags, &str)] = &[
    ("proc", "proc", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), ""),
    ("sysfs", "sys", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), ""),
    ("tmpfs", "run", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=0755"),
    ("cgroup2", "sys/fs/cgroup", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), ""),
];

fn main() {
    let Err(error) = boot();
    say(&format!("bare: {error}"));
    // Returning from PID 1 is a kernel panic, which is how this boot is meant to fail: visibly.
    std::process::exit(1);
}

fn boot() -> Result<std::convert::Infallible, String> {
    fs::create_dir_all("/dev").map_err(|e| format!("create /dev: {e}"))?;
    mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, None)
        .map_err(|e| format!("mount /dev: {e}"))?;
    load_modules().map_err(|e| format!("load modules: {e}"))?;
    wait_for(Path::new("/dev/vda"))?;

    fs::create_dir_all(NEW_ROOT).map_err(|e| format!("create {NEW_ROOT}: {e}"))?;
    mount("/dev/vda", NEW_ROOT, "ext4", MountFlags::empty(), None)
        .map_err(|e| format!("mount /dev/vda: {e}"))?;
    for (kind, place, flags, data) in KERNEL_FILE_SYSTEMS {
        let target = format!("{NEW_ROOT}/{place}");
        let data = std::ffi::CString::new(*data).map_err(|e| format!("mount {place}: {e}"))?;
        mount(*kind, &target, *kind, *flags, data.as_c_str()).map_err(|e| format!("mount {place}: {e}"))?;
    }
    give_machine_id().map_err(|e| format!("write machine-id: {e}"))?;
    say("bare: root mounted");

    enter_root().map_err(|e| format!("enter the root file system: {e}"))?;
    if fs::read_to_string("/proc/cmdline")
        .is_ok_and(|line| line.split_whitespace().any(|w| w == "bare.serve"))
    {
        say("bare: serving");
        return serve::serve().map_err(|e| format!("serve the port: {e}"));
    }
    Err(format!("execute /sbin/init: {}", Command::new("/sbin/init").exec()))
}

/// Loads `/modules/*` in the order of their names, which is the order of their dependencies.
fn load_modules() -> io::Result<()> {
    let mut modules: Vec<_> = fs::read_dir("/modules")?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    modules.sort();
    for module in modules {
        rustix::system::finit_module(File::open(&module)?, c"", 0)
            .map_err(|e| io::Error::other(format!("{}: {e}", module.display())))?;
    }
    Ok(())
}

/// The kernel announces a disk a moment after its driver was loaded.
fn wait_for(path: &Path) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !path.exists() {
        if Instant::now() > deadline {
            return Err(format!("no {} after 30 s; give the VM a virtio disk", path.display()));
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A machine id of this boot, as the agent would write it; without one systemd takes this for a first boot.
fn give_machine_id() -> io::Result<()> {
    let path = format!("{NEW_ROOT}/etc/machine-id");
    if fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
        return Ok(());
    }
    let uuid = fs::read_to_string(format!("{NEW_ROOT}/proc/sys/kernel/random/uuid"))?;
    fs::write(&path, uuid.replace('-', ""))
}

/// Makes the new root `/`. An initramfs cannot be pivoted away from, so the new one is moved over it.
fn enter_root() -> io::Result<()> {
    mount_move("/dev", format!("{NEW_ROOT}/dev"))?;
    std::env::set_current_dir(NEW_ROOT)?;
    mount_move(".", "/")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

/// Writes a line to the console; there is nobody to tell when that fails.
fn say(line: &str) {
    if let Ok(mut console) = File::options().write(true).open("/dev/console") {
        let _ = writeln!(console, "{line}");
    }
}
