//! A VM's network: a namespace of its own with one tap device. The same addresses in each, so there is nothing to allocate; two VMs
//! have no common wire. What may pass is in `vm.nft`, what control may change of it in [`policy`].

pub(crate) mod doctor;
pub(crate) mod names;
pub(crate) mod policy;
mod refusals;
mod rules;
pub(crate) mod uplink;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::command;
use crate::error::Error;
use names::Names;
use policy::Policy;
use uplink::Uplink;

const TAP: &str = "tap0";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
const MAC: [u8; 6] = *b"\x02rig\x00\x01";
/// The VM's address.
pub(crate) const VM_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const VM_MAC: [u8; 6] = *b"\x02rig\x00\x02";

/// The VM's network card, as a VMM is told.
pub(crate) fn vm_mac() -> String {
    VM_MAC.map(|byte| format!("{byte:02x}")).join(":")
}

/// Makes the namespace, kept by a mount at `path`, and the tap in it, which lives as long as its descriptor. Nothing passes before the
/// rules are there. `out` is the way out, for the VM in that slot.
pub(crate) fn create(path: &Path, policy: &Policy, out: Option<(&Uplink, u32)>) -> Result<OwnedFd, Error> {
    remove(path)?;
    File::create(path).map_err(Error::at("cannot be made", path))?;
    let (target, rules) = (path.to_owned(), rules::whole(policy));
    let tap = on_a_thread(path, move || -> io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount_own(&target)?;
        no_ipv6()?;
        let tap = rigbox_sys::network::create_tap(TAP)?;
        rules::apply(&rules)?;
        rigbox_sys::network::set_mac(TAP, MAC)?;
        rigbox_sys::network::bring_up("lo")?;
        rigbox_sys::network::set_address(TAP, ADDRESS, NETMASK)?;
        rigbox_sys::network::add_permanent_neighbor(TAP, VM_ADDRESS, VM_MAC)?;
        Ok(tap)
    })?;
    if let Some((uplink, slot)) = out {
        uplink.attach(path, slot)?;
    }
    Ok(tap)
}

/// Puts `policy` in force in a namespace; connections that it does not allow end.
pub(crate) fn set_policy(path: &Path, policy: &Policy, names: &Names) -> Result<(), Error> {
    names.set_policy(path, policy)?;
    destroy_unlisted(path, policy)
}

/// Puts what is on record in force once more, in a namespace that an earlier node made: when its rules are others, all are loaded.
pub(crate) fn renew(path: &Path, policy: &Policy, out: Option<(&Uplink, u32)>) -> Result<(), Error> {
    if let Some((uplink, slot)) = out {
        uplink.ensure_attached(path, slot)?;
    }
    let apply = |document: String| on_a_thread(path, in_namespace(path, move || rules::apply(&document)));
    apply(rules::of_policy(policy)).or_else(|_| apply(rules::whole(policy)))?;
    destroy_unlisted(path, policy)
}

/// So that whoever holds a socket to a port that is not listed any more hears of it.
fn destroy_unlisted(path: &Path, policy: &Policy) -> Result<(), Error> {
    // Not what the VM has opened to the services on this side of its wire: names, the check of TLS, the bridge.
    let dialled = format!("dst {VM_ADDRESS} and sport != :53 and sport != :8443 and sport != :9090");
    let kept: Vec<String> = policy.app_ports().map(|port| format!("dport != :{port}")).collect();
    let filter = [vec![dialled], kept].concat().join(" and ");
    on_a_thread(path, in_namespace(path, move || destroy_sockets(&["-t", &filter])))
}

/// Removes the namespace; one that is not there is fine. Sockets in it that somebody still holds end at once.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    if path.exists() {
        // What is no namespace (any more) has no sockets.
        let _ = on_a_thread(
            path,
            in_namespace(path, || {
                uplink::detach()?;
                destroy_sockets(&["-tua"])
            }),
        );
    }
    unmount(path)
}

/// Lets a namespace go that is kept at `path`.
fn unmount(path: &Path) -> Result<(), Error> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(errno) => return Err(Error::at("cannot be unmounted", path)(errno.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::at("cannot be removed", path)(error)),
        _ => Ok(()),
    }
}

/// Keeps the calling thread's namespace at `path`.
fn mount_own(path: &Path) -> io::Result<()> {
    let own = Some("/proc/thread-self/ns/net");
    Ok(mount(own, path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Moves the calling thread into the namespace at `path`.
pub(crate) fn enter(path: &Path) -> io::Result<()> {
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
}

/// `work`, in the namespace at `path`.
fn in_namespace<T>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> impl FnOnce() -> io::Result<T> + Send + 'static {
    let path = path.to_owned();
    move || {
        enter(&path)?;
        work()
    }
}

/// Runs on a thread of its own, because one that has left the host's namespace must not come back to the runtime. Programs that it
/// starts are in its namespace.
fn on_a_thread<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let thread = std::thread::Builder::new().name("netns".into()).spawn(work);
    let thread = thread.map_err(Error::system("a thread for a network namespace"))?;
    let done = thread.join();
    done.unwrap_or_else(|_| Err(io::Error::other("the thread for the network namespace panicked")))
        .map_err(Error::at("the network namespace", path))
}

/// A service's socket for the VM, bound at `ADDRESS` in the namespace at `path`.
pub(crate) fn service_socket(path: &Path, kind: SocketType, port: u16) -> Result<OwnedFd, Error> {
    on_a_thread(
        path,
        in_namespace(path, move || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
            // An earlier one may have connections that are not quite over.
            rustix::net::sockopt::set_socket_reuseaddr(&socket, kind == SocketType::STREAM)?;
            bind(&socket, &SocketAddrV4::new(ADDRESS, port))?;
            if kind == SocketType::STREAM {
                // As many as a VM may have of the bridge: they may come in one moment.
                listen(&socket, 128)?;
            }
            Ok(socket)
        }),
    )
}

/// A TCP socket in the namespace at `path`, on its way to port 443 of `address`: where the rules there let it.
pub(crate) fn socket_towards(path: &Path, address: Ipv4Addr) -> Result<OwnedFd, Error> {
    on_a_thread(
        path,
        in_namespace(path, move || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
            match rustix::net::connect(&socket, &SocketAddrV4::new(address, 443)) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
                Err(errno) => Err(errno.into()),
            }
        }),
    )
}

/// A netlink socket on which the kernel tells what the rules of the namespace at `path` refused.
pub(crate) fn refusals_socket(path: &Path) -> Result<OwnedFd, Error> {
    on_a_thread(path, in_namespace(path, refusals::subscribe))
}

/// Ends sockets of the calling thread's namespace, whoever holds them: they read an error at once.
fn destroy_sockets(which: &[&str]) -> io::Result<()> {
    let arguments = [&["-K", "-n", "-H"], which].concat();
    command::run("ss", &arguments).map(drop).map_err(io::Error::other)
}

/// No IPv6 in the calling thread's namespace, on any device. A kernel without it has no such files.
fn no_ipv6() -> io::Result<()> {
    for which in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        match fs::write(path, "1") {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
