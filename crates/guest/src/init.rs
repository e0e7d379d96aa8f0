//! PID 1 until systemd: loads kernel modules, mounts the root file system, configures the network and the machine's identity, starts the
//! agent, and then executes systemd. All of it delays the first command, so it does no more than necessary.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{PipeReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use rigbox_sys::spawn::{ChildSetup, configure_child};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::{GATEWAY, rig, systemctl};

const ROOT: &str = "/root-disk";
const AGENT_CGROUP: &str = "/sys/fs/cgroup/rigbox/agent";
const EXEC_CGROUP: &str = "/sys/fs/cgroup/rigbox/exec";
const DISK: &str = "/dev/vda";
/// Address of every VM. Each has its own network namespace on the host.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
/// As in the image's settings, which apply to services and logins.
const MAX_OPEN_FILES: u64 = 1_048_576;
const MAX_INOTIFY_WATCHES: &str = "524288";
/// Parameters of `virtio_net`. At a reboot the kernel first marks all virtio devices as broken (since 6.1.134), and with `napi_tx` a packet that
/// is on its way then makes the driver wait for it for ever.
const NETWORK_PARAMETERS: &CStr = c"napi_tx=0";
/// Time to wait for the disk. Devices appear within milliseconds after their driver is loaded.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// Limit of the time that systemd waits for the agent, should its host not connect.
const MAX_SYSTEMD_DELAY: Duration = Duration::from_millis(500);

/// Runs all steps up to the exec of systemd. Returns only on failure.
pub(crate) fn run() -> Result<()> {
    mount_api_file_systems().context("failed to mount /proc, /sys and /dev")?;
    if has_kernel_flag("rigbox.probe") {
        println!("rigbox-probe: it works");
        nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT)?;
    }
    disable_core_dumps();
    raise_limits().context("failed to raise the limits of files")?;
    // The mount waits for an RCU grace period, so the next steps run beside it.
    let cgroups = std::thread::spawn(mount_cgroups);
    load_modules().context("failed to load the kernel modules of the initramfs")?;
    mount_root()?;
    prepare_run().context("failed to prepare /run")?;
    systemctl::cover(Path::new(ROOT)).context("failed to cover systemctl")?;
    set_identity(&kernel_parameter("rigbox.hostname"))
        .context("failed to set the machine id and the host name")?;
    configure_network();
    cgroups.join().map_err(|_| anyhow!("the mount of the control groups panicked"))??;
    switch_root().context("failed to switch to the root file system")?;
    join_agent_cgroup().context("failed to create the agent's control group")?;
    let agent_ready = start_agent().context("failed to start the agent")?;
    leave_agent_cgroup().context("failed to leave the agent's control group")?;
    wait_for_agent(&agent_ready);
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
    Ok(())
}

/// Mounts the control groups. `favordynmods`: each command gets one, whose creation would otherwise wait for an RCU grace period.
fn mount_cgroups() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at("cgroup2", "/sys/fs/cgroup", flags, "nsdelegate,memory_recursiveprot,favordynmods")
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
        let is_network = path.file_name().is_some_and(|name| name.to_string_lossy().contains("virtio_net"));
        let parameters = if is_network { NETWORK_PARAMETERS } else { c"" };
        match rustix::system::finit_module(&file, parameters, 0) {
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
    rig::install(Path::new(&run))
}

/// Sets a unique machine id on each new disk, and the workspace's name as host name.
fn set_identity(hostname: &str) -> Result<()> {
    let machine_id = format!("{ROOT}/etc/machine-id");
    if fs::read_to_string(&machine_id).map_or(true, |id| id.trim().len() != 32) {
        // The kernel's generator has been seeded by virtio-rng. machine-id(5) requires a random UUID.
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', "");
        write_file(&machine_id, &format!("{id}\n"))?;
    }
    if hostname.is_empty() {
        return Ok(());
    }
    let (file, hosts) = (format!("{ROOT}/etc/hostname"), format!("{ROOT}/etc/hosts"));
    let named = fs::read_to_string(&file).is_ok_and(|name| name.trim() == hostname);
    if !named || fs::symlink_metadata(&hosts).map_or(true, |hosts| hosts.len() == 0) {
        write_file(&file, &format!("{hostname}\n"))?;
        write_file(
            &hosts,
            &format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n"),
        )?;
    }
    nix::unistd::sethostname(hostname)?;
    Ok(())
}

/// Writes a new file on the guest's disk in the place of an old one. A symbolic link is replaced, not followed. A file that a crash has cut
/// short is written again at the next boot: to write beside it and rename would make the kernel write it to the disk now.
fn write_file(path: &str, text: &str) -> Result<()> {
    let write = || -> std::io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())
    };
    write().with_context(|| path.to_owned())
}

/// Configures the network. A failure is logged on the console, because a VM without a network is still usable.
fn configure_network() {
    // Nothing outside is reached by IPv6. A kernel without it has no such file.
    let _ = fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1");
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
    // Deleting the files of the initramfs frees its memory. The check excludes a folder on the disk.
    if fs::symlink_metadata("/modules").is_ok_and(|meta| meta.dev() == initramfs) {
        let _ = fs::remove_dir_all("/modules");
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

/// Starts the agent, and returns the other end of its standard input, which it closes to let systemd start.
fn start_agent() -> Result<PipeReader> {
    let (agent_ready, stdin) = std::io::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(crate::AGENT_NAME).env_clear().stdin(stdin);
    configure_child(
        &mut command,
        ChildSetup {
            new_session: true,
            oom_score_adj: Some(-1000),
            nice: Some(crate::AGENT_NICE),
            ..Default::default()
        },
    );
    command.spawn()?;
    Ok(agent_ready)
}

/// Leaves the CPU to the agent and a first command, for at most [`MAX_SYSTEMD_DELAY`].
fn wait_for_agent(agent_ready: &PipeReader) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: MAX_SYSTEMD_DELAY.subsec_nanos().into() };
    // A failure only means that systemd starts at once.
    let _ = rustix::event::poll(&mut [PollFd::new(agent_ready, PollFlags::empty())], Some(&timeout));
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
