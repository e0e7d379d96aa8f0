//! PID 1 until systemd: kernel modules, the root file system, the network's address, what has to be fresh, the agent; then
//! systemd takes this process over. Everything here stands between a start and the first command, so it does no more.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use rigbox_sys::spawn::{ChildSetup, configure_child};

const ROOT: &str = "/root-disk";
const DISK: &str = "/dev/vda";
/// The same in every VM: each has a network namespace of its own on the host.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
/// Devices come within milliseconds of their driver; a machine without its disk is better reported than waited for.
const DISK_WAIT: Duration = Duration::from_secs(10);

/// Runs to the exec of systemd; returns only on failure.
pub(crate) fn run() -> Result<()> {
    mount_api_file_systems().context("cannot mount /proc, /sys and /dev")?;
    if has_word("rigbox.probe") {
        println!("rigbox-probe: it works");
        nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT)?;
    }
    no_core_dumps();
    load_modules().context("cannot load the kernel modules of the initramfs")?;
    mount_root()?;
    prepare_run().context("cannot prepare /run")?;
    make_fresh(&parameter("rigbox.hostname")).context("cannot write what must be fresh")?;
    configure_network();
    switch_root().context("cannot make the disk the root")?;
    join_agent_cgroup().context("cannot make the agent's control group")?;
    start_agent().context("cannot start the agent")?;
    leave_agent_cgroup().context("cannot leave the agent's control group")?;
    become_systemd().map(|never| match never {})
}

fn mount_at(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<()> {
    fs::create_dir_all(target)?;
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .with_context(|| format!("mount {kind} on {target}"))
}

fn mount_api_file_systems() -> Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at("proc", "/proc", plain, "")?;
    mount_at("sysfs", "/sys", plain, "")?;
    mount_at("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755")?;
    // `favordynmods`: each command gets a group of its own, which otherwise waits for a grace period of RCU.
    mount_at("cgroup2", "/sys/fs/cgroup", plain, "nsdelegate,memory_recursiveprot,favordynmods")
}

/// The memory of a process that crashes, with the workspace's secrets in it, is written to no disk.
fn no_core_dumps() {
    // A kernel that cannot dump has no such file.
    let _ = fs::write("/proc/sys/kernel/core_pattern", "|/bin/false");
}

/// Loads `/modules/*` in the order of their names, which the image builder chose.
fn load_modules() -> Result<()> {
    let mut paths = fs::read_dir("/modules")?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let file = File::open(&path)?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(())
}

fn mount_root() -> Result<()> {
    let deadline = Instant::now() + DISK_WAIT;
    while !Path::new(DISK).exists() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "the VM has no disk {DISK} after {} s",
            DISK_WAIT.as_secs()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::create_dir_all(ROOT)?;
    mount(Some(DISK), ROOT, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>)
        .with_context(|| format!("cannot mount {DISK} as ext4"))
}

/// `/run` is mounted here so that what the agent puts there is not covered by systemd's.
fn prepare_run() -> Result<()> {
    let run = format!("{ROOT}/run");
    mount_at("tmpfs", &run, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755,size=20%")?;
    fs::create_dir_all(format!("{run}/rigbox/bin"))?;
    fs::create_dir_all(format!("{run}/rigbox/ssh"))?;
    let rig = Path::new("/rigbox/rig");
    if rig.exists() {
        // Shown, not copied: it stays in the memory where the kernel unpacked it.
        let target = format!("{run}/rigbox/bin/rig");
        File::create(&target)?;
        let bind = MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let (from, none) = (Some(rig), None::<&str>);
        mount(from, target.as_str(), none, MsFlags::MS_BIND, none)?;
        mount(from, target.as_str(), none, bind | MsFlags::MS_REMOUNT, none)?;
    }
    Ok(())
}

/// A machine id of its own for each new disk, and the workspace's name as the host's name.
fn make_fresh(hostname: &str) -> Result<()> {
    let machine_id = format!("{ROOT}/etc/machine-id");
    if fs::read_to_string(&machine_id).map_or(true, |id| id.trim().len() != 32) {
        // The kernel's generator has been seeded by virtio-rng; a UUID of it is what machine-id(5) asks for.
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', "");
        write_through(&machine_id, &format!("{id}\n"))?;
    }
    if hostname.is_empty() {
        return Ok(());
    }
    let file = format!("{ROOT}/etc/hostname");
    if fs::read_to_string(&file).map_or(true, |name| name.trim() != hostname) {
        write_through(&file, &format!("{hostname}\n"))?;
        write_through(
            &format!("{ROOT}/etc/hosts"),
            &format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n"),
        )?;
    }
    nix::unistd::sethostname(hostname)?;
    Ok(())
}

/// Replaces a file on the guest's disk; a link that root in the guest left there is replaced, not followed.
fn write_through(path: &str, text: &str) -> Result<()> {
    let new = format!("{path}.rigbox-new");
    let _ = fs::remove_file(&new);
    let mut file = File::options().write(true).create_new(true).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::rename(&new, path).with_context(|| path.to_owned())
}

/// A VM without a network is still of use, so what fails here is told on the console.
fn configure_network() {
    let result = rigbox_sys::network::bring_up("lo")
        .and_then(|()| rigbox_sys::network::set_address("eth0", ADDRESS, NETMASK))
        .and_then(|()| rigbox_sys::network::add_default_route(GATEWAY));
    if let Err(error) = result {
        eprintln!("rigbox: no network: {error}");
    }
}

fn switch_root() -> Result<()> {
    for name in ["proc", "sys", "dev"] {
        let target = format!("{ROOT}/{name}");
        fs::create_dir_all(&target)?;
        mount(
            Some(format!("/{name}").as_str()),
            target.as_str(),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .with_context(|| format!("move /{name}"))?;
    }
    let initramfs = fs::metadata("/")?.dev();
    for name in ["modules", "rigbox"] {
        // The memory of the initramfs comes back only when its files go. The disk is another file system.
        if fs::symlink_metadata(format!("/{name}")).is_ok_and(|meta| meta.dev() == initramfs) {
            let _ = fs::remove_dir_all(format!("/{name}"));
        }
    }
    std::env::set_current_dir(ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    nix::unistd::chroot(".")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

const AGENT_CGROUP: &str = "/sys/fs/cgroup/rigbox/agent";

fn join_agent_cgroup() -> Result<()> {
    fs::create_dir_all(AGENT_CGROUP)?;
    fs::create_dir_all("/sys/fs/cgroup/rigbox/exec")?;
    Ok(fs::write(format!("{AGENT_CGROUP}/cgroup.procs"), "0")?)
}

fn leave_agent_cgroup() -> Result<()> {
    Ok(fs::write("/sys/fs/cgroup/cgroup.procs", "0")?)
}

fn start_agent() -> Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(crate::AGENT_NAME).env_clear();
    configure_child(
        &mut command,
        ChildSetup { new_session: true, oom_score_adj: Some(-1000), nice: Some(-10), ..Default::default() },
    );
    command.spawn()?;
    Ok(())
}

fn become_systemd() -> Result<Infallible> {
    for init in ["/sbin/init", "/lib/systemd/systemd"] {
        if Path::new(init).exists() {
            let error = Command::new(init).env_clear().exec();
            return Err(error).with_context(|| format!("cannot execute {init}"));
        }
    }
    // No init on the disk (root in the guest removed it): the agent still serves, so that files can be saved.
    eprintln!("rigbox: the disk has no /sbin/init; only the agent runs");
    loop {
        // Children of nobody are reaped here, as PID 1 must.
        let _ = nix::sys::wait::wait();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether the kernel's command line has this word.
fn has_word(wanted: &str) -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.split_whitespace().any(|word| word == wanted))
}

/// The value of a word `name=value` on the kernel's command line, or nothing.
fn parameter(name: &str) -> String {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().to_owned()
}
