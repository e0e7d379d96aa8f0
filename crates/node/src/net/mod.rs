//! Network of a VM: a namespace of its own with one tap device. All namespaces use the same addresses, so there is nothing to allocate,
//! and no two VMs share a link. The rules are in `vm.nft`; the part that control may change is in [`policy`].

pub(crate) mod admitted_names;
mod conntrack;
pub(crate) mod dialer;
pub(crate) mod doctor;
#[cfg(test)]
mod fuzz;
mod limit_rules;
mod netlink;
mod nflog;
pub(crate) mod policy;
pub(crate) mod roles;
mod rules;
#[cfg(test)]
mod testbed;
#[cfg(test)]
mod tests;
pub(crate) mod uplink;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::command;
use crate::config::Config;
use crate::error::Error;
use admitted_names::AdmittedNames;
use dialer::SSH_PORT;
use policy::Policy;
use uplink::Uplink;

/// Name of the tap device in each VM's namespace.
pub(crate) const TAP: &str = "tap0";
/// Address of the host's end of the link.
const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
const HOST_MAC: [u8; 6] = *b"\x02rig\x00\x01";
/// Address of every VM, within its own namespace.
pub(crate) const VM_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
/// Backlog of a service's socket: connections to the bridge may arrive at once, up to their default limit.
const SERVICE_BACKLOG: i32 = 128;
/// Minimum, initial and maximum size of a connection's buffers, in bytes.
const TCP_BUFFERS: &str = "4096 65536 524288";
const VM_MAC: [u8; 6] = *b"\x02rig\x00\x02";

/// Returns the MAC address of the VM's network card in text form.
pub(crate) fn vm_mac() -> String {
    VM_MAC.map(|byte| format!("{byte:02x}")).join(":")
}

/// Creates the namespace, kept alive by a mount at `path`, and returns the tap device in it, which exists as long as its descriptor. No
/// packet passes before the rules are loaded. `uplink` attaches the namespace to the outside, for the VM in that slot.
pub(crate) fn create(
    config: &Config,
    path: &Path,
    policy: &Policy,
    uplink: Option<(&Uplink, u32)>,
) -> Result<OwnedFd, Error> {
    remove(path, uplink.map(|(uplink, _)| uplink))?;
    File::create(path).map_err(Error::at("create", path))?;
    let (target, rules) = (path.to_owned(), rules::full_ruleset(&config.network, policy));
    let make = move || -> io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount_own_namespace(&target)?;
        disable_ipv6()?;
        let tap = rigbox_sys::network::create_tap(TAP)?;
        rules::apply(&rules)?;
        reserve_service_ports()?;
        limit_buffers()?;
        rigbox_sys::network::set_mac(TAP, HOST_MAC)?;
        rigbox_sys::network::bring_up("lo")?;
        rigbox_sys::network::set_address(TAP, HOST_ADDRESS, NETMASK)?;
        rigbox_sys::network::add_permanent_neighbor(TAP, VM_ADDRESS, VM_MAC)?;
        Ok(tap)
    };
    // In two namespaces, and each runs a program.
    let (tap, limited) = std::thread::scope(|scope| {
        let limited =
            uplink.map(|(uplink, slot)| scope.spawn(move || limit_connections(config, policy, uplink, slot)));
        (on_thread(path, make), limited.map(std::thread::ScopedJoinHandle::join))
    });
    let tap = tap?;
    if let Some(limited) = limited {
        limited.unwrap_or_else(|panic| resume_unwind(panic))?;
    }
    if let Some((uplink, slot)) = uplink {
        uplink.attach(path, slot)?;
    }
    Ok(tap)
}

/// Puts `policy` in force in a namespace and closes connections that it does not allow.
pub(crate) fn set_policy(
    config: &Config,
    path: &Path,
    policy: &Policy,
    admitted_names: &AdmittedNames,
    uplink: Option<(&Uplink, u32)>,
) -> Result<(), Error> {
    if let Some((uplink, slot)) = uplink {
        limit_connections(config, policy, uplink, slot)?;
    }
    admitted_names.set_policy(&config.network, path, policy)?;
    close_unlisted_connections(path, policy)
}

/// Lets nothing pass in a namespace, or all that its rules allow. What is open stays open.
pub(crate) fn set_link(path: &Path, is_open: bool) -> Result<(), Error> {
    on_thread(path, in_namespace(path, move || rules::apply(&rules::link(is_open))))
}

/// Limits a VM's connections behind its own namespace too, in which it could make the kernel forget some.
fn limit_connections(config: &Config, policy: &Policy, uplink: &Uplink, slot: u32) -> Result<(), Error> {
    let node = config.network.limits;
    let connections = policy.limits(node).connections;
    uplink.limit_connections(slot, (connections < node.connections).then_some(connections))
}

/// Restores the recorded policy in a namespace that an earlier node created. If that one has other rules, the full ruleset is loaded.
pub(crate) fn restore(
    config: &Config,
    path: &Path,
    policy: &Policy,
    uplink: Option<(&Uplink, u32)>,
) -> Result<(), Error> {
    if let Some((uplink, slot)) = uplink {
        uplink.ensure_attached(path, slot)?;
        limit_connections(config, policy, uplink, slot)?;
    }
    let (network, recorded) = (config.network.clone(), policy.clone());
    let restore = move || {
        reserve_service_ports()?;
        rules::restore(&network, &recorded)
    };
    on_thread(path, in_namespace(path, restore))?;
    close_unlisted_connections(path, policy)
}

/// Closes connections to ports of apps that are no longer listed, so that their holders get an error.
fn close_unlisted_connections(path: &Path, policy: &Policy) -> Result<(), Error> {
    // Excludes the VM's own connections to the services on this end of the link: DNS, the checks, the bridge.
    let dialed = [format!("dst {VM_ADDRESS}")].into_iter();
    let services = [53, 8080, 8443, 9090].into_iter().map(|port| format!("sport != :{port}"));
    let ssh = [format!("dport != :{SSH_PORT}")];
    let listed = policy.app_ports().map(|port| format!("dport != :{port}"));
    let filter = dialed.chain(services).chain(ssh).chain(listed).collect::<Vec<_>>().join(" and ");
    on_thread(path, in_namespace(path, move || destroy_sockets(&["-t", &filter])))
}

/// Removes the namespace, if it exists, and the VM's connections through `uplink`. Sockets in it that are still open fail at once.
pub(crate) fn remove(path: &Path, uplink: Option<&Uplink>) -> Result<(), Error> {
    if path.exists() {
        let detach = || {
            let address = uplink::detach()?;
            destroy_sockets(&["-tua"])?;
            Ok(address)
        };
        // Fails if `path` is not (or no longer) a namespace, which then has no sockets.
        let address = on_thread(path, in_namespace(path, detach)).ok().flatten();
        if let (Some(uplink), Some(address)) = (uplink, address) {
            uplink.forget_connections(address)?;
        }
    }
    unmount(path)
}

/// Unmounts the namespace at `path` and removes the file.
fn unmount(path: &Path) -> Result<(), Error> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(errno) => return Err(Error::at("unmount", path)(errno.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Mounts the calling thread's namespace at `path`, which keeps it alive.
fn mount_own_namespace(path: &Path) -> io::Result<()> {
    let source = Some("/proc/thread-self/ns/net");
    Ok(mount(source, path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Moves the calling thread into the namespace at `path`.
pub(crate) fn enter(path: &Path) -> io::Result<()> {
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
}

/// Returns a closure that runs `work` in the namespace at `path`.
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

/// Runs `work` on a thread of its own, because a thread that has left the host's namespace must not return to the runtime. Programs that
/// `work` starts run in its namespace.
fn on_thread<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let thread = std::thread::Builder::new().name("netns".into()).spawn(work);
    let thread = thread.map_err(Error::system("spawn a thread for a network namespace"))?;
    let result = thread.join();
    result
        .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        .map_err(Error::at("configure network namespace", path))
}

/// Creates a socket for a service to the VM, bound to the host's address in the namespace at `path`.
pub(crate) fn service_socket(path: &Path, kind: SocketType, port: u16) -> Result<OwnedFd, Error> {
    on_thread(
        path,
        in_namespace(path, move || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
            // An earlier socket may still have closing connections.
            rustix::net::sockopt::set_socket_reuseaddr(&socket, kind == SocketType::STREAM)?;
            bind(&socket, &SocketAddrV4::new(HOST_ADDRESS, port))?;
            if kind == SocketType::STREAM {
                listen(&socket, SERVICE_BACKLOG)?;
            }
            Ok(socket)
        }),
    )
}

/// Creates a TCP socket in the namespace at `path` that is connecting to `address`, subject to the rules there.
pub(crate) fn connect_checked(path: &Path, address: Ipv4Addr, port: u16) -> Result<OwnedFd, Error> {
    on_thread(
        path,
        in_namespace(path, move || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
            match rustix::net::connect(&socket, &SocketAddrV4::new(address, port)) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
                Err(errno) => Err(errno.into()),
            }
        }),
    )
}

/// Creates a netlink socket that receives the packets refused by the rules of the namespace at `path`.
pub(crate) fn nflog_socket(path: &Path) -> Result<OwnedFd, Error> {
    on_thread(path, in_namespace(path, nflog::subscribe))
}

/// Closes sockets of the calling thread's namespace, whichever process holds them. Reads and writes then fail at once.
fn destroy_sockets(filter: &[&str]) -> io::Result<()> {
    let arguments = [&["-K", "-n", "-H"], filter].concat();
    command::run("ss", &arguments).map(drop).map_err(io::Error::other)
}

/// Reserves the ports of the services for root, in the calling thread's namespace. A gateway has sockets there, and could bind one to a
/// port whose service is being restarted. The kernel accepts no higher number, because it assigns ports from there on by itself.
fn reserve_service_ports() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "32768")
}

/// Bounds the kernel's memory for a connection in the calling thread's namespace. It is charged to nobody, and a VM has many connections
/// that it need not read. Ample for a link without latency.
fn limit_buffers() -> io::Result<()> {
    for setting in ["tcp_rmem", "tcp_wmem"] {
        fs::write(format!("/proc/sys/net/ipv4/{setting}"), TCP_BUFFERS)?;
    }
    Ok(())
}

/// Disables IPv6 on all devices of the calling thread's namespace. A kernel without IPv6 has no such files.
fn disable_ipv6() -> io::Result<()> {
    for scope in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        match fs::write(path, "1") {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
