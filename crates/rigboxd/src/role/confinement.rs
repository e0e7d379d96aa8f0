//! Bounds of a role that a stranger or a guest talks to: its system calls and its memory.

use std::io;

use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use rigbox_sys::seccomp::{Condition, Policy, install};

use crate::config::Role;

/// Maximum memory of guestio. It holds at most 1 MiB per call to a guest, and 1,024 calls.
const MAX_GUESTIO_BYTES: u64 = 2 << 30;
/// Maximum memory of edge. It holds at most 64 KiB per connection, and 40,000 connections.
const MAX_EDGE_BYTES: u64 = 4 << 30;
/// Maximum memory of the SSH gateway. It holds at most a few hundred KiB per session, and 10,000 connections.
const MAX_SSH_BYTES: u64 = 4 << 30;
/// Maximum memory of the AI proxy. It holds at most 16 bodies of 32 MiB several times over, and 1 MiB of each other call.
const MAX_AI_BYTES: u64 = 8 << 30;
/// Maximum memory of control, whose pools are bounded by number: this is what a leak may take before the supervisor restarts it.
const MAX_CONTROL_BYTES: u64 = 8 << 30;
/// Request by which a socket becomes non-blocking.
const FIONBIO: u64 = libc::FIONBIO;

/// Bounds the memory of `role`: an allocation beyond it fails, the role ends, and the supervisor starts it again.
pub(super) fn limit_memory(role: Role) -> nix::Result<()> {
    let bytes = match role {
        Role::Guestio => MAX_GUESTIO_BYTES,
        Role::Edge => MAX_EDGE_BYTES,
        Role::Ssh => MAX_SSH_BYTES,
        Role::Ai => MAX_AI_BYTES,
        Role::Control => MAX_CONTROL_BYTES,
        Role::Node => return Ok(()),
    };
    // Private writable memory, unlike `RLIMIT_AS`, which also counts what the allocator only reserves.
    setrlimit(Resource::RLIMIT_DATA, bytes, bytes)
}

/// Limits `role` to the system calls it needs, if it is one that parses what strangers or guests send: no way to start a process, to mount,
/// to trace, to load code into the kernel, or to open a socket of another kind than its own.
pub(super) fn limit_system_calls(role: Role) -> io::Result<()> {
    let families: &[i32] = match role {
        // Their own sockets lead to the resolvers and to providers; those of VMs come from the node.
        Role::Guestio | Role::Ai => &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6],
        // They are bound already.
        Role::Edge | Role::Ssh => &[libc::AF_UNIX],
        Role::Control | Role::Node => return Ok(()),
    };
    let condition = |call, argument, value: u64| Condition { call, argument, mask: u32::MAX.into(), value };
    let family = |call, family: i32| condition(call, 0, family.unsigned_abs().into());
    let mut conditional =
        vec![condition(libc::SYS_ioctl, 1, FIONBIO), family(libc::SYS_socketpair, libc::AF_UNIX)];
    conditional.extend(families.iter().map(|number| family(libc::SYS_socket, *number)));
    let allowed = [
        libc::SYS_bind,
        libc::SYS_chmod,
        libc::SYS_connect,
        libc::SYS_getdents64,
        libc::SYS_getppid,
        libc::SYS_listen,
        libc::SYS_prlimit64,
        libc::SYS_unlink,
    ];
    install(Policy { allowed: &allowed, conditional: &conditional, punch_holes: false })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use rigbox_testkit::in_own_process;

    use super::*;

    /// Runs `check` under the bounds of `role`.
    fn confined(role: Role, test: &str, check: fn()) {
        if in_own_process(&format!("role::confinement::tests::{test}")) {
            nix::sys::prctl::set_no_new_privs().unwrap();
            limit_memory(role).unwrap();
            limit_system_calls(role).unwrap();
            check();
        }
    }

    fn refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    fn starts_no_process_and_serves() {
        assert!(refused(Command::new("/bin/true").spawn()));
        assert!(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).is_err());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (one, two) = tokio::net::UnixStream::pair().unwrap();
            let (_, mut write) = one.into_split();
            let (mut read, _) = two.into_split();
            tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut write, b"x").await });
            assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut read).await.unwrap(), b'x');
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        });
        assert!(UnixStream::pair().is_ok());
    }

    #[test]
    fn guestio_starts_no_process_and_opens_few_kinds_of_sockets() {
        confined(Role::Guestio, "guestio_starts_no_process_and_opens_few_kinds_of_sockets", || {
            starts_no_process_and_serves();
            assert!(UdpSocket::bind("127.0.0.1:0").is_ok());
            use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
            let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), None);
            assert_eq!(netlink.map(drop), Err(nix::errno::Errno::EPERM));
        });
    }

    #[test]
    fn edge_opens_no_socket_on_the_network() {
        confined(Role::Edge, "edge_opens_no_socket_on_the_network", opens_no_socket_on_the_network);
    }

    #[test]
    fn ssh_opens_no_socket_on_the_network() {
        confined(Role::Ssh, "ssh_opens_no_socket_on_the_network", opens_no_socket_on_the_network);
    }

    fn opens_no_socket_on_the_network() {
        starts_no_process_and_serves();
        assert!(refused(TcpListener::bind("127.0.0.1:0")) && refused(UdpSocket::bind("127.0.0.1:0")));
    }

    #[test]
    fn allocation_beyond_the_bound_fails() {
        confined(Role::Guestio, "allocation_beyond_the_bound_fails", || {
            assert!(Vec::<u8>::new().try_reserve_exact(1 << 30).is_ok());
            assert!(Vec::<u8>::new().try_reserve_exact(3 << 30).is_err());
        });
    }
}
