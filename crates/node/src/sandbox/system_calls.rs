//! System calls that a VMM may make, whatever a guest makes of it.

use std::io;

use nix::libc;
use rigbox_sys::seccomp::{Condition, Policy, install};

use crate::vmm::kind::VmmKind;

/// Type of the ioctls of KVM (`KVMIO`) and of tap devices (`TUN...`, which share theirs with those of terminals; a VMM has none).
const IOCTL_TYPES: [u64; 2] = [0xae00, 0x5400];

/// Allows what a VMM does in our configuration. Not among it: other sockets, io_uring, bpf, user faults, keys, other processes, mounts, and
/// any mode of `fallocate` but punching holes, which would grow the disk's file past its limit (XFS does not check `RLIMIT_FSIZE`).
pub(super) fn confine(vmm: VmmKind) -> io::Result<()> {
    let ioctls =
        IOCTL_TYPES.map(|value| Condition { call: libc::SYS_ioctl, argument: 1, mask: 0xff00, value });
    let mut allowed = EVERY_VMM.to_vec();
    let mut conditional = ioctls.to_vec();
    if vmm == VmmKind::Firecracker {
        allowed.extend(FIRECRACKER);
        conditional.push(UNIX_SOCKET);
    }
    install(Policy { allowed: &allowed, conditional: &conditional, punch_holes: true })
}

/// System calls of every VMM.
const EVERY_VMM: &[i64] = &[
    // A VMM becomes another program by it, in the same jail and under the same filter. QEMU's own filter forbids it.
    libc::SYS_execve,
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_dup3,
    // Of a disk, once the memory that belongs to it is loaded.
    libc::SYS_fadvise64,
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

/// System calls of Firecracker beside these: it binds its own sockets, but connects to none, its network card has buffers in a file in memory,
/// and it writes its memory to files.
const FIRECRACKER: &[i64] = &[
    libc::SYS_bind,
    libc::SYS_ftruncate,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_stat,
    libc::SYS_tkill,
];

/// Condition of `socket` for a socket of the Unix domain.
const UNIX_SOCKET: Condition =
    Condition { call: libc::SYS_socket, argument: 0, mask: 0xffff_ffff, value: libc::AF_UNIX as u64 };

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::os::unix::process::CommandExt;

    use nix::libc;
    use rigbox_testkit::in_own_process;
    use rustix::fs::{FallocateFlags, fallocate, ftruncate};
    use rustix::io::Errno;

    use crate::vmm::kind::VmmKind;

    #[test]
    fn firecracker_binds_its_own_sockets_and_connects_to_none() {
        let name = "sandbox::system_calls::tests::firecracker_binds_its_own_sockets_and_connects_to_none";
        if !in_own_process(name) {
            return;
        }
        let address = SocketAddr::from_abstract_name("rigbox-test-of-firecracker").unwrap();
        nix::sys::prctl::set_no_new_privs().unwrap();
        super::confine(VmmKind::Firecracker).unwrap();
        let _own = UnixListener::bind_addr(&address).unwrap();
        let connected = UnixStream::connect_addr(&address);
        assert_eq!(connected.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        for family in [libc::AF_INET, libc::AF_NETLINK, libc::AF_VSOCK, libc::AF_PACKET] {
            let family = rustix::net::AddressFamily::from_raw(family as u16);
            let socket = rustix::net::socket(family, rustix::net::SocketType::DGRAM, None);
            assert_eq!(socket.map(drop), Err(Errno::PERM), "{family:?}");
        }
    }

    #[test]
    fn vmm_makes_no_other_system_call() {
        if !in_own_process("sandbox::system_calls::tests::vmm_makes_no_other_system_call") {
            return;
        }
        let file: File = tempfile::tempfile().unwrap();
        ftruncate(&file, 1 << 20).unwrap();
        nix::sys::prctl::set_no_new_privs().unwrap();
        super::confine(VmmKind::Qemu).unwrap();
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
