//! PID 1 until systemd: loads kernel modules, mounts the root file system, configures the network and the machine's identity, starts the
//! agent, and then executes systemd. All of it delays the first command, so it does no more than necessary.

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

use crate::mounts::bind_program;
use crate::systemctl;

const ROOT: &str = "/root-disk";
const AGENT_CGROUP: &str = "/sys/fs/cgroup/rigbox/agent";
const EXEC_CGROUP: &str = "/sys/fs/cgroup/rigbox/exec";
const DISK: &str = "/dev/vda";
/// Address of every VM. Each has its own network namespace on the host.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
/// As in the image's settings, which apply to services and logins.
const MAX_OPEN_FILES: u64 = 1_048_576;
const MAX_INOTIFY_WATCHES: &str = "524288";
/// Time to wait for the disk. Devices appear within milliseconds after their driver is loaded.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs all steps up to the exec of systemd. Returns only on failure.
pub(crate) fn run() -> Result<()> {
    mount_api_file_systems().context("failed to mount /proc, /sys and /dev")?;
    if has_kernel_flag("rigbox.probe") {
        println!("rigbox-probe: it works");
        nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT)?;
    }
    disable_core_dumps();
    raise_limits().context("failed to raise the limits of files")?;
    load_modules().context("failed to load the kernel modules of the initramfs")?;
    mount_root()?;
    prepare_run().context("failed to prepare /run")?;
    systemctl::cover(Path::new(ROOT)).context("failed to cover systemctl")?;
    set_identity(&kernel_parameter("rigbox.hostname"))
        .context("failed to set the machine id and the host name")?;
    configure_network();
    switch_root().context("failed to switch to the root file system")?;
    join_agent_cgroup().context("failed to create the agent's control group")?;
    start_agent().context("failed to start the agent")?;
    leave_agent_cgroup().context("failed to leave the agent's control group")?;
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
    // Commands run before systemd has come to its own mounts, and systemd keeps what it finds. Group 5 is Debian's `tty`.
    mount_at("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=0620,gid=5")?;
    mount_at("tmpfs", "/dev/shm", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777")?;
    // `favordynmods`: each command gets a control group, whose creation would otherwise wait for an RCU grace period.
    mount_at("cgroup2", "/sys/fs/cgroup", plain, "nsdelegate,memory_recursiveprot,favordynmods")
}

/// Disables core dumps, because they would write the workspace's secrets to the disk.
fn disable_core_dumps() {
    // The file does not exist on a kernel without core dumps.
    let _ = fs::write("/proc/sys/kernel/core_pattern", "|/bin/false");
}

/// Raises the limits that development servers meet, also for the commands before systemd has applied the image's settings.
fn raise_limits() -> Result<()> {
    let files = nix::sys::resource::Resource::RLIMIT_NOFILE;
    nix::sys::resource::setrlimit(files, MAX_OPEN_FILES, MAX_OPEN_FILES)?;
    Ok(fs::write("/proc/sys/fs/inotify/max_user_watches", MAX_INOTIFY_WATCHES)?)
}

/// Loads `/modules/*` in the order of their names, as set by the image builder.
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
    let deadline = Instant::now() + DISK_TIMEOUT;
    while !Path::new(DISK).exists() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "the disk {DISK} did not appear within {} s",
            DISK_TIMEOUT.as_secs()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::create_dir_all(ROOT)?;
    mount(Some(DISK), ROOT, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>)
        .with_context(|| format!("failed to mount {DISK} as ext4"))
}

/// Mounts `/run` before systemd does, which would otherwise hide the agent's files there.
fn prepare_run() -> Result<()> {
    let run = format!("{ROOT}/run");
    mount_at("tmpfs", &run, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755,size=20%")?;
    fs::create_dir_all(format!("{run}/rigbox/bin"))?;
    fs::create_dir_all(format!("{run}/rigbox/ssh"))?;
    let rig = Path::new("/rigbox/rig");
    if rig.exists() {
        // Bind-mounted instead of copied, so that it stays in memory only once.
        let target = format!("{run}/rigbox/bin/rig");
        File::create(&target)?;
        bind_program(rig, Path::new(&target))?;
    }
    Ok(())
}

/// Sets a unique machine id on each new disk, and the workspace's name as host name.
fn set_identity(hostname: &str) -> Result<()> {
    let machine_id = format!("{ROOT}/etc/machine-id");
    if fs::read_to_string(&machine_id).map_or(true, |id| id.trim().len() != 32) {
        // The kernel's generator has been seeded by virtio-rng. machine-id(5) requires a random UUID.
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', "");
        replace_file(&machine_id, &format!("{id}\n"))?;
    }
    if hostname.is_empty() {
        return Ok(());
    }
    let file = format!("{ROOT}/etc/hostname");
    if fs::read_to_string(&file).map_or(true, |name| name.trim() != hostname) {
        replace_file(&file, &format!("{hostname}\n"))?;
        replace_file(
            &format!("{ROOT}/etc/hosts"),
            &format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n"),
        )?;
    }
    nix::unistd::sethostname(hostname)?;
    Ok(())
}

/// Replaces a file on the guest's disk. A symbolic link at its place is replaced, not followed.
fn replace_file(path: &str, text: &str) -> Result<()> {
    let new = format!("{path}.rigbox-new");
    let _ = fs::remove_file(&new);
    let mut file = File::options().write(true).create_new(true).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::rename(&new, path).with_context(|| path.to_owned())
}

/// Configures the network. A failure is logged on the console, because a VM without a network is still usable.
fn configure_network() {
    let result = rigbox_sys::network::bring_up("lo")
        .and_then(|()| rigbox_sys::network::set_address("eth0", ADDRESS, NETMASK))
        .and_then(|()| rigbox_sys::network::add_default_route(GATEWAY));
    if let Err(error) = result {
        eprintln!("rigbox: failed to configure the network: {error}");
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
        // Deleting the files of the initramfs frees its memory. The check excludes folders on the disk.
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

fn join_agent_cgroup() -> Result<()> {
    fs::create_dir_all(AGENT_CGROUP)?;
    fs::create_dir_all(EXEC_CGROUP)?;
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
            // systemd tells this socket when the system has started (sd_notify(3)).
            let notify = ("NOTIFY_SOCKET", crate::agent::NOTIFY_SOCKET);
            let error = Command::new(init).env_clear().envs([notify]).exec();
            return Err(error).with_context(|| format!("failed to execute {init}"));
        }
    }
    // The guest's root has removed the init. The agent still runs, so that files can be saved.
    eprintln!("rigbox: /sbin/init not found on the disk; only the agent runs");
    loop {
        // Reaps orphaned processes, as PID 1 must.
        let _ = nix::sys::wait::wait();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Returns whether the kernel's command line contains this word.
fn has_kernel_flag(wanted: &str) -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.split_whitespace().any(|word| word == wanted))
}

/// Returns the value of a parameter `name=value` on the kernel's command line, or an empty string.
fn kernel_parameter(name: &str) -> String {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().to_owned()
}
