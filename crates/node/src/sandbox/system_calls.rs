//! System calls that a VMM may make, whatever a guest makes of it.

use std::io;

use nix::libc;
use rigbox_sys::seccomp::{Condition, Policy, install};

/// Type of the ioctls of KVM (`KVMIO`) and of tap devices (`TUN...`, which share theirs with those of terminals; a VMM has none).
const IOCTL_TYPES: [u64; 2] = [0xae00, 0x5400];

/// Allows what QEMU does in our configuration. Not among it: other sockets, io_uring, bpf, user faults, keys, other processes, mounts, and
/// any mode of `fallocate` but punching holes, which would grow the disk's file past its limit (XFS does not check `RLIMIT_FSIZE`).
pub(super) fn confine_vmm() -> io::Result<()> {
    let allowed = [
        // Once: QEMU's own filter forbids it afterwards.
        libc::SYS_execve,
        libc::SYS_access,
        libc::SYS_dup2,
        libc::SYS_dup3,
        libc::SYS_fdatasync,
        libc::SYS_fsync,
        libc::SYS_listen,
        libc::SYS_pread64,
        libc::SYS_preadv,
        libc::SYS_prlimit64,
        libc::SYS_pwrite64,
        libc::SYS_pwritev,
        libc::SYS_readlink,
        libc::SYS_rt_sigpending,
        libc::SYS_set_tid_address,
        libc::SYS_signalfd4,
        libc::SYS_statfs,
        libc::SYS_timerfd_create,
        libc::SYS_timerfd_settime,
    ];
    let ioctls =
        IOCTL_TYPES.map(|value| Condition { call: libc::SYS_ioctl, argument: 1, mask: 0xff00, value });
    install(Policy { allowed: &allowed, conditional: &ioctls, punch_holes: true })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::os::unix::process::CommandExt;

    use nix::libc;
    use rigbox_testkit::in_own_process;
    use rustix::fs::{FallocateFlags, fallocate, ftruncate};
    use rustix::io::Errno;

    #[test]
    fn vmm_makes_no_other_system_call() {
        if !in_own_process("sandbox::system_calls::tests::vmm_makes_no_other_system_call") {
            return;
        }
        let file: File = tempfile::tempfile().unwrap();
        ftruncate(&file, 1 << 20).unwrap();
        nix::sys::prctl::set_no_new_privs().unwrap();
        super::confine_vmm().unwrap();
        let punch = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
        fallocate(&file, punch, 0, 4096).unwrap();
        for mode in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE, FallocateFlags::ZERO_RANGE] {
            assert_eq!(fallocate(&file, mode, 0, 1 << 30), Err(Errno::OPNOTSUPP), "{mode:?}");
        }
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_NETLINK, libc::AF_VSOCK, libc::AF_PACKET] {
            let family = rustix::net::AddressFamily::from_raw(family as u16);
            let socket = rustix::net::socket(family, rustix::net::SocketType::DGRAM, None);
            assert_eq!(socket.map(drop), Err(Errno::PERM), "{family:?}");
        }
        let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
        assert_eq!(unshared, Err(nix::errno::Errno::EPERM));
        assert_eq!(io::ErrorKind::PermissionDenied, std::fs::remove_file("/nonexistent").unwrap_err().kind());
        let spawned = std::process::Command::new("/bin/true").spawn();
        assert_eq!(spawned.map(drop).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        // What it needs goes on.
        std::thread::spawn(|| assert!(File::open("/dev/null").is_ok())).join().unwrap();
        let error = std::process::Command::new("/bin/true").env_clear().exec();
        panic!("/bin/true in place of this process: {error}");
    }
}
