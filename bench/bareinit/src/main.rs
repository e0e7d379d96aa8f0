//! Minimal `/init` without an agent: loads the modules, mounts the root file system and executes systemd.
//!
//! It is the baseline of `cargo xtask bench spawn`, which measures what the agent costs, and a way to boot an image by itself. It boots what
//! the agent boots: `/modules/*` from the initramfs, and the root on `/dev/vda`.

mod serve;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount, mount_move};

/// Mount point of the root file system before it becomes `/`.
const NEW_ROOT: &str = "/newroot";

/// Mounts for systemd, which keeps them: type, target, flags and options.
const KERNEL_FILE_SYSTEMS: &[(&str, &str, MountFlags, &str)] = &[
    ("proc", "proc", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), ""),
    ("sysfs", "sys", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), ""),
    ("tmpfs", "run", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=0755"),
    ("cgroup2", "sys/fs/cgroup", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), ""),
];

fn main() -> ExitCode {
    let Err(error) = boot();
    log(&format!("bare: {error}"));
    // The end of PID 1 is a kernel panic, which makes the failure visible.
    ExitCode::FAILURE
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
    for (kind, target, flags, data) in KERNEL_FILE_SYSTEMS {
        let path = format!("{NEW_ROOT}/{target}");
        let data = std::ffi::CString::new(*data).map_err(|e| format!("mount {target}: {e}"))?;
        mount(*kind, &path, *kind, *flags, data.as_c_str()).map_err(|e| format!("mount {target}: {e}"))?;
    }
    write_machine_id().map_err(|e| format!("write machine-id: {e}"))?;
    log("bare: root mounted");

    switch_root().map_err(|e| format!("enter the root file system: {e}"))?;
    if fs::read_to_string("/proc/cmdline")
        .is_ok_and(|line| line.split_whitespace().any(|w| w == "bare.serve"))
    {
        log("bare: serving");
        return serve::serve().map_err(|e| format!("serve the port: {e}"));
    }
    Err(format!("execute /sbin/init: {}", Command::new("/sbin/init").exec()))
}

/// Loads `/modules/*` in the order of their names, which respects their dependencies.
fn load_modules() -> io::Result<()> {
    let mut modules: Vec<_> = fs::read_dir("/modules")?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    modules.sort();
    for module in modules {
        rustix::system::finit_module(File::open(&module)?, c"", 0)
            .map_err(|e| io::Error::other(format!("{}: {e}", module.display())))?;
    }
    Ok(())
}

/// Waits for a disk, which appears a moment after its driver was loaded.
fn wait_for(path: &Path) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !path.exists() {
        if Instant::now() > deadline {
            return Err(format!("no {} after 30 s; attach a virtio disk", path.display()));
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Writes a machine id for this boot, as the agent does. Without one, systemd assumes a first boot.
fn write_machine_id() -> io::Result<()> {
    let path = format!("{NEW_ROOT}/etc/machine-id");
    if fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
        return Ok(());
    }
    let uuid = fs::read_to_string(format!("{NEW_ROOT}/proc/sys/kernel/random/uuid"))?;
    fs::write(&path, uuid.replace('-', ""))
}

/// Makes the new root `/`. pivot_root does not work on an initramfs, so the new root is moved over it.
fn switch_root() -> io::Result<()> {
    mount_move("/dev", format!("{NEW_ROOT}/dev"))?;
    std::env::set_current_dir(NEW_ROOT)?;
    mount_move(".", "/")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

/// Writes a line to the console, and ignores failures.
fn log(line: &str) {
    if let Ok(mut console) = File::options().write(true).open("/dev/console") {
        let _ = writeln!(console, "{line}");
    }
}
