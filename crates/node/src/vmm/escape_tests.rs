//! Tests of the jails against a guest that has taken over its VMM: this program, in the VMM's place, looks around in that of each driver.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Pid, Uid};
use rigbox_testkit::in_own_process;

use super::files;
use super::kind::VmmKind;
use crate::sandbox::jail::{Device, JailPlan, NAMESPACES, become_vmm};

/// Uid that is no user's.
const UID: u32 = 64_999;
/// Set in the process that becomes the VMM.
const PLAN: &str = "RIGBOX_TEST_JAIL_PLAN";
/// Folders of every host.
const FOLDERS: [&str; 12] = [
    "/etc", "/proc", "/sys", "/run", "/tmp", "/home", "/root", "/bin/sh", "/usr/bin", "/dev/shm", "/dev/pts",
    "/boot",
];

#[test]
fn guest_that_has_taken_over_qemu_finds_nothing_of_the_host() {
    run("guest_that_has_taken_over_qemu_finds_nothing_of_the_host", VmmKind::Qemu, vec![]);
}

#[test]
fn guest_that_has_taken_over_firecracker_finds_nothing_of_the_host() {
    let devices = vec![Device::Kvm, Device::Tun];
    run("guest_that_has_taken_over_firecracker_finds_nothing_of_the_host", VmmKind::Firecracker, devices);
}

/// Starts the test `name` again, in its own process, from there in the jail's first process, and from there as the VMM.
fn run(name: &str, vmm: VmmKind, devices: Vec<Device>) {
    if let Ok(plan) = std::env::var(PLAN) {
        let error = become_vmm(&plan).unwrap_err();
        panic!("it did not become the VMM: {error}");
    }
    if std::process::id() == 1 {
        return look_around(vmm);
    }
    let name = format!("vmm::escape_tests::{name}");
    if !in_own_process(&name) {
        return;
    }
    assert!(rustix::process::geteuid().is_root(), "needs root, as the node does");
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let arguments = ["--exact", &name, "--test-threads=1", "--nocapture"].map(str::to_owned);
    let mount_point = folder.path().join("jail");
    fs::create_dir(&mount_point).unwrap();
    let plan = JailPlan {
        vmm,
        cgroup_procs: Vec::new(),
        root: files::install(vec![program.clone()], [].into(), folder.path()).unwrap(),
        mount_point,
        netns: None,
        files: Vec::new(),
        devices,
        uid: UID,
        max_file_bytes: 1 << 20,
        command: std::iter::once(program.display().to_string()).chain(arguments.clone()).collect(),
    };
    // As the launcher does.
    unshare(NAMESPACES | CloneFlags::CLONE_NEWNET).unwrap();
    let vmm = Command::new(program)
        .args(arguments)
        .env(PLAN, serde_json::to_string(&plan).unwrap())
        .output()
        .unwrap();
    let text = [vmm.stdout, vmm.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(vmm.status.success() && text.contains("looked around"), "{}: {text}", vmm.status);
}

/// Runs as the VMM.
fn look_around(vmm: VmmKind) {
    for path in FOLDERS {
        assert_eq!(fs::metadata(path).map(drop).unwrap_err().kind(), ErrorKind::NotFound, "{path}");
    }
    let first = fs::read_dir("/").and_then(|mut listed| listed.next().transpose());
    assert_eq!(first.map(drop).unwrap_err().kind(), ErrorKind::PermissionDenied);
    let devices =
        ["null", "urandom", "kvm", "net/tun", "mem", "kmsg", "fuse", "vda", "loop0", "ptmx", "vhost-net"];
    assert_eq!(Path::new("/dev/net").exists(), vmm == VmmKind::Firecracker);
    let found = devices.into_iter().filter(|name| Path::new("/dev").join(name).exists()).collect::<Vec<_>>();
    let expected: &[&str] = match vmm {
        VmmKind::Qemu => &["null", "urandom"],
        VmmKind::Firecracker => &["null", "urandom", "kvm", "net/tun"],
    };
    assert_eq!(found, expected);
    for path in ["/new", "/dev/new", "/vm/new"] {
        let error = File::create(path).unwrap_err();
        assert!(
            [ErrorKind::ReadOnlyFilesystem, ErrorKind::PermissionDenied].contains(&error.kind()),
            "{path}: {error}"
        );
    }
    assert_eq!(rustix::process::getuid().as_raw(), UID);
    assert_eq!(
        Command::new("/proc/self/exe").spawn().map(drop).unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
    let none = None::<&str>;
    let root = Uid::from_raw(0);
    let attempts = [
        ("kill", signal::kill(Pid::from_raw(-1), None)),
        ("setuid", nix::unistd::setuid(root)),
        ("mount", nix::mount::mount(none, "/vm", Some("tmpfs"), MsFlags::empty(), none)),
        ("umount", nix::mount::umount("/vm")),
        ("pivot_root", nix::unistd::pivot_root("/", "/vm")),
        ("chroot", nix::unistd::chroot("/vm")),
        ("unshare", unshare(CloneFlags::CLONE_NEWUSER)),
        ("setns", setns(std::io::stdin(), CloneFlags::empty())),
        ("mknod", mknod("/vm/disk", SFlag::S_IFBLK, Mode::S_IRWXU, makedev(254, 0))),
    ];
    for (name, result) in attempts {
        assert_eq!(result, Err(Errno::EPERM), "{name}");
    }
    let any = fs::Permissions::from_mode(0o777);
    assert_eq!(fs::set_permissions("/vm", any).unwrap_err().kind(), ErrorKind::PermissionDenied);
    let address = SocketAddr::from_abstract_name("anybody").unwrap();
    assert_eq!(UnixStream::connect_addr(&address).unwrap_err().kind(), ErrorKind::PermissionDenied);
    for address in ["127.0.0.1:22", "172.16.0.1:9090", "192.0.2.1:443"] {
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::PermissionDenied, "{address}");
    }
    println!("looked around");
}
